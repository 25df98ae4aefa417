"""peft's LoRA on a linear layer, computed faster on a CPU: the same function and the same draws.

Left to itself, autograd computes products with a factor ``B (o, r)`` of small r in orders in which
a matrix library takes 6 to 16 times as long as in others, and passes over all states for every
scaling, sum and mask: a fifth of the time of a layer of 768 x 768.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from fl2ora.clip_tuning.derivatives import differentiated
from fl2ora.clip_tuning.dropout import Dropout, keep_mask

_ROWS = 256  # of states, which stay in a processor's cache
_WORTH = 2**16  # numbers in x, below which starting more functions costs more than it saves


class LowRankLinear(Linear):  # type: ignore[misc]  # peft has no types
    """peft's ``lora.Linear`` with a faster way for its plain case on a CPU.

    All else is left to peft: evaluation, whose last digits so do not depend on how many images a
    batch has; few states, DoRA, several adapters, autocast, merged weights, other devices. In the
    faster way hooks of the layers inside are not called.
    """

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """Return ``x W^T + c + s drop(x) A^T B^T`` of ``x (..., i)``, as peft does."""
        trains = torch.is_grad_enabled() and x.numel() >= _WORTH
        if not trains or args or options or not self._is_plain(x):
            return self.as_peft_does(x, *args, **options)
        name, base = self.active_adapters[0], self.get_base_layer()
        dropout = self.lora_dropout[name]
        share = dropout.p if isinstance(dropout, Dropout) and dropout.training else 0.0
        factors = self.lora_A[name].weight, self.lora_B[name].weight
        given = (x, base.weight, base.bias, *factors, self.scaling[name], share)
        found: Tensor = _LowRank.apply(*given)  # type: ignore[no-untyped-call]
        return found

    def as_peft_does(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """Return the same by peft's own code."""
        found: Tensor = super().forward(x, *args, **options)
        return found

    def _is_plain(self, x: Tensor) -> bool:
        names, base = self.active_adapters, self.get_base_layer()
        if self.disable_adapters or self.merged or len(names) != 1 or type(base) is not nn.Linear:
            return False
        name = names[0]
        if name not in self.lora_A or name in self.lora_variant or self.lora_bias[name]:
            return False
        tensors = x, base.weight, self.lora_A[name].weight
        return (
            base.bias is not None
            and not base.weight.requires_grad
            and not base.bias.requires_grad
            and not torch.is_autocast_enabled("cpu")
            and isinstance(self.lora_dropout[name], (Dropout, nn.Identity))
            and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        )


def compute_faster(model: nn.Module) -> None:
    """Make every ``lora.Linear`` of a peft model a ``LowRankLinear``, and its dropout ours.

    Parameters, their names and what peft saves stay as they are.
    """
    layers: list[Any] = list(model.modules())
    for layer in layers:
        if type(layer) is not Linear:
            continue
        layer.__class__ = LowRankLinear
        dropouts = layer.lora_dropout
        for name, dropout in dropouts.items():
            if type(dropout) is nn.Dropout:
                dropouts[name] = Dropout(dropout.p).train(dropout.training)


class _LowRank(torch.autograd.Function):
    """``x W^T + c + s drop(x) A^T B^T``; W and c are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        a: Tensor,
        b: Tensor,
        scale: float,
        share: float,
    ) -> Tensor:
        """Of ``x (..., i)``, ``weight (o, i)``, ``bias (o,)``, ``a (r, i)`` and ``b (o, r)``."""
        states, scale = x.reshape(-1, x.shape[-1]), scale / (1 - share)
        mask = keep_mask(states.shape, share) if share else None
        low = torch.cat([part @ a.T for part in _kept(states, mask)]).mul_(scale)
        ctx.save_for_backward(x, weight, bias, a, b, low, mask)
        ctx.scale = scale
        found = nn.functional.linear(x, weight, bias).contiguous()
        found.view(-1, len(b)).addmm_(low, b.T)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B, from the one of what ``forward`` returned."""
        x, weight, bias, a, b, low, mask = ctx.saved_tensors
        needs, of_x, of_a, of_b = ctx.needs_input_grad, None, None, None
        if torch.is_grad_enabled():  # for a derivative of the derivative
            kept = x if mask is None else x * mask.view(x.shape)
            found = nn.functional.linear(x, weight, bias) + ctx.scale * kept @ a.T @ b.T
            return differentiated(found, (x, weight, bias, a, b, None, None), needs, gradient)
        states, gradient = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        of_low = (gradient @ b.T.contiguous().T).mul_(ctx.scale)
        if needs[0]:
            of_x = gradient @ weight
            _add_kept(of_x, of_low, a, mask)
            of_x = of_x.view(x.shape)
        if needs[3]:
            of_a = torch.zeros_like(a)
            for part, kept in zip(_rows(of_low, mask), _kept(states, mask), strict=True):
                of_a.addmm_(part.T, kept)
        if needs[4]:
            of_b = (low.T @ gradient).T
        return of_x, None, None, of_a, of_b, None, None


def _add_kept(total: Tensor, low: Tensor, a: Tensor, mask: Tensor | None) -> None:
    """Add ``low a`` to ``total`` where the mask is true."""
    if mask is None:
        total.addmm_(low, a)
        return
    for rows, part, kept in zip(*(_rows(each, mask) for each in (total, low, mask)), strict=True):
        rows += (part @ a).mul_(_as_numbers(kept))


def _kept(states: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
    """Yield rows of ``states``, with zeros where the mask is false."""
    if mask is None:
        yield states
    else:
        for rows, kept in zip(_rows(states, mask), _rows(mask, mask), strict=True):
            yield rows * _as_numbers(kept)


def _as_numbers(mask: Tensor) -> Tensor:
    """Return a mask as numbers 0 and 1, by which torch multiplies three times as fast."""
    return mask.view(torch.uint8)


def _rows(states: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    """Return parts to go through one by one where there is a mask, else all at once."""
    return (states,) if mask is None else states.split(_ROWS)
