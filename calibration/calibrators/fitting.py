"""The loop of a fit, on one machine or as a federation runs it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from fl2ora.calibration.calibrators.base import (
        CalibrationContext,
        Calibrator,
        FitState,
        Parameters,
        Sums,
    )


def add_sums(parts: Iterable[Sums]) -> Sums:
    """Add the clients' sums name by name.

    Raises:
        ValueError: two clients sent different names.
    """
    total: Sums = {}
    for part in parts:
        if total and part.keys() != total.keys():
            raise ValueError(f"sums: expected the names {sorted(total)}, found {sorted(part)}")
        total = {name: total[name] + value if total else value for name, value in part.items()}
    return total


def fit(
    calibrator: Calibrator,
    clients: Sequence[tuple[Tensor, Tensor]],
    contexts: Sequence[CalibrationContext] | None = None,
) -> Parameters:
    """Return the parameters of ``fit_to_the_end``."""
    return fit_to_the_end(calibrator, clients, contexts).parameters


def fit_to_the_end(
    calibrator: Calibrator,
    clients: Sequence[tuple[Tensor, Tensor]],
    contexts: Sequence[CalibrationContext] | None = None,
) -> FitState:
    """Fit on the calibration data of all ``clients``, each ``(logits (N, K), labels (N,))``.

    One client is the local fit; several are what a federation computes, message for message.

    Args:
        calibrator: what to fit.
        clients: at least one; clients without examples are welcome.
        contexts: one per client, for calibrators with ``fit_needs``.

    Returns:
        The last state, whose ``converged`` says whether the fit met its tolerance.
    """
    if not clients:
        raise ValueError("clients: expected at least one, found none")
    extras = [None] * len(clients) if contexts is None else list(contexts)
    state = calibrator.start(int(clients[0][0].shape[1]))
    for _ in range(calibrator.max_steps):
        if state.done:
            break
        parts = [
            calibrator.statistics(logits, labels, state, context=context)
            for (logits, labels), context in zip(clients, extras, strict=True)
        ]
        state = calibrator.update(state, add_sums(parts))
    return state
