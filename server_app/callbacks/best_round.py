"""Keeping the adapter of the round that was best on validation data."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import torch

from fl2ora.calibration.metrics.table import METRICS, chosen_metrics
from fl2ora.clip_tuning.adapter import Adapter, as_adapter, from_three, in_three
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.errors import UserError, listed, nearest
from fl2ora.experiment.plugins import load
from fl2ora.reporting.model_card import ADAPTER
from fl2ora.reporting.sources import CLIENTS_VALIDATION
from fl2ora.reporting.whole_files import whole_folder
from fl2ora.server_app.callbacks.base import Callback, Reaction, RoundReport, RunContext
from fl2ora.server_app.privacy_record import PRIVACY_FILE

BEST_FILE = "best.json"
_HEAD = "adapter/"


class BestRound(Callback):
    """Leaves ``adapter-best-<metric>`` beside ``adapter``, which is that of the last round.

    Measured are the images the clients keep to fit calibrators, pooled: what is chosen on test data
    can no longer be measured on it. A value that is missing once there was one is no better.

    Args:
        metric: any metric that has a better direction.
        least: by how much a value must be better to count.
    """

    parts = frozenset({"validation"})

    def __init__(self, metric: str = "nll", least: float = 0.0) -> None:
        if not 0 <= least < math.inf:
            raise UserError(f"least: expected a finite number of at least 0, found {least}")
        directed = {m.name: m.better for m in METRICS if m.better is not None}
        if metric not in directed:
            raise UserError(
                f"metric: expected one of {listed(directed)}, found {metric!r}"
                f"{nearest(metric, directed)}"
            )
        self._metric, self._least = metric, least
        self._sign = 1.0 if directed[metric] == "lower" else -1.0
        self._best, self._round, self._adapter = math.inf, 0, Adapter()

    @property
    def best(self) -> float:
        """The best value so far, in the metric's own direction."""
        return self._sign * self._best

    def on_start(self, run: RunContext) -> None:
        """Refuse a metric that the run does not measure.

        Raises:
            UserError: it is not among the run's ``metrics``.
        """
        self._tracker = run.tracker
        measured = {metric.name for metric in chosen_metrics(run.config.metrics)}
        if self._metric not in measured:
            raise UserError(
                f"{self._name()}: metric: expected one of the run's metrics, found "
                f"{self._metric!r}: name it in metrics too, as in "
                f"{run.config.metrics + ' + ' + self._metric!r}"
            )

    def after_round(self, report: RoundReport) -> Reaction | None:
        """Compare with the best so far, if the round was measured."""
        self.improves(report)
        return None

    def improves(self, report: RoundReport) -> bool | None:
        """Keep the round if it is the best so far, and say so; None where it was not measured.

        Raises:
            UserError: no client has such images, or the metric has never had a value on them.
        """
        if len(report.metrics) == 1:  # of training alone
            return None
        measured = report.metrics.get(CLIENTS_VALIDATION, {})
        value = measured.get(self._metric, math.nan)
        if math.isnan(value) and not self._round:
            raise UserError(f"{self._name()}: {self._reason(bool(measured), report.plan.round)}")
        if not self._sign * value < self._best - self._least:
            return False
        self._best, self._round = self._sign * value, report.plan.round
        self._adapter = report.adapter
        self._tracker.log(
            "best-round", round=self._round, metric=self._metric, value=value, kept=self._folder
        )
        return True

    def on_end(self, run: RunContext) -> None:
        """Write the best round's adapter in its method's format, and which one it is."""
        if not self._round:
            return
        run.classifier.restore(self._adapter)
        said = {"round": self._round, "metric": self._metric, "value": self.best}
        with whole_folder(run.folder / self._folder) as part:
            load(run.config.method, TuningMethod).save(run.classifier, part)
            (part / BEST_FILE).write_text(json.dumps(said) + "\n", encoding="utf-8")
            # What all rounds have cost: at least what those up to this one have.
            _copy_if_there(run.folder / ADAPTER / PRIVACY_FILE, part)

    def state(self) -> Adapter:
        """Return the best value and its round's adapter; nothing before the first one."""
        if not self._round:
            return {}
        best = in_three("best", torch.tensor([self._best], dtype=torch.float64))
        adapter = {f"{_HEAD}{name}": tensor for name, tensor in self._adapter.items()}
        return {**best, **adapter, "round": torch.tensor([float(self._round)])}

    def load_state(self, state: Adapter) -> None:
        """Take them up."""
        if "round" not in state:
            return
        self._best, self._round = float(from_three("best", state)), int(state["round"])
        self._adapter = as_adapter(
            {n.removeprefix(_HEAD): t for n, t in state.items() if n.startswith(_HEAD)}
        )

    def _reason(self, measured: bool, server_round: int) -> str:
        if measured:
            return (
                f"metric: {self._metric!r} has no value on the clients' calibration images in "
                f"round {server_round}, where it is undefined: expected another metric"
            )
        return (
            "expected sums over the clients' calibration images, found none: raise "
            "calibration-fraction, or see under 'drop' in events.jsonl why no client sent any"
        )

    @property
    def _folder(self) -> str:
        return f"{ADAPTER}-best-{self._metric}"

    def _name(self) -> str:
        return type(self).__module__.rpartition(".")[2]


def _copy_if_there(file: Path, folder: Path) -> None:
    if file.is_file():
        shutil.copy(file, folder)
