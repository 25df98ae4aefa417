"""Local differential privacy: every client clips its change and adds noise before it sends it.

The local model of Kasiviswanathan et al. 2008, arXiv 0803.0924, with the Gaussian mechanism; what
a client sends is protected from the server too. See docs/privacy.md.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter, as_adapter, check_finite
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.experiment.seeds import derive_seed
from fl2ora.strategies._wrapping import Wrapping, own_tensors
from fl2ora.strategies.base import RoundPlan, RunInfo
from fl2ora.strategies.client_rule import ClientRule, LocalStart
from fl2ora.strategies.named_parts import join_parts, take_part
from fl2ora.strategies.privacy._epsilon import check_privacy
from fl2ora.strategies.privacy._ledger import Ledger, composed
from fl2ora.strategies.privacy._noise import clipped, gaussian_noise
from fl2ora.strategies.updates import ClientUpdate

logger = logging.getLogger(__name__)

_RELEASES = "releases"
_SENSITIVITY = 2.0  # any change of norm C may stand for any other


class LocalDP(Wrapping):
    """``inner`` on what clients send: ``theta + clip(theta_k - theta) + N(0, (z C)^2)``.

    Works with every inner strategy whose client half, if it has one, sends and keeps nothing but
    the adapter: such tensors would leave the node without noise, or contradict what left it.
    To ``inner`` every client has one example: the numbers that clients report bear no noise, and
    with unequal weights the mean would carry more than ``z C / sqrt(m)``.

    Args:
        inner: spec of the strategy that aggregates.
        clip: C, the largest L2 norm of a change over all tensors.
        noise_multiplier: z; 0 protects nothing.
        delta: at which epsilon is reported.
        seed: of the noise. None draws it from each node's operating system; a number is for
            simulations that must repeat. It is sent to the nodes, so the server could take the
            noise away again.
    """

    def __init__(
        self,
        inner: str = "fedavg",
        clip: float = 1.0,
        noise_multiplier: float = 1.0,
        delta: float = 1e-5,
        seed: int | None = None,
    ) -> None:
        check_privacy(clip, noise_multiplier, delta, seed)
        if seed is not None:
            logger.warning("local_dp: with a seed the noise can be removed; for simulations only")
        super().__init__(inner)
        self._noise = {
            "clip": clip,
            "noise_multiplier": noise_multiplier,
            "delta": delta,
            "seed": seed,
        }
        self._delta = delta
        self._ledger = Ledger(noise_multiplier)

    def begin(self, run: RunInfo) -> None:
        """Try the inner client half out, without training; see ``Strategy.begin``.

        Raises:
            UserError: it sends or keeps tensors of its own.
        """
        super().begin(run)
        self._ledger.carry(run.spent)
        for rule, aux, state in own_tensors(self.inner):
            _refuse_own_tensors(rule, aux, state)

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Count the releases of those asked, whose rule clips and adds noise after the inner's."""
        plan = super().plan(server_round, current, clients)
        self._ledger.spend(clients)
        parts = {"inner": plan.rule, **self._noise}
        arguments = ", ".join(f"{name}={value!r}" for name, value in parts.items())
        return replace(plan, rule=f"local_dp({arguments})")

    def check_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        """Let the inner strategy check what it will see."""
        super().check_update(plan, _one_example(update))

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Let the inner strategy combine clients of equal weight; see ``Strategy.aggregate``."""
        return super().aggregate(plan, map(_one_example, updates))

    def spent(self) -> float:
        """Return mu of all releases so far; see ``Strategy.spent``."""
        return self._ledger.mu()

    def metrics(self) -> dict[str, float]:
        """Return the inner strategy's metrics, and epsilon of the client asked most often."""
        metrics = {**self.inner.metrics()}
        if self._ledger.noise_multiplier and self._ledger.mu() < math.inf:
            metrics["epsilon"] = self._ledger.epsilon(self._delta, _SENSITIVITY)
        return metrics

    def lost_rounds(self, asked: Sequence[Sequence[str]]) -> None:
        """Charge them: run again, they bear other noise, unless it has a seed."""
        super().lost_rounds(asked)
        if self._noise["seed"] is None:
            for clients in asked:
                self._ledger.spend(clients)

    def state(self) -> Adapter:
        """Return the inner strategy's state and what was spent."""
        return join_parts({"inner": self.inner.state(), "spent": self._ledger.state()})

    def load_state(self, state: Adapter) -> None:
        """Load the inner strategy's state and go on from what was spent."""
        self.inner.load_state(take_part(state, "inner"))
        self._ledger.load_state(take_part(state, "spent"))


class LocalDPRule(ClientRule):
    """The inner client half, and after it clipping and noise on the node.

    Args:
        inner: spec of the inner rule; empty: plain local training.
        clip: C.
        noise_multiplier: z.
        delta: at which epsilon is reported.
        seed: None: noise from the operating system; see ``LocalDP``.
    """

    def __init__(
        self,
        inner: str = "",
        clip: float = 1.0,
        noise_multiplier: float = 1.0,
        delta: float = 1e-5,
        seed: int | None = None,
    ) -> None:
        check_privacy(clip, noise_multiplier, delta, seed)
        self._spec = inner
        self._inner = load(inner, ClientRule) if inner else ClientRule()
        self._clip = clip
        self._multiplier = noise_multiplier
        self._delta = delta
        self._seed = seed
        self._releases = 0

    def begin(self, start: LocalStart) -> None:
        """See where the round starts, and how often this node has answered before."""
        self._start = start
        self._releases = int(start.state.get(_RELEASES, 0))
        self._inner.begin(start)

    def labels(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the inner rule's labels."""
        return self._inner.labels(labels, num_classes)

    def logits(self, logits: Tensor) -> Tensor:
        """Return the inner rule's logits."""
        return self._inner.logits(logits)

    def penalty(self) -> Tensor | None:
        """Return the inner rule's penalty."""
        return self._inner.penalty()

    def after_backward(self) -> None:
        """Let the inner rule change the gradients."""
        self._inner.after_backward()

    def finish(self, steps: int) -> tuple[Adapter, Adapter]:
        """Finish the inner rule, clip, add noise and count the release.

        Raises:
            UserError: the inner rule sends or keeps tensors of its own.
            AdapterError: training diverged; nothing is sent.
        """
        _refuse_own_tensors(self._spec, *self._inner.finish(steps))
        start = self._start
        trained = as_adapter(start.tuned)
        check_finite(trained, "update")
        kept = clipped(trained, start.received, self._clip)
        seed = None
        if self._seed is not None:
            seed = derive_seed(self._seed, "local_dp", start.client, start.seed)
        noise = gaussian_noise(kept, self._multiplier * self._clip, seed)
        with torch.no_grad():
            for name, parameter in start.tuned.items():
                parameter.copy_(kept[name] + noise[name])
        self._releases += 1
        return {}, {_RELEASES: torch.tensor([float(self._releases)])}

    def metrics(self) -> dict[str, float]:
        """Return what this node has spent; its loss is withheld, as nothing hides it."""
        metrics = {"loss": math.nan, _RELEASES: float(self._releases)}
        if self._multiplier:
            spent = composed(self._releases, self._multiplier, self._delta, _SENSITIVITY)
            metrics["epsilon"] = spent
        return metrics


def _one_example(update: ClientUpdate) -> ClientUpdate:
    return replace(update, num_examples=1)


def _refuse_own_tensors(spec: str, aux: Adapter, state: Adapter) -> None:
    if aux or state:
        what = "sends" if aux else "keeps"
        raise UserError(
            f"local_dp: the inner strategy's client half {spec!r} {what} tensors beside the "
            f"adapter, which clipping and noise do not cover: expected one that changes only what "
            f"is trained, such as fedavg, fedprox, ffa_lora, median or fedadam"
        )
