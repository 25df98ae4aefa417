"""``fl2ora domains``: every domain left out in turn, each a run of its own, and their mean."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fl2ora.commands.consoles import console_for
from fl2ora.commands.metric_tables import print_metrics
from fl2ora.commands.options import AsJson, Assignments, ClientCpus, ClientGpus
from fl2ora.commands.run import Engine, execute
from fl2ora.commands.settings import read_settings
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.engines.new_run import described
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import ConfigError, UserError, listed, shown
from fl2ora.experiment.spec import parse_spec
from fl2ora.reporting.events import EVENTS_FILE, read_lines
from fl2ora.reporting.run_directory import runs_root
from fl2ora.reporting.run_file import RunFile
from fl2ora.reporting.tables import shown_metrics, shown_rows
from fl2ora.reporting.whole_files import whole_file, write_whole

if TYPE_CHECKING:
    import pandas as pd

_PROTOCOLS = ("in_distribution", "leave_one_domain_out")  # the default, and what is set here
MEAN = "mean"


def domains(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", show_default=False)] = None,
    assignments: Assignments = None,
    engine: Annotated[
        Engine, typer.Option(help="Flower's Ray simulation, or everything in this process.")
    ] = Engine.RAY,
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 10,
    client_cpus: ClientCpus = 1,
    client_gpus: ClientGpus = 0.0,
    as_json: AsJson = False,
    verbose: Verbose = None,
) -> None:
    """Leave each domain of the dataset out in turn and report all of them and their mean.

    FILE and --set are those of 'fl2ora run'. There is one run for each domain, with protocol =
    leave_one_domain_out. All runs lie in one folder, named by run-name; after an interruption the
    same command goes on with those that are not finished. The table is in domains.csv and
    domains.md.
    """
    set_verbosity(verbose)
    given, problems = described(read_settings(file, assignments or []), clients)
    # Imported here so that a mistake on the command line is answered before torch is loaded.
    from fl2ora.server_app.run_plugins import build_plugins

    build_plugins(given, problems)
    series = _series(given)
    runs = {name: _config_of(given, series, name, number) for number, name in _named(given)}
    console = console_for(stderr=as_json)
    console.print(f"Folder of all runs: {series}", markup=False, soft_wrap=True)
    for domain, config in runs.items():
        folder = series / config.run_name
        if _is_finished(folder, config):
            console.print(f"{domain}: finished in {folder}", markup=False, soft_wrap=True)
            continue
        console.print(f"{domain}: {folder}", markup=False, soft_wrap=True)
        try:
            execute(config, folder, console, engine, (clients, client_cpus, client_gpus))
        except UserError as error:
            raise UserError(f"domain {domain!r}: {error}") from error
    table = domain_table({domain: series / config.run_name for domain, config in runs.items()})
    _report(console, series, table)
    if as_json:
        print(json.dumps({"folder": str(series), "domains": _values(table)}))


def _named(config: RunConfig) -> list[tuple[int, str]]:
    """Return the dataset's domains with their numbers.

    Raises:
        ConfigError: there are fewer than two, or another protocol is set.
    """
    from fl2ora.experiment.plugins import load
    from fl2ora.federated_data.datasets.base import Dataset
    from fl2ora.federated_data.shares import NO_DATA

    problems = []
    if parse_spec(config.protocol).name not in _PROTOCOLS:
        problems.append(
            "protocol: expected none, as 'fl2ora domains' sets leave_one_domain_out, "
            f"found {shown(config.protocol)}"
        )
    if config.resume:
        problems.append(
            "resume: expected none, as the same command goes on where it was stopped, found "
            f"{shown(config.resume)}"
        )
    names = () if config.dataset == NO_DATA else load(config.dataset, Dataset).domains
    if len(names) < 2:
        problems.append(
            f"dataset: expected one with two or more domains, found {listed(names)} in "
            f"{shown(config.dataset)}"
        )
    if problems:
        raise ConfigError(problems)
    return list(enumerate(names))


def _series(config: RunConfig) -> Path:
    """Return the folder of all runs: the same for the same settings, whenever they are given."""
    root = runs_root(config.output_dir)
    if config.run_name:
        return root / config.run_name
    settings = json.dumps(config.flat(), sort_keys=True).encode()
    digest = hashlib.blake2b(settings, digest_size=4).hexdigest()
    words = [parse_spec(text).name for text in (config.method, config.strategy)]
    return root / "-".join(["domains", *words, digest])


def _config_of(config: RunConfig, series: Path, domain: str, number: int) -> RunConfig:
    name = re.sub(r"[^\w-]", "_", domain)[:80].strip("_") or "domain"
    settings = {
        **config.flat(),
        "protocol": f"leave_one_domain_out(domain={domain!r})",
        "output-dir": str(series),
        "run-name": f"{number}-{name}",
    }
    return RunConfig.from_flat(settings)


def _is_finished(folder: Path, config: RunConfig) -> bool:
    """Return whether a run with these settings has come to its end here.

    Raises:
        UserError: a run with other settings has.
    """
    events = read_lines(folder / EVENTS_FILE)
    if not events or events[-1].get("event") != "finished":
        return False
    kept = RunFile.read(folder).config
    differing = [key for key, value in config.flat().items() if kept.get(key) != value]
    if differing:
        raise UserError(
            f"run-name: {folder} holds a finished run with another {listed(differing)}: choose "
            "another name, or take the folder away"
        )
    return True


def domain_table(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Return the metrics of each domain, and their plain means.

    Args:
        folders: of the finished runs by the domain they left out.

    Returns:
        Columns ``domain``, ``stage`` (``zero-shot``, ``final``, ``calibrated``) and the metrics.
    """
    import pandas as pd

    from fl2ora.calibration.metrics.table import METRICS
    from fl2ora.reporting.sources import CALIBRATED, SERVER_TEST
    from fl2ora.reporting.tables import metrics_table
    from fl2ora.server_app.metrics_by_source import mean_of_parts

    rows: list[dict[str, object]] = []
    stages: dict[str, list[dict[str, float]]] = {}
    for domain, folder in folders.items():
        table = metrics_table(folder)
        plain = table[table["source"] == SERVER_TEST].sort_values("round")
        calibrated = table[table["source"] == SERVER_TEST + CALIBRATED]
        found = {"zero-shot": plain.head(1), "final": plain.tail(1), "calibrated": calibrated}
        for stage, frame in found.items():
            for row in frame.drop(columns=["round", "source"]).to_dict("records"):
                values = {str(name): float(value) for name, value in row.items() if value == value}
                rows.append({"domain": domain, "stage": stage, **values})
                stages.setdefault(stage, []).append(values)
    for stage, parts in stages.items():
        if len(parts) == len(folders):
            rows.append({"domain": MEAN, "stage": stage, **mean_of_parts(parts, METRICS)})
    return pd.DataFrame(rows)


def _report(console: Console, series: Path, table: pd.DataFrame) -> None:
    """Write the table and print it."""
    with whole_file(series / "domains.csv") as part:
        table.to_csv(part, index=False)
    head = ["left out", *(metric.title for metric in shown_metrics(table))]
    lines = ["# Leave-one-domain-out", ""]
    for stage in dict.fromkeys(table["stage"]):
        rows = _rows(table[table["stage"] == stage])
        print_metrics(console, f"Leave-one-domain-out, {stage} (server-test)", head, rows)
        cells = [head, ["---:"] * len(head), *rows]
        lines += [f"## {stage}", "", *(f"| {' | '.join(row)} |" for row in cells), ""]
    write_whole(series / "domains.md", "\n".join(lines))
    console.print(f"Everything is in {series}", markup=False, soft_wrap=True)


def _rows(table: pd.DataFrame) -> list[Sequence[str]]:
    """Return one row of text for each domain."""
    named = table.assign(source=table["domain"], round=1)
    return [[name, *shown_rows(named, name)[0][1:]] for name in table["domain"]]


def _values(table: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Return metrics by domain and stage, for ``--json``."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.to_dict("records"):
        values = {
            str(name): float(value)
            for name, value in row.items()
            if name not in ("domain", "stage") and value == value
        }
        found.setdefault(str(row["domain"]), {})[str(row["stage"])] = values
    return found
