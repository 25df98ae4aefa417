"""A run in Flower's log, which ``flwr run --stream`` and ``flwr log`` show."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from flwr.common.logger import LOGGER_NAME

from fl2ora.reporting.events import JsonLines
from fl2ora.reporting.run_lines import RunLines

RUN_LOG = logging.getLogger(f"{LOGGER_NAME}.fl2ora")  # what it takes goes where Flower's lines go


class LoggedRecord(JsonLines):
    """The record of a run that also logs a line for what a person wants to know.

    Args:
        folder: existing run directory.
        num_rounds: of the run.
    """

    def __init__(self, folder: Path, num_rounds: int) -> None:
        super().__init__(folder)
        self._where = folder
        self._lines = RunLines(num_rounds)
        RUN_LOG.info("Run directory: %s", folder)

    def log(self, event: str, /, **fields: Any) -> None:
        """Append the event and log its line, if it has one."""
        super().log(event, **fields)
        line = self._lines.line_of({"event": event, **fields})
        if line is not None:
            RUN_LOG.info("%s", line)
        if event == "finished":
            RUN_LOG.info("Everything is in %s", self._where)
