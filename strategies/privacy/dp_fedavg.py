"""DP-FedAvg: clipped changes, their uniform mean, and Gaussian noise from the server.

McMahan et al. 2018, arXiv 1710.06963, with a flat clip; the clip may follow a quantile of the
changes' norms: Andrew et al. 2019, arXiv 1905.03871. See docs/privacy.md for what is protected.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.seeds import derive_seed
from fl2ora.strategies.base import RoundPlan, RunInfo, Strategy
from fl2ora.strategies.lora.lora_one_factor import one_factor, rule_for
from fl2ora.strategies.named_parts import join_parts, take_part
from fl2ora.strategies.privacy._clip import Clip
from fl2ora.strategies.privacy._epsilon import accounting_library, check_privacy
from fl2ora.strategies.privacy._ledger import Ledger
from fl2ora.strategies.privacy._noise import change_norm, clipped, gaussian_noise, norm_of
from fl2ora.strategies.updates import ClientUpdate, WeightedMean

logger = logging.getLogger(__name__)


class DPFedAvg(Strategy):
    """``theta + eta (mean_S clip(theta_k - theta) + N(0, (z C / m)^2))`` over m clients S.

    ``clip(d) = d min(1, C / |d|)`` over all tensors together. With no client's data in, or with it
    replaced by none, the sum moves by at most C. The server sees every change and is trusted.

    With a ``clip_quantile`` the clip is moved after every round to where that share of changes is
    shorter; see ``_clip.Clip``. epsilon covers that too: the changes bear a little more noise.

    Args:
        clip: C, or the first one.
        noise_multiplier: z; 0 protects nothing.
        delta: at which epsilon is reported; well below one over the number of clients.
        server_learning_rate: eta, by which the mean change is multiplied.
        sampling: ``known``: epsilon of the client asked most often, whoever knows who took part.
            ``poisson``: as published values, amplified by the share of clients asked. It holds for
            rounds drawn by secret coins; fl2ora draws a fixed number from the run's seed.
        factor: ``A`` or ``B``: trains, and adds noise to, one factor of LoRA pairs alone (Sun et
            al. 2024, arXiv 2403.12313); empty: everything.
        seed: of the noise. None draws it from the operating system, afresh even in a rerun; for
            simulations that must repeat give a number, which voids the guarantee.
        clip_quantile: the share of changes that C should leave as they are, such as 0.5; 0: C
            stays.
        clip_rate: how fast C follows: by at most this factor's exponential in a round.
        count_noise: standard deviation of the noise on the number of changes shorter than C; 0: a
            twentieth of the clients asked, and at least 2.5 times ``noise_multiplier``.
    """

    def __init__(
        self,
        clip: float = 1.0,
        noise_multiplier: float = 1.0,
        delta: float = 1e-5,
        server_learning_rate: float = 1.0,
        sampling: str = "known",
        factor: str = "",
        seed: int | None = None,
        clip_quantile: float = 0.0,
        clip_rate: float = 0.2,
        count_noise: float = 0.0,
    ) -> None:
        check_privacy(clip, noise_multiplier, delta, seed)
        if not 0 < server_learning_rate < float("inf"):
            raise ValueError(
                f"server_learning_rate: expected a finite number above 0, found "
                f"{server_learning_rate}"
            )
        if sampling not in ("known", "poisson"):
            raise ValueError(f"sampling: expected 'known' or 'poisson', found {sampling!r}")
        if factor not in ("", "A", "B"):
            raise ValueError(f"factor: expected 'A', 'B' or '', found {factor!r}")
        if sampling == "poisson":
            accounting_library()
        if seed is not None:
            logger.warning("dp_fedavg: with a seed the noise can be removed; for simulations only")
        self._clip = Clip(clip, noise_multiplier, clip_quantile, clip_rate, count_noise)
        self.delta = delta
        self.server_learning_rate = server_learning_rate
        self.sampling = sampling
        self.factor = factor
        self.seed = seed
        self._ledger = Ledger(noise_multiplier)
        self._metrics: dict[str, float] = {"clipped_share": 0.0, "noise_norm": 0.0}

    def begin(self, run: RunInfo) -> None:
        """Refuse to train a factor of what has none; see ``Strategy.begin``."""
        super().begin(run)
        self._ledger.carry(run.spent)
        if self.factor and not one_factor(run.initial, self.factor):
            raise UserError(
                f"strategy 'dp_fedavg': factor={self.factor!r} needs LoRA pairs: expected method = "
                f"'lora(...)', whose tensors end in .lora_A.weight and .lora_B.weight"
            )

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Ask for plain local training, or that of one factor; see ``Strategy.plan``."""
        plan = super().plan(server_round, current, clients)
        return replace(plan, rule=rule_for(self.factor)) if self.factor else plan

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Clip, average and add noise; charge all who were asked; see ``Strategy.aggregate``."""
        current = plan.current
        names = one_factor(current, self.factor) if self.factor else current.keys()
        start = {name: current[name] for name in names}
        mean, cut, clip = WeightedMean(), 0, self._clip.value
        for update in updates:
            change = {name: update.adapter[name] for name in names}
            cut += change_norm(change, start) > clip
            mean.add(clipped(change, start, clip), 1.0)
        count, asked = int(mean.total_weight), len(plan.clients)
        std = self._clip.noise_multiplier(asked) * clip / count
        noise = gaussian_noise(start, std, self._seed("dp_fedavg", plan.round))
        self._ledger.charge(plan.clients, len(self.run.clients))
        self._clip.follow(count - cut, count, asked, self._seed("dp_fedavg-clip", plan.round))
        self._metrics = {"clipped_share": cut / count, "noise_norm": norm_of(noise)}
        if self._clip.quantile:
            self._metrics["clip"] = clip
        further = self.server_learning_rate - 1
        result = dict(current)
        for name, average in mean.result(torch.float64).items():
            moved = average + noise[name]
            result[name] = (moved + further * (moved - current[name].double())).float()
        return result

    def _seed(self, what: str, server_round: int) -> int | None:
        return None if self.seed is None else derive_seed(self.seed, what, server_round)

    def metrics(self) -> dict[str, float]:
        """Return epsilon so far, the share of changes clipped, and the noise's L2 norm.

        There is no epsilon without noise: it would be infinite. Where the clip moves, the round's
        is told too.
        """
        metrics = {**self._metrics}
        if self._ledger.noise_multiplier and self._ledger.mu() < math.inf:
            poisson = self.sampling == "poisson"
            epsilon = self._ledger.poisson_epsilon if poisson else self._ledger.epsilon
            metrics["epsilon"] = epsilon(self.delta)
        return metrics

    def spent(self) -> float:
        """Return mu of all releases so far; see ``Strategy.spent``."""
        return self._ledger.mu()

    def lost_rounds(self, asked: Sequence[Sequence[str]]) -> None:
        """Charge them: run again, they bear other noise, unless it has a seed."""
        if self.seed is None:
            for clients in asked:
                self._ledger.charge(clients, len(self.run.clients))

    def state(self) -> Adapter:
        """Return what was spent, and the clip."""
        clip = {"value": torch.tensor([self._clip.value])} if self._clip.quantile else {}
        return {**self._ledger.state(), **join_parts({"clip": clip})}

    def load_state(self, state: Adapter) -> None:
        """Go on from what was spent, and with the clip of then."""
        self._ledger.load_state(state)
        clip = take_part(state, "clip")
        if clip and self._clip.quantile:
            self._clip.value = float(clip["value"])
