"""A run for people: lines in Flower's log, and in ``run.log`` in its folder.

``flwr run --stream`` and ``flwr log`` show the first.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flwr.common.logger import LOGGER_NAME

from fl2ora.experiment.errors import UserError, printable
from fl2ora.reporting.events import JsonLines
from fl2ora.reporting.run_lines import RunLines

RUN_LOG = logging.getLogger(f"{LOGGER_NAME}.fl2ora")  # what it takes goes where Flower's lines go
LOG_FILE = "run.log"
_OURS = logging.getLogger("fl2ora")


class LoggedRecord(JsonLines):
    """The record of a run that also logs a line for what a person wants to know.

    As a context manager it keeps ``run.log`` too: those lines with the time, warnings of ours in
    this process, and the traceback of a fault.

    Args:
        folder: existing run directory.
        num_rounds: of the run.
    """

    def __init__(self, folder: Path, num_rounds: int) -> None:
        super().__init__(folder)
        self._where = folder
        self._lines = RunLines(num_rounds)
        self._file = _LogFile(folder / LOG_FILE)

    def __enter__(self) -> Self:
        """Begin to log."""
        _OURS.addHandler(self._file)
        self._say(f"Run directory: {self._where}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Log what went wrong, and stop."""
        _OURS.removeHandler(self._file)
        if error is not None and kind is not None:
            expected = isinstance(error, UserError) or not isinstance(error, Exception)
            traceback = None if expected else (kind, error, where)
            self._write(logging.ERROR, str(error) or kind.__name__, traceback)

    def log(self, event: str, /, **fields: Any) -> None:
        """Append the event and log its line, if it has one."""
        super().log(event, **fields)
        line = self._lines.line_of({"event": event, **fields})
        if line is not None:
            self._say(line)
        if event == "finished":
            self._say(f"Everything is in {self._where}")

    def _say(self, line: str) -> None:
        RUN_LOG.info("%s", line)
        self._write(logging.INFO, line)

    def _write(self, level: int, text: str, traceback: Any = None) -> None:
        name = RUN_LOG.name
        self._file.handle(logging.LogRecord(name, level, "", 0, text, None, traceback))


class _LogFile(logging.Handler):
    """Appends to a file; a full disk costs the line, never the run."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, and show it where nobody else would, as without this handler."""
        text = printable(self.format(record))
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        last = logging.lastResort
        if record.name.startswith(_OURS.name) and last is not None and not _has_others():
            last.handle(record)


def _has_others() -> bool:
    others = [h for h in _OURS.handlers if not isinstance(h, _LogFile)]
    return bool(others or logging.getLogger().handlers)
