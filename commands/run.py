"""``fl2ora run``: one experiment from a configuration to its table."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fl2ora.commands.metric_tables import print_metrics
from fl2ora.commands.settings import read_settings
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.spec import parse_spec
from fl2ora.reporting.run_directory import runs_root
from fl2ora.reporting.tables import metrics_table, shown_metrics, shown_rows


class Engine(StrEnum):
    """Where clients run."""

    RAY = "ray"
    IN_PROCESS = "in-process"


def run(
    config: Annotated[
        Path | None, typer.Argument(help="TOML file with run-config keys.", show_default=False)
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set one key; repeatable."),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="Flower's Ray simulation, or everything in this process.")
    ] = Engine.RAY,
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 10,
    client_cpus: Annotated[
        int, typer.Option(min=1, help="Ray: CPUs reserved for each client at work.")
    ] = 1,
    client_gpus: Annotated[
        float, typer.Option(min=0, help="Ray: share of a GPU for each client; 0 hides the GPU.")
    ] = 0.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="End the output with one JSON line.")
    ] = False,
) -> None:
    """Fine-tune CLIP over federated clients and report accuracy and calibration."""
    settings = read_settings(config, assignments or [])
    settings = {"num-clients": clients, **settings}
    if not settings.get("run-name"):
        settings["run-name"] = _name(settings)
    if not settings.get("output-dir"):
        settings["output-dir"] = str(Path.cwd() / "runs")
    run_config, problems = RunConfig.usable(settings)
    if run_config.num_clients not in (0, clients):
        problems += (
            f"num-clients: expected {clients}, the number of --clients, or 0 for all of them, "
            f"found {run_config.num_clients}",
        )
    # Imported here so that a mistake on the command line is answered before torch is loaded.
    from fl2ora.server_app.run_plugins import build_plugins

    build_plugins(run_config, problems)
    folder = runs_root(run_config.output_dir) / run_config.run_name
    console = Console(stderr=as_json, highlight=False)
    console.print(f"Run directory: {folder}", markup=False, soft_wrap=True)
    started = time.monotonic()
    if engine is Engine.IN_PROCESS:
        from fl2ora.engines.in_process import run_in_process

        run_in_process(run_config, clients, folder, console)
    else:
        from fl2ora.engines.ray import Resources, run_on_ray

        run_on_ray(run_config, Resources(clients, client_cpus, client_gpus), folder, console)
    _report(console, folder, time.monotonic() - started)
    if as_json:
        print(json.dumps(_outcome(folder, run_config)))


def _name(settings: dict[str, bool | int | float | str]) -> str:
    """Return a readable name for the run: when, and what."""
    given = RunConfig.usable(settings)[0]
    words = [parse_spec(text).name for text in (given.method, given.strategy)]
    return "-".join([time.strftime("%Y%m%d-%H%M%S"), *words])


def _report(console: Console, folder: Path, seconds: float) -> None:
    """Print the table of the central held-out set."""
    metrics = metrics_table(folder)
    rows = shown_rows(metrics, "server-test")
    if not rows:
        raise UserError(f"{folder}: the run left no metrics")
    head = ["round", *(metric.title for metric in shown_metrics(metrics))]
    print_metrics(console, "Central held-out set (server-test)", head, rows)
    console.print(f"{seconds:.0f} s. Everything is in {folder}", markup=False, soft_wrap=True)


def _outcome(folder: Path, config: RunConfig) -> dict[str, object]:
    """Return what ``--json`` prints."""
    table = metrics_table(folder)
    last = table[table["source"] == "server-test"].sort_values("round").iloc[-1]
    final = {
        name: None if value != value else value
        for name, value in last.items()
        if name not in ("round", "source")
    }
    return {"run_dir": str(folder), "rounds": config.num_rounds, "final": final}
