"""What a person is told of a run as it goes on: a line for an event, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fl2ora.calibration as calibration  # its names are loaded when used, and torch with them
from fl2ora.experiment.errors import printable
from fl2ora.reporting.comings import COMINGS, said_of_client
from fl2ora.reporting.sources import (
    CALIBRATED,
    CLIENTS_TEST,
    SPREAD,
    central_sources,
    own_sources,
    part_of,
)
from fl2ora.reporting.tables import show

UNCONVERGED = "the fit spent its steps before it met its tolerance"


class RunLines:
    """Turns a run's events, in their order, into lines of text.

    Events that lack what they should hold make no line: the record may be of another version.

    Args:
        num_rounds: how many there will be.
    """

    def __init__(self, num_rounds: int) -> None:
        self._num_rounds = num_rounds
        self._training = ""
        self._images: dict[str, float] = {}  # most that a source was measured with
        self._central = False  # there is a central part, which comes before the clients

    def line_of(self, event: Mapping[str, Any]) -> str | None:
        """Return the line for an event, or None."""
        try:
            line = self._line_of(event)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return None if line is None else printable(line)

    def _line_of(self, event: Mapping[str, Any]) -> str | None:
        match event["event"]:
            case "nodes":
                nodes = event["nodes"]
                total = sum(node["train"] for node in nodes)
                return f"{len(nodes)} clients with {total} training images"
            case "drop":
                return f"  client {event['client']} not used: {event['reason']}"
            case "adapter-kept":
                usable, expected = event["usable"], event["expected"]
                return f"  adapter kept: {usable} usable replies, {expected} needed"
            case "round-end":
                loss = event.get("loss")
                self._training = f"loss {loss:.4f}  " if loss is not None else ""
                self._training += f"{event['duration']:.1f} s"
            case "metrics":
                return self._measured(event)
            case "not-calibrated":
                return f"  {event['source']} not calibrated: {event['reason']}"
            case "outcome" if event["asked"]:
                line = f"{event['updates']} of {event['asked']} updates used"
                return f"{line}; warning: {event['warning']}" if event["warning"] else line
            case "calibrated" if not event["converged"]:
                return f"  calibrator {event['calibrator']}: {UNCONVERGED}"
            case "resumed":
                lost = event["lost_rounds"]
                line = f"  going on after round {event['round']}"
                line += f"; {lost} rounds begun after it are run again" if lost else ""
                return line + "".join(f"\n  passed over: {text}" for text in event["damaged"])
            case "checkpoint-failed":
                return f"  no checkpoint of round {event['round']}: {event['reason']}"
            case "stopped":
                return f"  stopped after round {event['round']}: {event['reason']}"
            case "gave-up":
                return f"  gave up after round {event['round']}: {event['reason']}"
            case "waiting":
                online, expected = event["online"], event["expected"]
                return f"  waiting for clients: {online} online, {expected} needed"
            case "state-in-memory":
                return f"  client {event['client']} keeps its state in memory alone, not on a disk"
            case kind if kind in COMINGS:
                return f"  {said_of_client(event)}"
        return None

    def _measured(self, event: Mapping[str, Any]) -> str | None:
        """Return the line of a part; of the clients where there is no central one."""
        source: str = event["source"]
        plain = source.removesuffix(CALIBRATED)
        own = bool(own_sources([plain])) and not plain.endswith(SPREAD)
        if central_sources([plain]):
            self._central = True
        elif not own and (plain != CLIENTS_TEST or self._central):
            return None
        part = f"  {part_of(source)}" if part_of(source) else ""
        part = f"  {plain}" if own else part
        if source != plain:
            return self._metrics(f"calibrated{part}", event)
        number = event["round"]
        name = f"round {number}/{self._num_rounds}" if number else "zero-shot"
        training, self._training = self._training, ""  # beside the first part alone
        return f"{self._metrics(f'{name}{part}', event)}{self._fewer(event)}  {training}".rstrip()

    def _fewer(self, event: Mapping[str, Any]) -> str:
        """Say of how many images the metrics are, where others of the source are of more."""
        found, source = event.get("num_examples", 0), event["source"]
        most = self._images[source] = max(found, self._images.get(source, 0))
        return f"  ({found:,.0f} of {most:,.0f} images)" if found < most else ""

    def _metrics(self, name: str, event: Mapping[str, Any]) -> str:
        line = f"{name:>12}"
        for metric in calibration.METRICS:
            if metric.headline and metric.name in event:
                value = event[metric.name]
                shown = show(metric, float("nan") if value is None else value)
                line += f"  {metric.title} {shown:>8}"
        return line
