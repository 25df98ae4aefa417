"""Temperature scaling: one number for all logits, fitted by Newton's method on summed derivatives.

``p = softmax(beta z)`` with ``beta = 1 / T``. The negative log-likelihood is convex in ``beta``;
its sum, slope and curvature are sums over examples:
``L = sum lse(beta z) - beta z_y``, ``g = sum E_p[z] - z_y``, ``h = sum Var_p(z)``.

Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", 2017,
arXiv 1706.04599.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._plausible import (
    check_between,
    check_uncertainty,
    examples_of,
)
from fl2ora.calibration.calibrators._tensors import (
    as_labels,
    as_logits,
    check_classes,
    check_examples,
    scalar,
)
from fl2ora.calibration.calibrators.base import (
    CalibrationContext,
    Calibrator,
    FitState,
    Parameters,
    Sums,
)

LEAST, MOST = 1 / 20, 20.0
"""The range of ``beta``, i.e. T in [0.05, 20]: separable data would drive it to infinity, data
that is wrong throughout to 0."""

TOLERANCE = 1e-6
"""The fit ends once the slope per example is below this."""

LONGEST_STEP = 1e6


class Temperature(Calibrator):
    """Divide the logits by one temperature; the identity is T = 1.

    Parameters: ``inverse_temperature``, ``beta = 1 / T``.

    A round sends four numbers: the count, L, g and h at the current ``beta``. The server takes
    ``beta - g / h``, halving the step while it would not be positive, and halving it again, at
    the cost of a round, when L rises.
    """

    exact: ClassVar[bool] = True
    preserves_argmax: ClassVar[bool] = True
    max_steps: int = 20

    def start(self, num_classes: int) -> FitState:
        """Return ``beta = 1``."""
        check_classes(num_classes)
        solver = {"base": 1.0, "base_loss": torch.inf, "base_slope": 0.0, "rounds": 0.0}
        return FitState(
            {"inverse_temperature": scalar(1)}, {k: scalar(v) for k, v in solver.items()}, False
        )

    def statistics(
        self,
        logits: Tensor,
        labels: Tensor,
        state: FitState,
        *,
        context: CalibrationContext | None = None,
    ) -> Sums:
        """Return ``count``, ``loss`` L, ``slope`` g and ``curvature`` h, one number each."""
        z = as_logits(logits)
        y = as_labels(labels, z)
        z = z - z.amax(dim=1, keepdim=True)  # nothing below depends on a row's shift
        scaled = z * state.parameters["inverse_temperature"]
        p = scaled.softmax(dim=1)
        mean = (p * z).sum(dim=1, keepdim=True)
        of_label = y[:, None]
        return {
            "count": scalar(len(z)),
            "loss": (scaled.logsumexp(dim=1) - scaled.gather(1, of_label).squeeze(1)).sum(),
            "slope": (mean - z.gather(1, of_label)).sum(),
            "curvature": (p * (z - mean) ** 2).sum(),
        }

    def check_sums(self, sums: Sums, state: FitState, num_classes: int) -> None:
        """Refuse sums that no examples have.

        ``L - beta g`` is the summed entropy, and ``beta^2 h`` the summed variance of ``ln p``,
        which is below ``(ln K)^2 / 4 + 1`` for each example (Reeb and Wolf 2015, arXiv 1304.0036).
        """
        count, beta = examples_of(sums), state.parameters["inverse_temperature"]
        check_uncertainty(sums["loss"], beta * sums["slope"], count, num_classes)
        most = count * (math.log(num_classes) ** 2 / 4 + 1)
        check_between("curvature", beta**2 * sums["curvature"], 0, most)

    def update(self, state: FitState, sums: Sums) -> FitState:
        """Accept or shorten the last step, then take the next Newton step."""
        count = check_examples(self, sums)
        trial = float(state.parameters["inverse_temperature"])
        base, base_loss = float(state.solver["base"]), float(state.solver["base_loss"])
        loss, slope = float(sums["loss"]) / count, float(sums["slope"])
        rounds = float(state.solver["rounds"]) + 1
        moved, base_slope = trial - base, float(state.solver["base_slope"])
        accepted = loss <= base_loss + 1e-13 * abs(loss)
        if math.isinf(base_loss):  # losses of other clients: judge by the slope alone
            accepted = slope / count * moved <= 0.5 * abs(base_slope * moved)
        if accepted:
            base, base_loss, base_slope = trial, loss, slope / count
            following = _newton(trial, slope, float(sums["curvature"]))
            done = abs(slope) / count < TOLERANCE
        else:
            following, done = (base + trial) / 2, False
            if math.isinf(base_loss):  # the way back may lead beyond a base that others chose
                base, base_loss, base_slope = trial, loss, slope / count
        done = done or abs(following - base) <= 1e-12 * base
        converged, done = done, done or rounds >= self.max_steps
        solver = {"base": base, "base_loss": base_loss, "base_slope": base_slope, "rounds": rounds}
        return FitState(
            {"inverse_temperature": scalar(base if done else following)},
            {name: scalar(value) for name, value in solver.items()},
            done,
            converged,
        )

    def restart(self, state: FitState) -> FitState:
        """Forget the loss of other clients."""
        solver = {**state.solver, "base_loss": scalar(torch.inf)}
        return FitState(state.parameters, solver, state.done)

    def apply(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return ``log softmax(beta z)``."""
        return (as_logits(logits) * parameters["inverse_temperature"]).log_softmax(dim=1)


def _newton(beta: float, slope: float, curvature: float) -> float:
    """Return the Newton step from ``beta``, halved while it is not positive, in range."""
    if slope == 0:
        return beta
    step = -slope / curvature if curvature > 0 else (-LONGEST_STEP if slope > 0 else LONGEST_STEP)
    step = min(max(step, -LONGEST_STEP), LONGEST_STEP)
    while beta + step <= 0:
        step /= 2
    return min(max(beta + step, LEAST), MOST)
