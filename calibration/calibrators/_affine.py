"""What vector, matrix and Dirichlet scaling share: softmax of an affine map, a convex fit.

Per example the objective is the mean negative log-likelihood plus a diagonal quadratic penalty
``1/2 sum_i k_i (theta_i - anchor_i)^2``, which the server adds itself. Clients send the summed
loss and gradient and, up to ``NEWTON_LIMIT`` parameters, the summed Hessian; beyond that limit the
server takes L-BFGS steps, scaled by the features' second moments where the map is a full matrix.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
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
    as_logits,
    check_choice,
    check_classes,
    check_examples,
    check_number,
    check_whole,
    pack,
    scalar,
    unpack,
)
from fl2ora.calibration.calibrators.base import (
    CalibrationContext,
    Calibrator,
    FitState,
    Parameters,
    Sums,
)

NEWTON_LIMIT = 256
"""Most parameters for which ``solver="auto"`` sums Hessians (65,536 numbers)."""

SOLVERS = ("auto", "newton", "lbfgs")


class AffineCalibrator(Calibrator):
    """Base of the calibrators ``softmax(A x + b)``, with x the logits or their logarithms."""

    exact: ClassVar[bool] = True
    preserves_argmax: ClassVar[bool] = False

    def __init__(self, solver: str, tolerance: float, max_steps: int) -> None:
        self.solver = check_choice("solver", solver, SOLVERS)
        self.tolerance = check_number("tolerance", tolerance, positive=True)
        self.max_steps = check_whole("max_steps", max_steps, 1)

    @abstractmethod
    def identity(self, num_classes: int) -> Parameters:
        """Return ``weight`` and ``bias (K,)`` that change nothing."""

    @abstractmethod
    def scores(self, features: Tensor, parameters: Parameters) -> Tensor:
        """Return the affine map of ``features (N, K)``, ``(N, K)``."""

    @abstractmethod
    def gradient(self, features: Tensor, residuals: Tensor) -> Tensor:
        """Return the flat gradient ``(P,)`` from ``residuals (N, K)``, p minus one-hot label."""

    @abstractmethod
    def hessian(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """Return the summed Hessian ``(P, P)`` of the loss."""

    @abstractmethod
    def penalty(self, num_classes: int) -> tuple[Parameters, Parameters]:
        """Return penalty factors and anchors, each shaped as the parameters."""

    def features(self, logits: Tensor) -> Tensor:
        """Return what the affine map reads, ``(N, K)``; the logits unless overridden."""
        return logits

    def start(self, num_classes: int) -> FitState:
        """Return the identity."""
        check_classes(num_classes)
        parameters = self.identity(num_classes)
        return FitState(parameters, _descent.begin(pack(parameters, parameters)), False)

    def statistics(
        self,
        logits: Tensor,
        labels: Tensor,
        state: FitState,
        *,
        context: CalibrationContext | None = None,
    ) -> Sums:
        """Return ``count``, ``loss``, ``gradient (P,)`` and, for Newton, ``hessian (P, P)``."""
        z = as_logits(logits)
        y = as_labels(labels, z)
        x = self.features(z)
        log_p = self.scores(x, state.parameters).log_softmax(dim=1)
        p = log_p.exp()
        residuals = p - torch.nn.functional.one_hot(y, z.shape[1])
        sums = {
            "count": scalar(len(z)),
            "loss": -log_p.gather(1, y[:, None]).sum(),
            "gradient": self.gradient(x, residuals),
        }
        if self._newton(len(sums["gradient"])):
            sums["hessian"] = self.hessian(x, p)
        else:
            sums |= self.scale(x)
        return sums

    def scale(self, features: Tensor) -> Sums:
        """Return sums over ``features (N, K)`` that ``preconditioner`` reads; none by default."""
        return {}

    def check_sums(self, sums: Sums, state: FitState, num_classes: int) -> None:
        """Refuse sums that no examples have; the gradient of the bias sums residuals in [-1, 1]."""
        count, gradient = examples_of(sums), sums["gradient"]
        point = pack(state.parameters, self.identity(num_classes))
        check_uncertainty(sums["loss"], gradient @ point, count, num_classes)
        check_between("gradient of the bias", gradient[-num_classes:], -count, count)
        if "moments" in sums:
            check_semidefinite("moments", sums["moments"])

    def update(self, state: FitState, sums: Sums) -> FitState:
        """Take one Newton or L-BFGS step on the penalised mean loss."""
        count = check_examples(self, sums)
        like = self.identity(len(state.parameters["bias"]))
        point = pack(state.parameters, like)
        factors, anchors = (pack(part, like) for part in self.penalty(len(like["bias"])))
        offset = point - anchors
        gradient = sums["gradient"] / count + factors * offset
        value = float(sums["loss"] / count + (factors * offset**2).sum() / 2)
        residual = float(gradient.abs().max())
        divide = None if "hessian" in sums else self.preconditioner(sums, factors)
        if divide is not None:  # a small slope may be far from the end where curvature is small
            residual = max(residual, float(gradient @ divide(gradient)) ** 0.5)
        found = _descent.Evaluation(point, value, gradient, residual)

        def direction(solver: Parameters) -> Tensor:
            if "hessian" not in sums:
                return _descent.quasi_newton_direction(solver, divide)
            curvature = sums["hessian"] / count + torch.diag(factors)
            return _descent.newton_direction(curvature, gradient)

        step = _descent.advance(state.solver, found, direction, self.tolerance, self.max_steps)
        return FitState(unpack(step.point, like), step.solver, step.done, step.converged)

    def preconditioner(self, sums: Sums, factors: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return what divides ``(P,)`` by a bound of the Hessian, if there is a cheap one.

        Args:
            sums: of this round.
            factors: ``(P,)`` of the penalty.
        """
        return None

    def restart(self, state: FitState) -> FitState:
        """Forget the loss of other clients."""
        return FitState(state.parameters, _descent.restart(state.solver), state.done)

    def apply(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return the log-softmax of the affine map."""
        features = self.features(as_logits(logits))
        return self.scores(features, parameters).log_softmax(dim=1)

    def _newton(self, size: int) -> bool:
        return self.solver == "newton" or (self.solver == "auto" and size <= NEWTON_LIMIT)


class FullAffineCalibrator(AffineCalibrator):
    """Base of the affine calibrators whose ``weight`` is a full ``(K, K)`` matrix."""

    def identity(self, num_classes: int) -> Parameters:
        """Return the unit matrix and no bias."""
        return {
            "weight": torch.eye(num_classes, dtype=torch.float64),
            "bias": torch.zeros(num_classes, dtype=torch.float64),
        }

    def scores(self, features: Tensor, parameters: Parameters) -> Tensor:
        """Return ``W x + b``."""
        return features @ parameters["weight"].T + parameters["bias"]

    def gradient(self, features: Tensor, residuals: Tensor) -> Tensor:
        """Return the sums of ``r x'`` and ``r``, flat."""
        return torch.cat([(residuals.T @ features).reshape(-1), residuals.sum(dim=0)])

    def scale(self, features: Tensor) -> Sums:
        """Return ``moments (K + 1, K + 1)``, the sum of ``(x, 1)(x, 1)'``."""
        x = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        return {"moments": x.T @ x}

    def preconditioner(self, sums: Sums, factors: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the division by ``1/2 mean (x, 1)(x, 1)'``, which bounds each class's Hessian.

        What is added to all classes alike changes no probability: there the penalty is all.

        Source: Böhning, "Multinomial logistic regression algorithm", 1992.
        """
        bound = sums["moments"] / (2 * sums["count"].sum())
        classes = len(bound) - 1
        bound += torch.eye(classes + 1, dtype=torch.float64) * (
            float(factors.mean()) + 1e-9 * float(bound.trace())
        )
        factor = torch.linalg.cholesky(bound)
        weight, bias = factors[: classes**2].reshape(classes, classes), factors[classes**2 :]
        held = torch.cat([weight, bias[:, None]], dim=1).mean(dim=0)
        shared = torch.where(held > 0, 1 / held.clamp(min=1e-300), torch.zeros_like(held))

        def divide(flat: Tensor) -> Tensor:
            weight, bias = flat[: classes**2].reshape(classes, classes), flat[classes**2 :]
            rows = torch.cat([weight, bias[:, None]], dim=1)
            common = rows.mean(dim=0)
            rows = torch.cholesky_solve((rows - common).T, factor).T + shared * common
            return torch.cat([rows[:, :-1].reshape(-1), rows[:, -1]])

        return divide

    def hessian(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """Return the sum of ``(diag(p) - p p') (x, 1)(x, 1)'`` in the order of the parameters."""
        classes = features.shape[1]
        p, x = probabilities, features
        rows = torch.cat([(p[:, :, None] * x[:, None, :]).flatten(1), p], dim=1)
        total = -rows.T @ rows
        square = classes * classes
        for i in range(classes):
            block = slice(i * classes, (i + 1) * classes)
            first = p[:, i] @ x
            total[block, block] += (x * p[:, i, None]).T @ x
            total[block, square + i] += first
            total[square + i, block] += first
            total[square + i, square + i] += p[:, i].sum()
        return total
