"""The logit scale after each round, where it is tuned."""

from __future__ import annotations

from fl2ora.clip_tuning.methods.logit_scale import scale_metrics
from fl2ora.server_app.callbacks.base import Callback, Reaction, RoundReport


class LogitScaleRecord(Callback):
    """Records ``logit_scale``, what cosines are multiplied by."""

    def after_training(self, report: RoundReport) -> Reaction:
        """Return the scale of the new global adapter, if it holds one."""
        return Reaction(scale_metrics(report.adapter))
