"""How many bytes of tensors travel in a round, per client and in each direction."""

from __future__ import annotations

import statistics

from fl2ora.clip_tuning.adapter import changes, num_bytes
from fl2ora.server_app.callbacks.base import Callback, Reaction, RoundReport
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.updates import ClientUpdate


class Traffic(Callback):
    """Records ``bytes_down`` and ``bytes_up``, means over the round's clients.

    Counted are the values of tensors alone, without names and headers. What training left as it
    was is not in a reply.
    """

    def __init__(self) -> None:
        self._up: list[int] = []

    def on_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        """Count a usable reply."""
        changed = changes(update.adapter, plan.start_of(update.client))
        self._up.append(num_bytes(changed) + num_bytes(update.aux))

    def after_training(self, report: RoundReport) -> Reaction:
        """Return the means."""
        plan, up = report.plan, self._up
        self._up = []
        down = [num_bytes(plan.start_of(key)) + num_bytes(plan.aux) for key in plan.clients]
        sizes = {"bytes_down": down, "bytes_up": up}
        return Reaction({name: statistics.fmean(found) for name, found in sizes.items() if found})
