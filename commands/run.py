"""``fl2ora run``: one experiment from a configuration to its table."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fl2ora.commands.consoles import console_for
from fl2ora.commands.metric_tables import print_metrics
from fl2ora.commands.options import AsJson, Assignments, ClientCpus, ClientGpus
from fl2ora.commands.settings import read_settings
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.engines.new_run import claimed, described, settings_of
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import RunInterruptedError, UserError, printable
from fl2ora.reporting.events import EVENTS_FILE, read_lines
from fl2ora.reporting.set_tables import HEAD, last_set_rows
from fl2ora.reporting.sources import (
    CALIBRATED,
    CLIENTS_TEST,
    SERVER_TEST,
    central_sources,
    main_source,
    own_sources,
    title_of,
)
from fl2ora.reporting.tables import (
    last_rows,
    metrics_table,
    rows_with_calibrated,
    shown_metrics,
)

if TYPE_CHECKING:
    import pandas as pd


class Engine(StrEnum):
    """Where clients run."""

    RAY = "ray"
    IN_PROCESS = "in-process"


def run(
    # Arguments are explained in the docstrings: typer 0.20 loses their help under click 8.5.
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", show_default=False)] = None,
    assignments: Assignments = None,
    engine: Annotated[
        Engine, typer.Option(help="Flower's Ray simulation, or everything in this process.")
    ] = Engine.RAY,
    clients: Annotated[
        int | None, typer.Option(min=1, help="Number of clients; 10 if it is not given.")
    ] = None,
    client_cpus: ClientCpus = 1,
    client_gpus: ClientGpus = 0.0,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN_DIR", help="Go on with an interrupted run, with its settings."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Resume with changed settings or code, on record.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = None,
) -> None:
    """Fine-tune CLIP over federated clients and report accuracy and calibration.

    FILE is a TOML file with keys such as num-rounds and strategy; what it leaves out has its
    default ('fl2ora keys'). Without output-dir the run's folder is made in $FL2ORA_OUTPUT_DIR, or
    in ./runs. A run that was interrupted goes on by --resume.
    """
    set_verbosity(verbose)
    settings = read_settings(file, assignments or [])
    if force and resume is None:
        raise UserError("--force: expected --resume RUN_DIR with it")
    before = {} if resume is None else {**settings_of(resume), "force-resume": force}
    known = before.get("num-clients", 0)
    clients = clients or (known if isinstance(known, int) and known > 0 else 10)
    settings = {**before, **settings}
    given, problems = described(settings, clients)
    # Imported here so that a mistake on the command line is answered before torch is loaded.
    from fl2ora.server_app.run_plugins import build_plugins

    build_plugins(given, problems)
    console = console_for(stderr=as_json)
    started = time.monotonic()
    with claimed(given) as (run_config, folder):
        console.print(f"Run directory: {folder}", markup=False, soft_wrap=True)
        resources = (clients, client_cpus, client_gpus)
        try:
            execute(run_config, folder, console, engine, resources)
        except KeyboardInterrupt:
            _say_how_to_go_on(folder)
            raise
    _report(console, folder, time.monotonic() - started)
    if as_json:
        print(json.dumps(_outcome(folder, run_config)))


def execute(
    config: RunConfig,
    folder: Path,
    console: Console,
    engine: Engine,
    resources: tuple[int, int, float],
) -> None:
    """Run ``config`` to its end in ``folder``.

    Args:
        config: of the run.
        folder: that the config leads to.
        console: where to show progress.
        engine: where clients run.
        resources: number of clients, CPUs and share of a GPU of each.
    """
    if engine is Engine.IN_PROCESS:
        from fl2ora.engines.in_process import run_in_process

        run_in_process(config, resources[0], folder, console)
    else:
        from fl2ora.engines.ray import Resources, run_on_ray

        run_on_ray(config, Resources(*resources), folder, console)


def _say_how_to_go_on(folder: Path) -> None:
    """End with the command that goes on, where a run that was ended at once has a checkpoint.

    Raises:
        RunInterruptedError: it has one.
    """
    from fl2ora.server_app.checkpoint import rounds_saved

    if saved := rounds_saved(folder):
        raise RunInterruptedError(
            f"ended at once, the last checkpoint is of round {saved[-1]}; "
            f"to go on: fl2ora run --resume {folder}"
        ) from None


def _report(console: Console, folder: Path, seconds: float) -> None:
    """Print the table of each held-out part; of the clients where there is no central one."""
    metrics = metrics_table(folder)
    head = ["round", *(metric.title for metric in shown_metrics(metrics))]
    sources = central_sources(metrics["source"]) or [CLIENTS_TEST]
    sources += own_sources(metrics["source"])
    tables = {source: rows_with_calibrated(metrics, source) for source in sources}
    if not any(tables.values()):
        raise UserError(f"{folder}: the run left no metrics")
    for source, rows in tables.items():
        print_metrics(console, printable(title_of(source)), head, rows)
    if len(tables) > 1:
        last = last_rows(metrics, sources)
        print_metrics(console, "After the last round", ["part", *head[1:]], last)
    if sets := last_set_rows(metrics):
        print_metrics(console, "Sets of classes", HEAD, sets)
    console.print(f"{seconds:.0f} s. Everything is in {folder}", markup=False, soft_wrap=True)


def _outcome(folder: Path, config: RunConfig) -> dict[str, object]:
    """Return what ``--json`` prints."""
    table = metrics_table(folder)
    outcome: dict[str, object] = {"run_dir": str(folder), "rounds": config.num_rounds}
    said = [row for row in read_lines(folder / EVENTS_FILE) if row["event"] == "outcome"][-1]
    outcome |= {key: said[key] for key in ("updates", "asked", "warning")}
    found = _last_values(table)
    main = main_source(found)
    for key, source in (("final", main), ("calibrated", main + CALIBRATED)):
        if source in found:
            outcome[key] = found[source]
    parts = [*central_sources(found), *own_sources(found)]
    if parts and parts != [SERVER_TEST]:
        names = [name for part in parts for name in (part, part + CALIBRATED) if name in found]
        outcome["parts"] = {
            name: {key: value for key, value in found[name].items() if value is not None}
            for name in names
        }
    return outcome


def _last_values(table: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Return the metrics of each source after the last round that measured it."""
    last = table.sort_values("round", kind="stable").drop_duplicates("source", keep="last")
    rows = {str(row["source"]): _values(row) for row in last.to_dict("records")}
    return {source: rows[source] for source in dict.fromkeys(map(str, table["source"]))}


def _values(row: Mapping[Any, Any]) -> dict[str, float | None]:
    """Return a row's metrics; JSON has no NaN."""
    return {
        str(name): None if value != value else value
        for name, value in row.items()
        if name not in ("round", "source")
    }
