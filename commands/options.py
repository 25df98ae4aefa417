"""Options that several commands have, each said once."""

from __future__ import annotations

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
