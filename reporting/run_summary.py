"""``summary.md``: what a run was and what came out, for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import printable
from fl2ora.experiment.fingerprint import code_fingerprint, library_versions
from fl2ora.reporting.comings import COMINGS, changes_of_clients, said_of_client
from fl2ora.reporting.events import EVENTS_FILE, read_lines
from fl2ora.reporting.rewinding import RESUMED, lasting_events
from fl2ora.reporting.set_tables import HEAD, last_set_rows
from fl2ora.reporting.sources import central_sources, own_sources, part_of
from fl2ora.reporting.tables import (
    last_rows,
    metrics_table,
    rows_with_calibrated,
    shown_metrics,
)
from fl2ora.reporting.whole_files import write_whole

SUMMARY_FILE = "summary.md"
PLOTS = ("reliability*", "smooth*", "rounds", "clients")
_HEAD = (
    "model", "dataset", "partition", "protocol", "method", "loss", "strategy", "calibrator",
    "num-rounds", "seed",
)  # fmt: skip
_SOURCES = {
    "clients-test": "Clients' held-out images, pooled (sums added)",
    "clients-test-mean": "Plain mean over the clients' own values",
    "clients-test-sd": "Standard deviation over the clients' own values",
    "clients-test-worst": "Worst client, metric by metric",
    "clients-test-personal": "Clients' own models on their held-out images, pooled",
    "clients-test-personal-mean": "Plain mean over the clients' own models",
    "clients-test-personal-sd": "Standard deviation over the clients' own models",
    "clients-test-personal-worst": "Worst client with its own model, metric by metric",
    "clients-validation": "Clients' calibration images, pooled, by which a run may stop early",
    "clients-validation-mean": "Plain mean over the clients' calibration images",
    "clients-validation-sd": "Standard deviation over the clients' calibration images",
    "clients-validation-worst": "Worst client on its calibration images, metric by metric",
}


def write_summary(folder: Path, config: RunConfig) -> Path:
    """Write ``summary.md`` from what the run directory holds."""
    flat = config.flat()
    lines = [f"# Run {folder.name}", ""]
    lines += [f"- {key}: `{flat[key]}`" for key in _HEAD]
    for said in (_learning_rate, _averaged, _best, _outcome, _changes, _measured):
        lines += said(folder)
    table = metrics_table(folder)
    head = ["round", *(metric.title for metric in shown_metrics(table))]
    central = {source: _central_title(source) for source in central_sources(table["source"])}
    own = {source: _own_title(source) for source in own_sources(table["source"])}
    if len(central) + len(own) > 1:
        last = last_rows(table, [*central, *own])
        lines += ["", "## All parts after the last round", ""]
        lines += _markdown(["part", *head[1:]], last)
    for source, title in {**central, **own, **_spread(own), **_SOURCES}.items():
        rows = rows_with_calibrated(table, source)
        if rows:
            lines += ["", f"## {title} (`{source}`)", "", *_markdown(head, rows)]
    if sets := last_set_rows(table):
        lines += ["", "## Sets of classes", "", *_markdown(HEAD, sets)]
    lines += [*_not_calibrated(folder), *_drops(folder)]
    plots = [path.stem for name in PLOTS for path in sorted(folder.glob(f"{name}.png"))]
    for name in plots:
        lines += ["", f"![{name}]({name}.png)"]
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    lines += ["", f"Code {code_fingerprint()}; {versions}. All settings: `run.json`.", ""]
    path = folder / SUMMARY_FILE
    write_whole(path, "\n".join(lines))
    return path


def _learning_rate(folder: Path) -> list[str]:
    """Say which learning rate the clients had, as a run may leave it to the method."""
    return [
        f"- clients' learning rate: {event['learning_rate']:g}"
        for event in lasting_events(folder)
        if event["event"] == "start" and "learning_rate" in event
    ]


def _averaged(folder: Path) -> list[str]:
    """Say that the result is a mean over rounds, where it is one."""
    return [
        "- result: mean of the global adapters after each round, weighted "
        + ", ".join(f"{weight:.4g}" for weight in event["weights"])
        for event in lasting_events(folder)
        if event["event"] == "averaged"
    ]


def _best(folder: Path) -> list[str]:
    """Say which round was best on validation data, and where its adapter is."""
    found = {e["kept"]: e for e in lasting_events(folder) if e["event"] == "best-round"}
    return [
        f"- best round: {event['round']}, by {event['metric']} of clients-validation "
        f"({event['value']:.6g}); its adapter is in `{kept}/`, the last round's in `adapter/`"
        for kept, event in found.items()
    ]


def _outcome(folder: Path) -> list[str]:
    """Say how many updates were used, and what is odd about the result."""
    lines = []
    for event in lasting_events(folder):
        if event["event"] == "outcome" and event["asked"]:
            lines.append(f"- updates: {event['updates']} of {event['asked']} used")
            lines += [f"- warning: {event['warning']}"] if event["warning"] else []
    return lines


def _central_title(source: str) -> str:
    part = part_of(source)
    return f"Central held-out part {printable(part)}" if part else "Central held-out set"


def _own_title(source: str) -> str:
    part = part_of(source)
    return f"Nodes' own test images{f', part {printable(part)}' if part else ''}, pooled"


def _spread(own: Mapping[str, str]) -> dict[str, str]:
    """Return the titles of what stands beside each part of the nodes."""
    said = {"-mean": "plain mean over nodes", "-sd": "standard deviation", "-worst": "worst node"}
    return {
        f"{source}{end}": f"{title.removesuffix(', pooled')}: {text}"
        for source, title in own.items()
        for end, text in said.items()
    }


def _not_calibrated(folder: Path) -> list[str]:
    """Say which parts the calibrator was not applied to."""
    left_out = [e for e in read_lines(folder / EVENTS_FILE) if e["event"] == "not-calibrated"]
    return [
        text for e in left_out for text in ("", f"`{e['source']}` not calibrated: {e['reason']}")
    ]


def _changes(folder: Path) -> list[str]:
    """Say what was changed where the run went on after an interruption, by ``force-resume``."""
    lines = []
    for event in lasting_events(folder):
        if event["event"] == RESUMED and event.get("changed"):
            names = (f"{n}: {a} -> {b}" for kind in event["changed"].values()
                     for n, (a, b) in kind.items())  # fmt: skip
            lines.append(f"- changed after round {event['round']}: {'; '.join(names)}")
    return lines


def _measured(folder: Path) -> list[str]:
    """Say where curves over clients go on with other clients."""
    return [
        f"- clients measured from round {number} on: {printable(words)}, so metrics of clients "
        "before and after are of other images"
        for number, words in changes_of_clients(lasting_events(folder)).items()
    ]


def _drops(folder: Path) -> list[str]:
    events = lasting_events(folder)
    moved = [event for event in events if event["event"] in COMINGS]
    lines = ["", "## Clients that went or came", ""] if moved else []
    lines += [f"- round {event['round']}, {printable(said_of_client(event))}" for event in moved]
    lost = [event for event in events if event["event"] in ("drop", "adapter-kept")]
    lines += ["", "## Replies that were not used", ""] if lost else []
    for event in lost:
        if event["event"] == "drop":
            lines.append(f"- round {event['round']}, client {event['client']}: {event['reason']}")
        else:
            lines.append(
                f"- round {event['round']}: adapter kept, {event['usable']} usable replies, "
                f"{event['expected']} needed"
            )
    return lines


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    table = [head, ["---:"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in table]
