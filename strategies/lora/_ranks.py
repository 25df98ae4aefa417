"""Clients with LoRA adapters of different ranks inside one adapter of the largest rank.

All adapters keep the shapes of rank r. A client of rank r_k starts from the first r_k rows of A and
columns of B with zeros in the rest; where both are zero both gradients are, and weight decay keeps
zero: it trains rank r_k. The scaling s is that of r for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.clip_tuning.factors import factor_names, factors_of, pair_names
from fl2ora.experiment.arguments import MOST
from fl2ora.experiment.errors import UserError, listed, shown
from fl2ora.strategies.base import RoundPlan, RunInfo
from fl2ora.strategies.lora._lora_strategy import LoRAStrategy, put
from fl2ora.strategies.updates import ClientUpdate


class RankedLoRAStrategy(LoRAStrategy):
    """A LoRA strategy whose clients may have ranks of their own.

    What nodes ask for comes before ``ranks``. Ranks go round in the order of the run's clients.

    Args:
        ranks: see ``parse_ranks``; empty: everyone has the adapter's rank.
        weighting: ``examples`` or ``uniform``.
    """

    def __init__(self, ranks: str = "", weighting: str = "examples") -> None:
        super().__init__(weighting)
        self._cycle, self._named = parse_ranks(ranks)
        self._ranks: Mapping[str, int] = {}

    def begin(self, run: RunInfo) -> None:
        """Give clients their ranks; refuse some above the adapter's, and unknown clients."""
        super().begin(run)
        strangers = sorted(self._named.keys() - set(run.clients))
        if strangers:
            raise UserError(
                f"strategy {self.spec_name!r}: ranks: expected keys of the run's "
                f"{len(run.clients)} clients, such as {run.clients[0]!r}, found {listed(strangers)}"
            )
        cycle = self._cycle
        places = {c: cycle[i % len(cycle)] for i, c in enumerate(run.clients) if cycle}
        largest = min(factors_of(run.initial, module).rank for module in pair_names(run.initial))
        for rank in cycle:
            self._refuse_rank(rank, largest, "")
        self._ranks = {**places, **self._named, **run.ranks}
        for client, rank in self._ranks.items():
            self._refuse_rank(rank, largest, f" of client {client!r}")

    def _refuse_rank(self, rank: int, largest: int, whose: str) -> None:
        if not 1 <= rank <= largest:
            raise UserError(
                f"strategy {self.spec_name!r}: rank{whose}: expected 1 to {largest}, the rank of "
                f"the method, found {rank}"
            )

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Let every client start from the global adapter cut to its rank; see ``Strategy.plan``."""
        plan = super().plan(server_round, current, clients)
        if not self._ranks:
            return plan
        cut = cache(lambda rank: cut_to_rank(current, rank))

        def start_of(client: str) -> Adapter:
            rank = self._ranks.get(client)
            return current if rank is None else cut(rank)

        return replace(plan, starts=start_of)

    def rank_of(self, client: str, largest: int) -> int:
        """Return a client's rank: ``largest``, the adapter's, where it has none of its own."""
        return self._ranks.get(client, largest)

    def own_part(self, update: ClientUpdate) -> ClientUpdate:
        """Return an update without what lies beyond its client's rank, such as noise."""
        rank = self._ranks.get(update.client)
        return (
            update if rank is None else replace(update, adapter=cut_to_rank(update.adapter, rank))
        )


def with_unsent(plan: RoundPlan, update: ClientUpdate) -> ClientUpdate:
    """Return an update with the rows and columns that its client was not sent, as they are.

    The client's own lie in other rows and columns, so that its product gains just theirs.
    """
    start = plan.start_of(update.client)
    if start is plan.current:
        return update
    adapter = dict(update.adapter)
    for name in (n for module in pair_names(adapter) for n in factor_names(module)):
        adapter[name] = adapter[name] + (plan.current[name] - start[name])
    return replace(update, adapter=adapter)


def cut_to_rank(adapter: Adapter, rank: int) -> Adapter:
    """Return ``adapter`` with zeros beyond the first ``rank`` rows of A and columns of B."""
    result = dict(adapter)
    for module in pair_names(adapter):
        put(result, factor_names(module), factors_of(adapter, module).first(rank))
    return as_adapter(result)


def parse_ranks(text: str) -> tuple[tuple[int, ...], dict[str, int]]:
    """Read ranks that go round, ``4,2,1``, or named ones, ``site-a:4, site-b:2``.

    Going round, the clients of a run in their order get 4, 2, 1, 4, ...; repeat a rank to give it a
    larger share. Clients that are not named have the adapter's rank.

    Returns:
        The ranks that go round and those by client key; one of them is empty.

    Raises:
        ValueError: neither form, or both in one.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    pairs = [part.rpartition(":") for part in parts]
    named = {client.strip(): rank.strip() for client, colon, rank in pairs if colon}
    cycle = [rank.strip() for _, colon, rank in pairs if not colon]
    numbers = [*cycle, *named.values()]
    whole = all(number.isdecimal() and 1 <= int(number) <= MOST for number in numbers)
    if not whole or "" in named or (named and len(named) < len(parts)):
        raise ValueError(
            f"ranks: expected ranks of at least 1 and at most {MOST} as '4,2,1', or by client as "
            f"'site-a:4, site-b:2' with no client twice, found {shown(text)}"
        )
    return tuple(map(int, cycle)), {client: int(rank) for client, rank in named.items()}
