"""Sign flip: the client sends its change with the opposite sign.

Li et al. 2018, arXiv 1811.03761.
"""

from __future__ import annotations

from fl2ora.strategies.attacks.scaling import Scaling


class SignFlip(Scaling):
    """Sends ``theta_t - factor (theta_k - theta_t)``.

    Args:
        factor: above 0.
    """

    def __init__(self, factor: float = 1.0) -> None:
        if not 0 < factor < float("inf"):
            raise ValueError(f"factor: expected a finite number above 0, found {factor}")
        super().__init__(-factor)
