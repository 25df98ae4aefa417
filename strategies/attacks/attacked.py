"""Simulated attacks: some clients misbehave under any strategy, for tests and studies.

The attacks are the files of ``strategies/attacks``. Every client reports ``attack`` (1 or 0), which
the run's record keeps with its key.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.plugins import load
from fl2ora.strategies._wrapping import Wrapping
from fl2ora.strategies.attacks.base import Attack
from fl2ora.strategies.client_rule import ClientRule, LocalStart


class Attacked(Wrapping):
    """``inner`` with the clients of some keys attacking.

    Args:
        inner: spec of the strategy under attack, such as ``krum(malicious=2)``.
        clients: comma-separated keys of the attackers.
        attack: spec of what they do: ``sign_flip``, ``scaling(factor=10.0)``, ``label_flip``,
            ``logit_scaling(factor=0.1)`` or ``module:Rule(...)``.
    """

    def __init__(
        self, inner: str = "fedavg", clients: str = "0", attack: str = "sign_flip"
    ) -> None:
        super().__init__(inner)
        self._rule = AttackedRule(clients=clients, attack=attack)

    def client_rule(self) -> str:
        """Return a rule that every client wraps around the inner strategy's."""
        parts = {
            "inner": self.inner.client_rule(),
            "clients": self._rule.clients,
            "attack": self._rule.attack,
        }
        return f"attacked({', '.join(f'{name}={text!r}' for name, text in parts.items())})"


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
        self._keys = {key.strip() for key in clients.split(",")}
        self._inner = load(inner, ClientRule) if inner else ClientRule()
        self._attack = load(attack, Attack)
        self._rules = [self._inner]

    def begin(self, start: LocalStart) -> None:
        """See who this is."""
        if start.client in self._keys:
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
