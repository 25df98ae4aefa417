"""What averaging LoRA factors apart loses in a round, in the run's record."""

from __future__ import annotations

from fl2ora.clip_tuning.factors import scalings
from fl2ora.server_app.callbacks.base import Callback, Reaction, RoundReport, RunContext
from fl2ora.server_app.factor_losses import FactorLosses
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.updates import ClientUpdate


class LoRADiagnostics(Callback):
    """Records ``lora_aggregation_error`` and its relatives; nothing where no LoRA is tuned."""

    def on_start(self, run: RunContext) -> None:
        """Look up the scale of each pair."""
        self._scalings = scalings(run.classifier.clip)
        self._losses = FactorLosses(self._scalings)

    def on_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        """Take the update's factors into account."""
        self._losses.add(plan, update)

    def after_training(self, report: RoundReport) -> Reaction:
        """Return the round's metrics and forget its updates."""
        metrics = self._losses.result(report.adapter)
        self._losses = FactorLosses(self._scalings)
        return Reaction(metrics)
