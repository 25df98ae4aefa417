"""A federation of quadratics that fits in a few numbers, to try strategies on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.experiment.plugins import load
from fl2ora.experiment.seeds import derive_seed
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.client_rule import ClientRule, LocalStart
from fl2ora.strategies.updates import ClientUpdate

START: Adapter = {
    "layers.0.q_proj.lora_A.weight": torch.tensor([[0.5, -0.25, 0.75], [0.125, 1.0, -0.5]]),
    "layers.0.q_proj.lora_B.weight": torch.tensor([[0.25, 0.5], [-0.75, 0.125]]),
    "prompt": torch.tensor([0.1, -0.2, 0.3, 0.4]),
}


@dataclass
class ToyClient:
    """A client whose loss is ``weight/2 |theta - target|^2``, trained as a real one is.

    Attributes:
        key: of the client.
        target: its own optimum.
        weight: curvature of its loss.
        num_examples: it claims to have.
        steps: of SGD in every round.
        learning_rate: of SGD.
        momentum: of SGD.
        state: what its rule kept.
    """

    key: str
    target: Adapter
    weight: float = 1.0
    num_examples: int = 1
    steps: int = 3
    learning_rate: float = 0.1
    momentum: float = 0.0
    state: Adapter = field(default_factory=dict)

    def start(
        self,
        received: Adapter,
        tuned: Mapping[str, nn.Parameter] | None = None,
        aux: Adapter | None = None,
        seed: int = 0,
    ) -> LocalStart:
        """Return what its rule is shown when a round begins."""
        return LocalStart(
            tuned or {},
            as_adapter(received),
            as_adapter(aux or {}),
            as_adapter(self.state),
            num_examples=self.num_examples,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            optimiser=f"sgd(momentum={self.momentum!r})",
            seed=seed,
            client=self.key,
        )

    def train(
        self, received: Adapter, rule: ClientRule, aux: Adapter, seed: int = 0
    ) -> ClientUpdate:
        """Train from ``received`` and keep the rule's state; ``seed`` is of client and round."""
        tuned = {name: nn.Parameter(received[name].clone()) for name in sorted(received)}
        optimiser = torch.optim.SGD(
            [*tuned.values()] or [torch.zeros(0, requires_grad=True)],
            lr=self.learning_rate,
            momentum=self.momentum,
        )
        rule.begin(self.start(received, tuned, aux, seed))
        for _ in range(self.steps):
            loss = torch.zeros(())
            for name, parameter in tuned.items():
                loss = loss + self.weight / 2 * (parameter - self.target[name]).square().sum()
            penalty = rule.penalty()
            loss = loss if penalty is None else loss + penalty
            optimiser.zero_grad()
            if loss.requires_grad:
                loss.backward()
                rule.after_backward()
                optimiser.step()
        out, kept = rule.finish(self.steps)
        self.state = as_adapter(kept) or self.state
        metrics = {"loss": float(loss.detach()), "steps": float(self.steps), **rule.metrics()}
        return ClientUpdate(
            self.key, as_adapter(tuned), self.num_examples, metrics, as_adapter(out)
        )


def play_round(plan: RoundPlan, clients: Sequence[ToyClient]) -> list[ClientUpdate]:
    """Return what clients answer to a round's plan, each trained with the strategy's own half."""
    updates = []
    for client in clients:
        rule = load(plan.rule, ClientRule) if plan.rule else ClientRule()
        seed = derive_seed(0, "toy", client.key, plan.round)
        updates.append(client.train(plan.start_of(client.key), rule, plan.aux, seed))
    return updates


def toy_clients(start: Mapping[str, Tensor], count: int = 4) -> list[ToyClient]:
    """Return clients with different optima, curvatures and sizes, and equal numbers of steps."""
    generator = torch.Generator().manual_seed(7)
    return [
        ToyClient(
            key=str(index),
            target={n: t + torch.randn(t.shape, generator=generator) for n, t in start.items()},
            weight=0.5 + 0.25 * index,
            num_examples=10 * (index + 1),
        )
        for index in range(count)
    ]
