"""The client half of a strategy: how local training differs from plain SGD on the loss."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from clip_tuning.adapter import Adapter


class ClientRule:
    """Plain local training; a strategy's file may subclass it.

    A rule is constructed anew for every round from the spec the server sends; what it must
    remember goes into the state that ``finish`` returns.
    """

    def begin(
        self,
        tuned: Mapping[str, nn.Parameter],
        received: Adapter,
        aux: Adapter,
        state: Adapter,
    ) -> None:
        """Look at the start of a round.

        Args:
            tuned: the live parameters, already equal to ``received``.
            received: the adapter the server sent, float32 on the CPU.
            aux: further tensors the strategy sent.
            state: what ``finish`` returned when this client last took part; empty at first.
        """

    def penalty(self) -> Tensor | None:
        """Return a scalar added to the loss of every step, or None."""
        return None

    def after_backward(self) -> None:
        """Change the gradients of ``tuned`` in place before the optimiser's step."""

    def finish(self, steps: int) -> tuple[Adapter, Adapter]:
        """Return ``(aux, state)``: tensors for the strategy, and what to keep on the node.

        Args:
            steps: optimiser steps taken this round.
        """
        return {}, {}
