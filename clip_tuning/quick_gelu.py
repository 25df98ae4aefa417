"""CLIP's activation ``x sigmoid(1.702 x)``, keeping its input alone for the backward pass.

Composed of torch's functions as in transformers, it keeps two tensors as large as an MLP is wide
and passes over memory seven times; this keeps one and takes half the time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from fl2ora.clip_tuning.derivatives import differentiated

_SLOPE = 1.702
_WORTH = 2**16  # numbers, below which a function in Python costs more than it saves


class QuickGELU(QuickGELUActivation):  # type: ignore[misc]  # transformers has no types
    """``x sigmoid(1.702 x)``, equal to transformers' bit for bit.

    Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2: an approximation of GELU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x`` of any shape."""
        if not torch.is_grad_enabled():
            return _QuickGELU.forward(x)
        way = super().forward if x.numel() < _WORTH else _QuickGELU.apply
        found: Tensor = way(x)
        return found


def keep_less(model: nn.Module) -> None:
    """Put a ``QuickGELU`` into every MLP that has transformers' one."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is QuickGELUActivation:
                setattr(module, name, QuickGELU())


class _QuickGELU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sigmoid(_SLOPE * x).mul_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor | None:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a derivative of the derivative
            again = x * torch.sigmoid(_SLOPE * x)
            return differentiated(again, (x,), ctx.needs_input_grad, gradient)[0]
        found: Tensor = torch.ops.aten.silu_backward(gradient, _SLOPE * x)
        return found
