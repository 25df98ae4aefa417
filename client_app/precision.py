"""The number formats in which a model is trained; what is tuned is float32 in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fl2ora.experiment.errors import UserError

_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_LARGEST = 2.0**16


def forward_in(precision: str, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass; see ``TrainingPlan.precision``."""
    half = _HALVES.get(precision)
    return torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None)


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Let a CUDA device multiply matrices of float32 in TF32, if ``precision`` is ``tf32``."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class LossScale:
    """What an objective is multiplied by, so that float16 gradients inside do not vanish.

    Micikevicius et al. 2018, arXiv 1710.03740. It starts at 2^16. Where a gradient overflows, it is
    halved and the same batch taken again, so that no step is lost and steps are counted as without.
    """

    def __init__(self) -> None:
        self._scale = _LARGEST

    def backward(
        self,
        objective: Tensor,
        parameters: Sequence[nn.Parameter],
        clear: Callable[[], None],
    ) -> None:
        """Fill the gradients of an objective, as they are without scale.

        Args:
            objective: scalar.
            parameters: that it may reach.
            clear: forgets their gradients.

        Raises:
            UserError: they are not finite at any scale down to 1.
        """
        while self._scale >= 1:
            (objective * self._scale).backward(retain_graph=True)
            gradients = [p.grad.div_(self._scale) for p in parameters if p.grad is not None]
            finite = [gradient.isfinite().all() for gradient in gradients]
            if not finite or bool(torch.stack(finite).all()):
                return
            clear()
            self._scale /= 2
        raise UserError(
            "precision: expected gradients that float16 can hold, found some that are not finite; "
            "bfloat16 or float32 may help"
        )
