"""The mean of the global adapters after all rounds as a run's result, as PromptSRC has it."""

from __future__ import annotations

from collections.abc import Sequence

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.methods.logit_scale import scale_metrics
from fl2ora.experiment.errors import UserError
from fl2ora.server_app.callbacks.base import Callback, Reaction, RoundReport, RunContext
from fl2ora.strategies.updates import WeightedMean


class Averaging(Callback):
    """Puts the weighted mean of all rounds' adapters in place of the last one.

    A tuning method brings it (``TuningMethod.round_weights``). A run that is stopped early keeps
    the adapter of its last round.

    Args:
        weights: of the global adapter after each round, one for each round of the run.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = [float(weight) for weight in weights]
        self._mean = WeightedMean()

    def on_start(self, run: RunContext) -> None:
        """Refuse another number of weights than rounds.

        Raises:
            UserError: it differs.
        """
        if len(self._weights) != run.config.num_rounds:
            raise UserError(
                f"round weights: expected {run.config.num_rounds}, one for each round, "
                f"found {len(self._weights)}"
            )
        self._tracker = run.tracker

    def after_training(self, report: RoundReport) -> Reaction | None:
        """Add the round's adapter; after the last one return the mean, which goes on record."""
        number = report.plan.round
        self._mean.add(report.adapter, self._weights[number - 1])
        if number < len(self._weights):
            return None
        mean = self._mean.result()
        weights = [round(weight, 6) for weight in self._weights]
        self._tracker.log("averaged", round=number, weights=weights, **scale_metrics(mean))
        return Reaction(adapter=mean)

    def state(self) -> Adapter:
        """Return the running sums, exactly."""
        return self._mean.state()

    def load_state(self, state: Adapter) -> None:
        """Take up the running sums."""
        self._mean = WeightedMean.from_state(state)
