"""Clients with LoRA adapters of different ranks inside one adapter of the largest rank.

All adapters keep the shapes of rank r. A client of rank r_k starts from the first r_k rows of A and
columns of B with zeros in the rest; where both are zero both gradients are, and weight decay keeps
zero: it trains rank r_k. The scaling s is that of r for everybody.
"""

from __future__ import annotations

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.clip_tuning.factors import factor_names, factors_of, pair_names
from fl2ora.experiment.errors import UserError
from fl2ora.strategies.lora._lora_strategy import LoraStrategy, put


class RankedLoraStrategy(LoraStrategy):
    """A LoRA strategy whose clients may have ranks of their own.

    What nodes ask for (``client_ranks``) comes before ``ranks``. Ranks go round in the order of
    ``clients``; where the round loop sets none, clients must be named by numbers, as shares are.

    Args:
        ranks: see ``parse_ranks``; empty: everyone has the adapter's rank.
        weighting: ``examples`` or ``uniform``.
    """

    def __init__(self, ranks: str = "", weighting: str = "examples") -> None:
        super().__init__(weighting)
        self._cycle, self._named = parse_ranks(ranks)

    def check(self, adapter: Adapter) -> None:
        """Refuse ranks above the adapter's too; see ``Strategy.check``."""
        super().check(adapter)
        largest = min(factors_of(adapter, module).rank for module in pair_names(adapter))
        wanted = {**self._named, **self.client_ranks}
        for client, rank in [*wanted.items(), *(("", rank) for rank in self._cycle)]:
            if not 1 <= rank <= largest:
                whose = f" of client {client!r}" if client else ""
                raise UserError(
                    f"strategy {self.spec_name!r}: rank{whose}: expected 1 to {largest}, the rank "
                    f"of the method, found {rank}"
                )

    def rank_of(self, client: str) -> int | None:
        """Return a client's rank, None where it is the adapter's.

        Raises:
            UserError: ranks go round, and the client's place is not known.
        """
        for ranks in (self.client_ranks, self._named):
            if client in ranks:
                return ranks[client]
        if not self._cycle:
            return None
        if client in self.clients:
            return self._cycle[list(self.clients).index(client) % len(self._cycle)]
        if client.isdecimal():
            return self._cycle[int(client) % len(self._cycle)]
        if len(self._cycle) == 1:
            return self._cycle[0]
        raise UserError(
            f"strategy {self.spec_name!r}: ranks: no place in the order is known for client "
            f"{client!r}; name its rank, such as ranks='{client}:2'"
        )

    def outgoing(self, client: str, current: Adapter) -> Adapter:
        """Return the global adapter cut to the client's rank; see ``Strategy.outgoing``."""
        rank = self.rank_of(client)
        return current if rank is None else cut_to_rank(current, rank)


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
    whole = all(number.isdecimal() and int(number) >= 1 for number in numbers)
    if not whole or "" in named or (named and len(named) < len(parts)):
        raise ValueError(
            f"ranks: expected ranks of at least 1 as '4,2,1', or by client as 'site-a:4, site-b:2' "
            f"with no client twice, found {text!r}"
        )
    return tuple(map(int, cycle)), {client: int(rank) for client, rank in named.items()}
