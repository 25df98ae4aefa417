"""Any strategy under clipping: no client's change counts for more than a given length.

Sun et al. 2019, arXiv 1911.07963 (norm bounding), before whatever combines the updates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.experiment.arguments import number
from fl2ora.experiment.errors import UserError
from fl2ora.strategies._wrapping import Wrapping, own_tensors
from fl2ora.strategies.base import RoundPlan, RunInfo
from fl2ora.strategies.privacy._noise import change_norm, clipped
from fl2ora.strategies.updates import ClientUpdate


class Clipped(Wrapping):
    """``inner`` on ``start_k + d_k min(1, norm / |d_k|)`` with ``d_k = theta_k - start_k``.

    The norm is over all tensors together. ``start_k`` is what client k was sent, the global adapter
    unless it has a rank of its own. It is the server that clips; the update says as much as before.

    Args:
        inner: spec of the strategy that combines the updates, such as ``median``; one whose client
            half sends tensors beside the adapter, which this would leave as they are, is refused.
        norm: the longest change that counts in full.
    """

    def __init__(self, inner: str = "fedavg", norm: float = 1.0) -> None:
        super().__init__(inner)
        self.norm = number("norm", norm, above=0)
        self._cut = self._all = 0

    def begin(self, run: RunInfo) -> None:
        """Try the inner client half out, without training; see ``Strategy.begin``."""
        super().begin(run)
        for rule, aux, _ in own_tensors(self.inner):
            if aux:
                raise UserError(
                    f"clipped: the inner strategy's client half {rule!r} sends tensors beside the "
                    f"adapter, which clipping does not reach: expected one that sends nothing "
                    f"else, such as fedavg, feddyn, median or krum"
                )

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Clip one update after another on the way; see ``Strategy.aggregate``."""
        self._cut = self._all = 0
        return super().aggregate(plan, self._shortened(plan, updates))

    def _shortened(
        self, plan: RoundPlan, updates: Iterable[ClientUpdate]
    ) -> Iterator[ClientUpdate]:
        for update in updates:
            start = plan.start_of(update.client)
            self._all += 1
            if change_norm(update.adapter, start) > self.norm:
                self._cut += 1
                adapter = as_adapter(clipped(update.adapter, start, self.norm))
                update = replace(update, adapter=adapter)
            yield update

    def metrics(self) -> dict[str, float]:
        """Return the inner strategy's metrics, and the share of changes that were too long."""
        return {**super().metrics(), "clipped_share": self._cut / max(1, self._all)}
