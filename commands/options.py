"""Options that several commands have, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key; repeatable."),
]
ClientCpus = Annotated[int, typer.Option(min=1, help="Ray: CPUs reserved for each client at work.")]
ClientGpus = Annotated[
    float, typer.Option(min=0, help="Ray: share of a GPU for each client; 0 hides the GPU.")
]
AsJson = Annotated[bool, typer.Option("--json", help="End the output with one JSON line.")]
Trained = Annotated[Path, typer.Argument(metavar="RUN", show_default=False)]
FittedSpec = Annotated[
    str | None,
    typer.Option(
        "--calibrator",
        show_default=False,
        help="One that was fitted to the run, or none; the run's own if left out.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
