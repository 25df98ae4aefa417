"""``fl2ora export``: a run's result for other libraries."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fl2ora.commands.consoles import console_for
from fl2ora.commands.options import AsJson, FittedSpec
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.experiment.paths import made_absolute


class Format(StrEnum):
    """What is written."""

    MERGED = "merged"
    PEFT = "peft"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", show_default=False)],
    kind: Annotated[
        Format,
        typer.Option("--format", help="A whole CLIP for transformers, or a LoRA adapter for peft."),
    ] = Format.MERGED,
    calibrator: FittedSpec = None,
    as_json: AsJson = False,
    verbose: Verbose = None,
) -> None:
    """Write the result of a run as transformers or peft load it, with its calibrator and a card.

    RUN is the folder of a finished run, OUT a new folder. What is written is loaded again, and its
    logits are compared with the run's. 'fl2ora predict OUT IMAGE...' uses it with its calibrator.
    """
    set_verbosity(verbose)
    console = console_for(stderr=as_json)
    # Imported here so that a mistake on the command line is answered before torch is loaded.
    from fl2ora.results import exporting
    from fl2ora.results.loading import source_at

    out = Path(made_absolute(str(out)))
    with console.status("writing, loading again and comparing"):
        found = exporting.export(source_at(run), out, kind.value, calibrator)
    console.print(
        f"{kind.value} in {out.absolute()}; cosines of images and classes differ from the run's by "
        f"{found.difference:.1g} at most",
        markup=False,
        soft_wrap=True,
    )
    console.print(found.calibrator.strip(), markup=False, soft_wrap=True)
    if as_json:
        print(
            json.dumps(
                {
                    "folder": str(out.absolute()),
                    "format": kind.value,
                    "largest_difference": found.difference,
                }
            )
        )
