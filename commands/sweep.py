"""``fl2ora sweep``: every combination of a grid of settings, unattended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fl2ora.commands.consoles import console_for
from fl2ora.commands.options import AsJson
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import made_absolute
from fl2ora.experiment.sweep_file import read_sweep
from fl2ora.experiment.toml_file import read_toml
from fl2ora.reporting.run_directory import OUTPUT_VARIABLE

if TYPE_CHECKING:
    from rich.console import Console

    from fl2ora.reporting.sweep_folder import SweepRecord

_NAMED = 20  # failed cells


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", show_default=False, help="The sweep's folder; see above for default."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=1024, help="Runs at a time; 0: as this machine allows.")
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and list all cells, and run none.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = None,
) -> None:
    """Run every combination of a grid of settings, several at a time.

    FILE is a TOML file with axes, fixed settings and seeds (docs/experiments.md). The folder is
    named like FILE and made in $FL2ORA_OUTPUT_DIR, or in ./runs. After an
    interruption, or where a run failed, the same command goes on; runs that are done stay done.
    """
    set_verbosity(verbose)
    content = read_toml(file)
    wanted = read_sweep(content)
    cells = wanted.cells()
    root = Path(made_absolute(str(output))) if output is not None else _default_folder(file)
    console = console_for(stderr=as_json)
    # Imported here so that a mistake in the file is answered before torch is loaded.
    from fl2ora.engines.sweep import SweepRun
    from fl2ora.engines.sweep_cells import Jobs
    from fl2ora.engines.sweep_view import SweepView

    jobs = Jobs(root)
    if dry_run:
        jobs.check(cells, wanted.select)
        for cell in cells:
            console.print(str(cell), markup=False, soft_wrap=True)
        console.print(f"{len(cells)} cells", soft_wrap=True)
        return
    console.print(f"Sweep directory: {root}", markup=False, soft_wrap=True)
    record = SweepRun(wanted, content, root, jobs, SweepView(console), workers).run()
    _report(console, root, record)
    if as_json:
        print(json.dumps(_outcome(root, record)))
    _fail_if_any_failed(record)


def _default_folder(file: Path) -> Path:
    return Path(made_absolute(os.environ.get(OUTPUT_VARIABLE, "") or "runs")) / file.stem


def _report(console: Console, root: Path, record: SweepRecord) -> None:
    states = [cell.state for cell in record.cells]
    console.print(
        f"{states.count('done')} of {len(states)} cells are done. Everything is in {root}; "
        f"'fl2ora report {root}' makes tables and a page of it.",
        markup=False,
        soft_wrap=True,
    )


def _outcome(root: Path, record: SweepRecord) -> dict[str, Any]:
    return {
        "sweep_dir": str(root),
        "cells": len(record.cells),
        "done": sum(cell.state == "done" for cell in record.cells),
        "failed": [
            {"labels": cell.labels, "seed": cell.seed, "reason": cell.reason}
            for cell in record.cells
            if cell.state == "failed"
        ],
    }


def _fail_if_any_failed(record: SweepRecord) -> None:
    failed = [cell for cell in record.cells if cell.state == "failed"]
    if not failed:
        return
    lines = []
    for cell in failed[:_NAMED]:
        labels = ", ".join(f"{axis}={label}" for axis, label in cell.labels.items())
        lines.append(f"  - {labels}, seed {cell.seed}: {cell.reason}")
    if len(failed) > _NAMED:
        lines.append(f"  - and {len(failed) - _NAMED} more")
    raise UserError(f"{len(failed)} of {len(record.cells)} cells failed:\n" + "\n".join(lines))
