"""How many bytes of tensors travel in a round, per client and in each direction."""

from __future__ import annotations

import statistics

from fl2ora.server_app.callbacks.base import Callback, Reaction, RoundReport


class Traffic(Callback):
    """Records ``bytes_down`` and ``bytes_up`` of training, means over the round's clients.

    Counted are the values of the tensors that travelled, as they travelled, without names and
    headers: down of all clients that were sent something, up of all usable replies.
    """

    def after_training(self, report: RoundReport) -> Reaction:
        """Return the means."""
        sizes = {"bytes_down": report.bytes_down, "bytes_up": report.bytes_up}
        return Reaction({name: statistics.fmean(found) for name, found in sizes.items() if found})
