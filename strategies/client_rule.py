"""The client half of a strategy: how local training differs from its loss alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fl2ora.clip_tuning.adapter import Adapter


@dataclass(frozen=True)
class LocalStart:
    """Where a client stands when a round of local training begins.

    Attributes:
        tuned: the live parameters, already equal to ``received``.
        received: the adapter the server sent, float32 on the CPU.
        aux: further tensors the strategy sent.
        state: what ``finish`` returned when this client last took part; empty at first.
        num_examples: images this client trains on.
        learning_rate: of the round's first step.
        momentum: of its optimiser; 0 where it has none.
        weight_decay: of its optimiser.
        optimiser: its spec string, such as ``sgd(momentum=0.9)``.
        seed: of this client in this round.
        client: its key.
    """

    tuned: Mapping[str, nn.Parameter]
    received: Adapter
    aux: Adapter = field(default_factory=dict)
    state: Adapter = field(default_factory=dict)
    num_examples: int = 0
    learning_rate: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimiser: str = "sgd(momentum=0.0, weight_decay=0.0)"
    seed: int = 0
    client: str = ""


class ClientRule:
    """Plain local training; a strategy's file may subclass it.

    A rule is constructed anew for every round from the spec the server sends; what it must
    remember goes into the state that ``finish`` returns, which stays on the node.
    """

    def begin(self, start: LocalStart) -> None:
        """Look at the start of a round; may change ``start.tuned`` in place."""

    def labels(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the labels ``(B,)`` to train on."""
        return labels

    def logits(self, logits: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` to compute the loss of."""
        return logits

    def penalty(self) -> Tensor | None:
        """Return a scalar added to the loss of every batch, or None.

        Of the batches of one step, whose gradients are averaged, it counts once.
        """
        return None

    def after_backward(self) -> None:
        """Change the gradients of the tuned parameters in place before the optimiser's step."""

    def finish(self, steps: int) -> tuple[Adapter, Adapter]:
        """Return ``(aux, state)``: tensors for the strategy, and what to keep on the node.

        May change the tuned parameters in place: what they are afterwards is what is sent.

        Args:
            steps: optimiser steps taken this round.
        """
        return {}, {}

    def personal(self, received: Adapter, state: Adapter) -> Adapter:
        """Return the client's own model where it is not the global one; asked apart from training.

        Args:
            received: the global adapter.
            state: what ``finish`` returned when this client last took part; empty for one that
                never did.
        """
        return received

    def metrics(self) -> dict[str, float]:
        """Return further scalars for the run's record, asked for after ``finish``."""
        return {}


def like_tuned(adapter: Mapping[str, Tensor], tuned: Mapping[str, nn.Parameter]) -> Adapter:
    """Return a copy of ``adapter`` on the devices of the tuned parameters."""
    return {name: adapter[name].detach().to(tuned[name], copy=True) for name in tuned}


@torch.no_grad()
def put_values(tuned: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Change the tuned parameters in place that ``values`` has something for."""
    for name in tuned.keys() & values.keys():
        tuned[name].copy_(values[name])


def zeros_unless(adapter: Mapping[str, Tensor], tuned: Mapping[str, nn.Parameter]) -> Adapter:
    """Return ``adapter`` on the devices of the tuned parameters; zeros where it has nothing."""
    known = {name: adapter.get(name, torch.zeros_like(tuned[name])) for name in tuned}
    return like_tuned(known, tuned)


def add_to_gradient(parameter: nn.Parameter, term: Tensor) -> None:
    """Add ``term`` to a parameter's gradient, which a loss that does not reach it leaves empty."""
    term = term.detach()
    parameter.grad = term.clone() if parameter.grad is None else parameter.grad.add_(term)
