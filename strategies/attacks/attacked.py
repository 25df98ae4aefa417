"""Simulated attacks: some clients misbehave under any strategy, for tests and studies.

The attacks are the files of ``strategies/attacks``. Every client reports ``attack`` (1 or 0), which
the run's record keeps with its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.errors import UserError, listed
from fl2ora.experiment.plugins import load
from fl2ora.strategies._wrapping import Wrapping
from fl2ora.strategies.attacks.base import Attack
from fl2ora.strategies.base import RoundPlan, RunInfo, Strategy
from fl2ora.strategies.client_rule import ClientRule, LocalStart


class Attacked(Wrapping):
    """``inner`` with the clients of some keys attacking.

    Args:
        inner: spec of the strategy under attack, such as ``krum(malicious=2)``; not ``attacked``.
        clients: comma-separated keys of the attackers, all of them clients of the run.
        attack: spec of what they do: ``sign_flip``, ``scaling(factor=10.0)``, ``label_flip``,
            ``logit_scaling(factor=0.1)`` or ``module:Rule(...)``.
    """

    def __init__(
        self, inner: str = "fedavg", clients: str = "0", attack: str = "sign_flip"
    ) -> None:
        super().__init__(inner)
        _refuse_second(self.inner)
        self._rule = AttackedRule(clients=clients, attack=attack)

    def begin(self, run: RunInfo) -> None:
        """Refuse attackers that are no clients; see ``Strategy.begin``."""
        super().begin(run)
        strangers = sorted(self._rule.keys - set(run.clients))
        if strangers:
            raise UserError(
                f"strategy 'attacked': clients: expected keys of the run's {len(run.clients)} "
                f"clients, such as {run.clients[0]!r}, found {listed(strangers)}"
            )

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Send every client a rule around the inner strategy's."""
        plan = super().plan(server_round, current, clients)
        parts = {"inner": plan.rule, "clients": self._rule.clients, "attack": self._rule.attack}
        arguments = ", ".join(f"{name}={text!r}" for name, text in parts.items())
        return replace(plan, rule=f"attacked({arguments})")


def _refuse_second(inner: Strategy) -> None:
    """Refuse an attack within an attack: a client's record would say of one of them only."""
    while isinstance(inner, Wrapping):
        if isinstance(inner, Attacked):
            raise ValueError("inner: expected a strategy without attackers, found 'attacked'")
        inner = inner.inner


class AttackedRule(ClientRule):
    """The inner strategy's client half, and on the attackers the attack after it.

    State and aux are the inner rule's: what it remembers is not falsified.

    Args:
        inner: spec of the inner rule; empty: plain local training.
        clients: comma-separated keys of the attackers.
        attack: spec of a rule in ``strategies/attacks``, or ``module:Rule(...)``.
    """

    def __init__(self, inner: str = "", clients: str = "", attack: str = "sign_flip") -> None:
        self.clients = clients
        self.attack = attack
        self.keys = {key.strip() for key in clients.split(",") if key.strip()}
        self._inner = load(inner, ClientRule) if inner else ClientRule()
        self._attack = load(attack, Attack)
        self._rules = [self._inner]

    def begin(self, start: LocalStart) -> None:
        """See who this is."""
        if start.client in self.keys:
            self._rules = [self._inner, self._attack]
        for rule in self._rules:
            rule.begin(start)

    def labels(self, labels: Tensor, num_classes: int) -> Tensor:
        """Pass the labels through the rules."""
        for rule in self._rules:
            labels = rule.labels(labels, num_classes)
        return labels

    def logits(self, logits: Tensor) -> Tensor:
        """Pass the logits through the rules."""
        for rule in self._rules:
            logits = rule.logits(logits)
        return logits

    def penalty(self) -> Tensor | None:
        """Return the sum of the penalties."""
        terms = [term for rule in self._rules if (term := rule.penalty()) is not None]
        return None if not terms else sum(terms[1:], start=terms[0])

    def after_backward(self) -> None:
        """Let the rules change the gradients in turn."""
        for rule in self._rules:
            rule.after_backward()

    def finish(self, steps: int) -> tuple[Adapter, Adapter]:
        """Finish honestly, then attack."""
        aux, state = self._inner.finish(steps)
        for rule in self._rules[1:]:
            rule.finish(steps)
        return aux, state

    def metrics(self) -> dict[str, float]:
        """Return the rules' metrics, and whether this client attacks."""
        found = {name: value for rule in self._rules for name, value in rule.metrics().items()}
        return {**found, "attack": float(len(self._rules) > 1)}
