"""What beta calibration and Platt scaling share: logistic regression on the top-1 confidence.

``c' = sigmoid(theta' x)`` with x made of ``ln c``, ``-ln(1 - c)`` and 1. The loss
``sum softplus(theta' x) - t theta' x`` is convex. As the targets t depend on the pooled counts
only, clients send the sums that do not involve them, and the server forms loss and gradient.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.calibrators import _descent
from fl2ora.calibration.calibrators._plausible import (
    check_between,
    check_semidefinite,
    check_uncertainty,
    examples_of,
)
from fl2ora.calibration.calibrators._tensors import (
    as_labels,
    check_classes,
    check_examples,
    check_flag,
    scalar,
)
from fl2ora.calibration.calibrators._top1 import Top1, Top1Calibrator, top1
from fl2ora.calibration.calibrators.base import CalibrationContext, FitState, Parameters, Sums

TOLERANCE = 1e-8
"""The fit ends once no entry of the (projected) gradient per example is larger."""


class LogisticCalibrator(Top1Calibrator):
    """Base of the logistic calibrators; parameters: ``coefficients``, the intercept last.

    All but the intercept are kept at 0 or more, so that the map never decreases: every Newton
    step minimises the local quadratic model under these bounds exactly.

    Args:
        smooth: fit to the targets ``(P + 1) / (P + 2)`` of the P correct and ``1 / (Q + 2)`` of
            the Q wrong predictions (Platt 1999) instead of 1 and 0. Then an optimum exists on any
            data; without it, separable data ends at the gradient tolerance.
    """

    exact: ClassVar[bool] = True
    identity: ClassVar[tuple[float, ...]]
    max_steps: int = 50

    def __init__(self, smooth: bool = True) -> None:
        self.smooth = check_flag("smooth", smooth)

    @abstractmethod
    def inputs(self, top: Top1) -> Tensor:
        """Return x, ``(N, P)``, with 1 in the last column."""

    def start(self, num_classes: int) -> FitState:
        """Return the identity."""
        check_classes(num_classes)
        coefficients = torch.tensor(self.identity, dtype=torch.float64)
        return FitState({"coefficients": coefficients}, _descent.begin(coefficients), False)

    def statistics(
        self,
        logits: Tensor,
        labels: Tensor,
        state: FitState,
        *,
        context: CalibrationContext | None = None,
    ) -> Sums:
        """Return the sums of the fit at the current coefficients.

        ``count``, ``softplus``: numbers; ``expected``: sum of ``c' x``; ``hessian``: sum of
        ``c' (1 - c') x x'``; ``positive`` and ``negative``: sums of x over correct and wrong.
        """
        top = top1(logits)
        hits = (top.predicted == as_labels(labels, logits)).double()
        x = self.inputs(top)
        scores = x @ state.parameters["coefficients"]
        p = scores.sigmoid()
        return {
            "count": scalar(len(x)),
            "softplus": torch.logaddexp(scores, torch.zeros_like(scores)).sum(),
            "expected": p @ x,
            "hessian": (x * (p * (-scores).sigmoid())[:, None]).T @ x,
            "positive": hits @ x,
            "negative": (1 - hits) @ x,
        }

    def check_sums(self, sums: Sums, state: FitState, num_classes: int) -> None:
        """Refuse sums that no examples have.

        Of two outcomes, softplus less ``expected`` times the coefficients is the summed entropy;
        the last column counts examples.
        """
        count, expected = examples_of(sums), sums["expected"]
        along = expected @ state.parameters["coefficients"]
        check_uncertainty(sums["softplus"], along, count, num_classes=2)
        check_between("expected", expected[-1], 0, count)
        for name in ("positive", "negative"):
            check_between(name, sums[name][-1], 0, count)
        both = sums["positive"][-1] + sums["negative"][-1]
        check_between("positive and negative", both, count, count)
        check_between("hessian of the intercept", sums["hessian"][-1, -1], 0, count / 4)
        check_semidefinite("hessian", sums["hessian"])

    def update(self, state: FitState, sums: Sums) -> FitState:
        """Take one bounded Newton step."""
        count = check_examples(self, sums)
        point = state.parameters["coefficients"]
        correct, wrong = float(sums["positive"][-1]), float(sums["negative"][-1])
        high, low = ((correct + 1) / (correct + 2), 1 / (wrong + 2)) if self.smooth else (1.0, 0.0)
        wanted = high * sums["positive"] + low * sums["negative"]
        gradient = (sums["expected"] - wanted) / count
        value = float(sums["softplus"] - wanted @ point) / count
        free = torch.zeros_like(point, dtype=torch.bool)
        free[-1] = True
        projected = torch.where(free, point - gradient, (point - gradient).clamp(min=0))
        residual = float((point - projected).abs().max())
        found = _descent.Evaluation(point, value, gradient, residual)
        step = _descent.advance(
            state.solver,
            found,
            lambda _: _bounded_step(found.point, gradient, sums["hessian"] / count),
            TOLERANCE,
            self.max_steps,
        )
        return FitState({"coefficients": step.point}, step.solver, step.done, step.converged)

    def restart(self, state: FitState) -> FitState:
        """Forget the loss of other clients."""
        return FitState(state.parameters, _descent.restart(state.solver), state.done)

    def recalibrate(self, top: Top1, parameters: Parameters) -> Tensor:
        """Return the sigmoid."""
        return (self.inputs(top) @ parameters["coefficients"]).sigmoid()


def _bounded_step(point: Tensor, gradient: Tensor, hessian: Tensor) -> Tensor:
    """Return the step to the minimum of the quadratic model with all but the last entry >= 0.

    With at most two bounded entries every choice of those held at 0 is tried, each drawn within
    the bounds; the choice that holds at the minimum is among them.
    """
    best, best_value = torch.zeros_like(point), 0.0
    for held in product((False, True), repeat=len(point) - 1):
        free = ~torch.tensor([*held, False])
        step = torch.where(free, torch.zeros_like(point), -point)
        pull = (gradient + hessian @ step)[free]
        step[free] = _descent.newton_direction(hessian[free][:, free], pull)
        step[:-1] = step[:-1].clamp(min=-point[:-1])
        value = float(gradient @ step + step @ hessian @ step / 2)
        if value < best_value:
            best, best_value = step, value
    return best
