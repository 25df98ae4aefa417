"""What all trackers share: which values go to them, when, and that their failure stops no run."""

from __future__ import annotations

import importlib.util
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import user_path
from fl2ora.reporting.events import METRICS_FILE, read_lines
from fl2ora.reporting.model_card import ADAPTER
from fl2ora.server_app.callbacks.base import Callback, Reaction, RoundReport, RunContext
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.updates import ClientUpdate

_CLIENTS = 100

logger = logging.getLogger(__name__)


class Tracking(Callback):
    """Sends a run's settings, metrics, plots and adapter to somebody's tracker of experiments.

    Metrics are called ``<source>/<metric>`` and counted by round, 0 being zero-shot; what clients
    report of their training ``client-<key>/<metric>``, in rounds of at most 100 clients. Whatever
    a tracker raises is logged once, and it is left alone from then on.

    Attributes:
        library: Python module that it needs.
        extra: of ours, that installs it.
    """

    library: str
    extra: str

    def __init__(self, folder: str = "") -> None:
        """Take a folder of the tracker's files.

        Raises:
            UserError: the library is not installed, or the folder cannot be one.
        """
        if importlib.util.find_spec(self.library) is None:
            raise UserError(
                f"expected the library {self.library}, found none: "
                f"pip install 'fl2ora[{self.extra}]'"
            )
        self._folder = user_path(folder) if folder else None
        self._of_clients: dict[str, float] = {}
        self._sent: set[tuple[int, str]] = set()
        self._run: RunContext | None = None

    @abstractmethod
    def begin(self, run: RunContext, folder: Path) -> None:
        """Begin a run in ``folder``, with the settings ``run.config``."""

    @abstractmethod
    def send(self, server_round: int, values: Mapping[str, float]) -> None:
        """Take finite values of a round by name."""

    @abstractmethod
    def keep(self, plots: list[Path], adapter: Path | None) -> None:
        """Keep plots (PNG) and the folder of the adapter, and end the run."""

    def on_start(self, run: RunContext) -> None:
        """Begin."""
        self._run = run
        name = type(self).__name__.lower()
        self._safely(lambda: self.begin(run, self._folder or run.folder / name))

    def on_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        """Remember what a client reports of its training."""
        if len(plan.clients) <= _CLIENTS:
            self._of_clients |= {
                f"client-{update.client}/{name}": value for name, value in update.metrics.items()
            }

    def after_round(self, report: RoundReport) -> Reaction | None:
        """Send what was recorded before this round, and what is known of it."""
        self._safely(self._send_recorded)
        named = _named(report.metrics) | self._of_clients
        self._of_clients = {}
        self._safely(lambda: self._send(report.plan.round, named))
        return None

    def on_end(self, run: RunContext) -> None:
        """Send the rest, the plots of callbacks before this one, and the adapter."""
        adapter = run.folder / ADAPTER
        plots = sorted(run.folder.glob("*.png"))
        self._safely(self._send_recorded)
        self._safely(lambda: self.keep(plots, adapter if adapter.is_dir() else None))
        self._run = None

    def _send_recorded(self) -> None:
        assert self._run is not None
        for row in read_lines(self._run.folder / METRICS_FILE):
            server_round, source = int(row.pop("round")), str(row.pop("source"))
            self._send(server_round, _named({source: row}))

    def _send(self, server_round: int, named: Mapping[str, Any]) -> None:
        values = {
            name: float(value)
            for name, value in named.items()
            if isinstance(value, int | float) and math.isfinite(value)
            if (server_round, name) not in self._sent
        }
        if values:
            self._sent |= {(server_round, name) for name in values}
            self.send(server_round, values)

    def _safely(self, call: Callable[[], None]) -> None:
        """Call, unless something failed before; log what is raised, for the record too."""
        if self._run is None:
            return
        try:
            call()
        except Exception as error:  # trackers raise all kinds
            name = type(self).__name__.lower()
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            logger.warning("Tracker %s failed and is left alone from now on: %s", name, reason)
            self._run.tracker.log("tracker-failed", tracker=name, reason=reason)
            self._run = None


def _named(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{source}/{name}": v for source, values in rows.items() for name, v in values.items()}
