"""Who was asked in which round: what an accountant has to know, kept over restarts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.errors import UserError
from fl2ora.strategies.named_parts import join_parts, take_part
from fl2ora.strategies.privacy._epsilon import gaussian_epsilon, poisson_epsilon


class Ledger:
    """Counts releases, by client and by size of the round.

    A client that was asked counts, whether or not its answer arrived: who is asked does not depend
    on anyone's data.

    Args:
        noise_multiplier: of every release; standard deviation over the clip.
    """

    def __init__(self, noise_multiplier: float) -> None:
        self.noise_multiplier = noise_multiplier
        self._before = 0.0
        self._clients: Counter[str] = Counter()
        self._rounds: Counter[tuple[int, int]] = Counter()

    def carry(self, mu: float) -> None:
        """Begin with what the adapter that a run starts from has cost already.

        Args:
            mu: of any one client at most, as ``mu`` returned it.
        """
        self._before = float(torch.tensor(mu))

    def charge(self, asked: Sequence[str], num_clients: int) -> None:
        """Count one release of a round's sum, which concerns all who were asked.

        Args:
            asked: keys of the clients.
            num_clients: all of the run.
        """
        self.spend(asked)
        self._rounds[len(asked), num_clients] += 1

    def spend(self, clients: Iterable[str]) -> None:
        """Count one release of each client by itself."""
        self._clients.update(clients)

    @property
    def most(self) -> int:
        """Releases that concern the client asked most often."""
        return max(self._clients.values(), default=0)

    def mu(self) -> float:
        """Return mu of the one Gaussian release that costs the client asked most often the same.

        Its sensitivity is the clip: the client's change against none.
        """
        return math.hypot(self._before, mu_of(self.most, self.noise_multiplier))

    def epsilon(self, delta: float, sensitivity: float = 1.0) -> float:
        """Return epsilon of the client asked most often, known to have been.

        Args:
            delta: above 0 and below 1.
            sensitivity: of one release, in units of the clip.
        """
        return gaussian_epsilon(sensitivity * self.mu(), delta)

    def poisson_epsilon(self, delta: float) -> float:
        """Return epsilon as if rounds were Poisson samples; ``epsilon`` where that is smaller."""
        known = self.epsilon(delta)
        if not self._rounds or not 0 < known < math.inf:
            return known
        sampled = poisson_epsilon(self.noise_multiplier, self._rounds, delta, self._before)
        return min(known, sampled)

    def state(self) -> Adapter:
        """Return what ``load_state`` takes up; counts are exact up to 2^24."""
        rounds = [[asked, everyone, n] for (asked, everyone), n in sorted(self._rounds.items())]
        numbers = {
            "noise": [self.noise_multiplier],
            "rounds": rounds,
            "before": [self._before],
        }
        clients = {client: torch.tensor([float(n)]) for client, n in self._clients.items()}
        return join_parts(
            {
                "ledger": {name: torch.tensor(value) for name, value in numbers.items()},
                "clients": clients,
            }
        )

    def load_state(self, state: Adapter) -> None:
        """Take up an earlier ledger.

        Raises:
            UserError: it was kept under another noise multiplier.
        """
        numbers, clients = take_part(state, "ledger"), take_part(state, "clients")
        if not numbers:
            return
        before = float(numbers["noise"])
        if before != float(torch.tensor(self.noise_multiplier)):
            raise UserError(
                f"noise_multiplier: expected {before:g}, with which this run began, found "
                f"{self.noise_multiplier:g}: epsilon would not add up"
            )
        self._before = float(numbers["before"])
        self._clients = Counter({client: int(n) for client, n in clients.items()})
        self._rounds = Counter(
            {(int(asked), int(everyone)): int(n) for asked, everyone, n in numbers["rounds"]}
        )


def composed(
    releases: int, noise_multiplier: float, delta: float, sensitivity: float = 1.0
) -> float:
    """Return epsilon of a number of releases without amplification.

    Args:
        releases: with equal noise, each chosen after seeing those before.
        noise_multiplier: standard deviation of the noise over the clip.
        delta: above 0 and below 1.
        sensitivity: of one release, in units of the clip.
    """
    return gaussian_epsilon(sensitivity * mu_of(releases, noise_multiplier), delta)


def mu_of(releases: int, noise_multiplier: float) -> float:
    """Return mu of some releases of equal noise; see ``gaussian_epsilon``."""
    if not releases:
        return 0.0
    return math.inf if noise_multiplier == 0 else math.sqrt(releases) / noise_multiplier
