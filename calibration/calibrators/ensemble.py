"""Ensemble temperature scaling: a mixture of scaled, plain and uniform predictions.

``w1 softmax(z / T) + w2 softmax(z) + w3 / K`` with ``w`` on the simplex: T first, by temperature
scaling, then the weights. Squared error needs one more round at most: it is
``w' G w - 2 h' w`` with ``G_ij = sum <p_i, p_j>`` and ``h_i = sum p_i[y]``, minimised exactly over
the simplex. Cross-entropy takes one round of expectation maximisation and then Newton steps on the
simplex, until the weights are provably within ``TOLERANCE`` of the optimum: with r_i the ratio of
member i's probability of the label to the mixture's, no weights have a mean cross-entropy lower by
more than ``max_i mean r_i - 1`` (a bound by convexity, 0 at the optimum).

Source: Zhang, Kailkhura, Han, "Mix-n-Match: ensemble and compositional methods for uncertainty
calibration in deep learning", 2020, arXiv 2003.07329 (squared error is their default).
"""

from __future__ import annotations

import math
from itertools import chain, combinations
from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._plausible import (
    check_between,
    check_semidefinite,
    examples_of,
)
from fl2ora.calibration.calibrators._tensors import (
    as_labels,
    as_logits,
    check_choice,
    check_examples,
    check_whole,
    scalar,
)
from fl2ora.calibration.calibrators.base import (
    CalibrationContext,
    Calibrator,
    FitState,
    Parameters,
    Sums,
)
from fl2ora.calibration.calibrators.temperature import Temperature

TOLERANCE = 1e-9
"""Nats per example by which the weights may miss the least cross-entropy."""

_LARGEST_LOG_RATIO = 115.0


class Ensemble(Calibrator):
    """Mix the scaled, the plain and the uniform prediction.

    Parameters: ``inverse_temperature`` (``1 / T``) and ``weights (3,)`` in the order above.

    Clients need not know the phase: a round always sends the four numbers of temperature scaling
    and, for the weights, 12 (squared error) or 16 (cross-entropy) at the current temperature.

    Args:
        objective: ``"mse"`` or ``"ce"``, what the weights minimise.
        weight_steps: the most rounds for the weights; unused by ``"mse"``.
    """

    exact: ClassVar[bool] = True
    preserves_argmax: ClassVar[bool] = True

    def __init__(self, objective: str = "mse", weight_steps: int = 100) -> None:
        self.objective = check_choice("objective", objective, ("mse", "ce"))
        self.weight_steps = check_whole("weight_steps", weight_steps, 1)
        self._scaling = Temperature()
        self.max_steps = self._scaling.max_steps + (1 if objective == "mse" else weight_steps)

    def start(self, num_classes: int) -> FitState:
        """Return T = 1 with all weight on the plain prediction."""
        state = self._scaling.start(num_classes)
        weights = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        solver = {**state.solver, "scaled": scalar(0), "weight_rounds": scalar(0)}
        solver |= {"best": weights, "best_loss": scalar(torch.inf)}
        return FitState({**state.parameters, "weights": weights}, solver, False)

    def statistics(
        self,
        logits: Tensor,
        labels: Tensor,
        state: FitState,
        *,
        context: CalibrationContext | None = None,
    ) -> Sums:
        """Return temperature scaling's sums with ``products`` G and ``hits`` h.

        For cross-entropy: with ``shares`` of the members in the label's probability, the ``mixed``
        loss, ``ratios`` r and their ``squares`` r r'.
        """
        sums = self._scaling.statistics(logits, labels, state)
        z = as_logits(logits)
        index = as_labels(labels, z)[:, None].expand(-1, 3)[:, :, None]
        members = _members(z, state.parameters)
        of_label = members.gather(2, index).squeeze(2)
        if self.objective == "ce":
            weighted = of_label + state.parameters["weights"].log()
            mixture = weighted.logsumexp(dim=1, keepdim=True)
            ratios = (of_label - mixture).clamp(max=_LARGEST_LOG_RATIO).exp()
            return {
                **sums,
                "shares": weighted.softmax(dim=1).sum(dim=0),
                "mixed": -mixture.sum(),
                "ratios": ratios.sum(dim=0),
                "squares": ratios.T @ ratios,
            }
        p = members.exp()
        return {
            **sums,
            "products": torch.einsum("nik,njk->ij", p, p),
            "hits": of_label.exp().sum(dim=0),
        }

    def check_sums(self, sums: Sums, state: FitState, num_classes: int) -> None:
        """Refuse sums that no examples have.

        Probabilities lie in [0, 1], the shares add up to the count, and the mean of the ratios
        under the weights is 1.
        """
        self._scaling.check_sums(sums, state, num_classes)
        count, weights = examples_of(sums), state.parameters["weights"]
        if self.objective == "mse":
            check_between("products", sums["products"], 0, count)
            check_between("hits", sums["hits"], 0, count)
            check_semidefinite("products", sums["products"])
            return
        check_between("shares", sums["shares"], 0, count)
        check_between("shares, added", sums["shares"].sum(), count, count)
        check_between("mixed", sums["mixed"], 0, math.inf)
        check_between("ratios", sums["ratios"], 0, math.inf)
        check_between("ratios under the weights", weights @ sums["ratios"], count, count)
        check_semidefinite("squares", sums["squares"])

    def update(self, state: FitState, sums: Sums) -> FitState:
        """Take one step of the temperature until it stands, then of the weights."""
        count = check_examples(self, sums)
        if not state.solver["scaled"]:
            return self._scale(state, sums)
        beta, rounds = state.parameters["inverse_temperature"], state.solver["weight_rounds"] + 1
        solver = {**state.solver, "weight_rounds": rounds}
        if self.objective == "mse":
            weights = simplex_minimum(sums["products"], sums["hits"])
            return FitState({"inverse_temperature": beta, "weights": weights}, solver, True)
        return self._climb(state, sums, solver, count)

    def _climb(self, state: FitState, sums: Sums, solver: Parameters, count: float) -> FitState:
        """Take a step of the weights towards the least cross-entropy."""
        beta, weights = state.parameters["inverse_temperature"], state.parameters["weights"]
        loss = sums["mixed"] / count
        if bool(loss <= solver["best_loss"] + 1e-14 * loss.abs()):
            solver = {**solver, "best": weights, "best_loss": loss}
            if float(sums["ratios"].max()) / count - 1 <= TOLERANCE:
                return FitState({"inverse_temperature": beta, "weights": weights}, solver, True)
            if solver["weight_rounds"] == 1:
                weights = sums["shares"] / count
            else:  # the minimum of the quadratic model: its linear term is 2 r, as w' r = 1
                weights = simplex_minimum(sums["squares"], 2 * sums["ratios"])
        else:
            weights = (solver["best"] + weights) / 2
        ended = bool(solver["weight_rounds"] >= self.weight_steps)
        still = bool((weights - solver["best"]).abs().max() <= 1e-14)
        if still or (ended and solver["weight_rounds"] > 1):
            weights = solver["best"]
        parameters = {"inverse_temperature": beta, "weights": weights}
        return FitState(parameters, solver, still or ended, still)

    def restart(self, state: FitState) -> FitState:
        """Forget the losses of other clients."""
        solver = {"best": state.parameters["weights"], "best_loss": scalar(torch.inf)}
        scaling = self._scaling.restart(state)
        return FitState(state.parameters, {**scaling.solver, **solver}, state.done)

    def _scale(self, state: FitState, sums: Sums) -> FitState:
        scaling = self._scaling.update(state, sums)
        weights = state.parameters["weights"]
        if scaling.done:
            weights = torch.full((3,), 1 / 3, dtype=torch.float64)
        parameters = {**scaling.parameters, "weights": weights}
        solver = {**state.solver, **scaling.solver, "scaled": scalar(scaling.done)}
        at_result = torch.equal(
            scaling.parameters["inverse_temperature"], state.parameters["inverse_temperature"]
        )
        following = FitState(parameters, solver, False)
        if scaling.done and at_result and self.objective == "mse":
            return self.update(following, sums)  # these sums were already taken at the final T
        return following

    def apply(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return the log of the mixture."""
        weights = parameters["weights"].log()[:, None]
        return (_members(as_logits(logits), parameters) + weights).logsumexp(dim=1)


def _members(z: Tensor, parameters: Parameters) -> Tensor:
    """Return the log-probabilities of the three members, ``(N, 3, K)``."""
    uniform = torch.full_like(z, -math.log(z.shape[1]))
    scaled = (z * parameters["inverse_temperature"]).log_softmax(dim=1)
    return torch.stack([scaled, z.log_softmax(dim=1), uniform], dim=1)


def simplex_minimum(products: Tensor, hits: Tensor) -> Tensor:
    """Return the ``w (m,)`` on the simplex that minimises ``w' G w - 2 h' w``.

    On every face the minimum solves a linear system; the answer is the best of these, each drawn
    into the simplex: the face the minimum lies in is among them.

    Args:
        products: ``G (m, m)``, symmetric and positive semi-definite.
        hits: ``h (m,)``.
    """
    size = len(hits)
    faces = chain.from_iterable(combinations(range(size), n) for n in range(1, size + 1))
    best, best_value = torch.zeros_like(hits), math.inf
    for face in map(list, faces):
        system = torch.ones(len(face) + 1, len(face) + 1, dtype=torch.float64)
        system[:-1, :-1] = products[face][:, face]
        system[-1, -1] = 0
        right = torch.cat([hits[face], torch.ones(1, dtype=torch.float64)])
        inside = torch.linalg.lstsq(system, right, driver="gelsd").solution[:-1]
        point = torch.zeros_like(hits)
        point[face] = inside.clamp(min=0)
        point = point / point.sum()
        value = float(point @ products @ point - 2 * hits @ point)
        if value < best_value - 1e-14 * abs(value):
            best, best_value = point, value
    return best
