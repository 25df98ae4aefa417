"""One step of a server-side descent whose objective only arrives a message round later.

The point to evaluate next is the calibrator's parameters; everything else (the last accepted
point, its value and slope, the direction, the quasi-Newton memory) is solver state. A step is
accepted when it lowers the objective enough (Armijo) and shortened by quadratic interpolation
otherwise. Directions: Newton from a Hessian, or L-BFGS from past gradients.

Source: Nocedal, Wright, "Numerical optimization", 2006, algorithms 3.1, 3.5 and 7.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._tensors import scalar

Solver = dict[str, Tensor]

ENOUGH = 1e-4
"""Share of the decrease promised by the slope that a step must keep."""

OVERSHOT = 0.5
"""Share of the slope before a step that may stand against it after it, where losses are unknown."""

MEMORY = 20
"""Pairs of moves and gradient changes that L-BFGS remembers."""


@dataclass(frozen=True)
class Evaluation:
    """The objective per example where the clients were asked for it.

    Attributes:
        point: ``(P,)``.
        value: the objective.
        gradient: ``(P,)``.
        residual: 0 at a minimum; the largest gradient entry unless bounds say otherwise.
    """

    point: Tensor
    value: float
    gradient: Tensor
    residual: float


class Step(NamedTuple):
    """What to do next, see ``advance``."""

    point: Tensor
    solver: Solver
    done: bool
    converged: bool


def begin(point: Tensor) -> Solver:
    """Return the solver state before anything was evaluated at ``point (P,)``."""
    nothing = torch.zeros_like(point)
    return {
        "base": point,
        "value": scalar(torch.inf),
        "gradient": nothing,
        "direction": nothing,
        "length": scalar(0),
        "rounds": scalar(0),
        "moves": torch.zeros(0, len(point), dtype=torch.float64),
        "turns": torch.zeros(0, len(point), dtype=torch.float64),
    }


def restart(solver: Solver) -> Solver:
    """Return the solver state for an objective of other clients, whose value cannot be compared."""
    return {**solver, "value": scalar(torch.inf)}


def advance(
    solver: Solver,
    found: Evaluation,
    direction: Callable[[Solver], Tensor],
    tolerance: float,
    max_rounds: int,
) -> Step:
    """Judge the evaluated point and say where to look next.

    Args:
        solver: from ``begin`` or the call before.
        found: the objective at the point returned last.
        direction: maps the solver state, after acceptance, to a descent direction ``(P,)``.
        tolerance: the residual at which to end.
        max_rounds: evaluations after which to end with the best point so far.

    Returns:
        The next point (or the result), the solver state, whether this is the end, and whether the
        tolerance was met.
    """
    rounds = float(solver["rounds"]) + 1
    promised = ENOUGH * float(solver["length"] * (solver["gradient"] @ solver["direction"]))
    before = float(solver["value"])
    accepted = found.value <= before + promised + 1e-14 * abs(found.value)
    if math.isinf(before):  # the first point, or one of other clients: judge by the slope alone
        ahead, behind = (
            float(g @ solver["direction"]) for g in (found.gradient, solver["gradient"])
        )
        accepted = math.isfinite(found.value) and ahead <= OVERSHOT * abs(behind)
    solver = {**solver, "rounds": scalar(rounds)}
    if not accepted:
        if math.isinf(before) and math.isfinite(found.value) and rounds < max_rounds:
            return _turn_back(solver, found)
        return _shorten(solver, found, rounds >= max_rounds)
    solver = _remember(solver, found)
    if found.residual <= tolerance or rounds >= max_rounds:
        return Step(found.point, solver, True, found.residual <= tolerance)
    along = direction(solver)
    slope = float(found.gradient @ along)
    if not slope < 0:  # no descent left within rounding
        return Step(found.point, solver, True, True)
    solver |= {"direction": along, "length": scalar(1)}
    return Step(found.point + along, solver, False, False)


def _turn_back(solver: Solver, found: Evaluation) -> Step:
    """Take an overshot point as accepted, and go half the way back from there.

    Value and slope at the point that was accepted before are of other clients; for these, the
    minimum may well lie beyond it.
    """
    back = -solver["length"] * solver["direction"]
    turned = {**solver, "base": found.point, "value": scalar(found.value)}
    turned |= {"gradient": found.gradient, "direction": back, "length": scalar(0.5)}
    return Step(found.point + 0.5 * back, turned, False, False)


def _shorten(solver: Solver, found: Evaluation, last: bool) -> Step:
    """Move back towards the accepted point, to the minimum of the parabola through both."""
    length, base = float(solver["length"]), solver["base"]
    slope = float(solver["gradient"] @ solver["direction"])
    known = math.isfinite(float(solver["value"]))
    excess = found.value - float(solver["value"]) - slope * length if known else 0.0
    best = -slope * length**2 / (2 * excess) if excess > 0 else 0.5 * length
    length = min(max(best, 0.1 * length), 0.5 * length)
    move = length * solver["direction"]
    still = bool((move.abs() <= 1e-15 * (1 + base.abs())).all())
    if last or still:
        return Step(base, solver, True, still)
    return Step(base + move, {**solver, "length": scalar(length)}, False, False)


def _remember(solver: Solver, found: Evaluation) -> Solver:
    """Accept ``found`` and keep its move and gradient change if they tell a curvature."""
    accepted = {**solver, "base": found.point, "gradient": found.gradient}
    accepted["value"] = scalar(found.value)
    if torch.isinf(solver["value"]):
        return accepted
    move, turn = found.point - solver["base"], found.gradient - solver["gradient"]
    if float(move @ turn) > 1e-12 * float(turn.norm() * move.norm()):
        accepted["moves"] = torch.cat([solver["moves"], move[None]])[-MEMORY:]
        accepted["turns"] = torch.cat([solver["turns"], turn[None]])[-MEMORY:]
    return accepted


def quasi_newton_direction(
    solver: Solver, precondition: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the L-BFGS direction from the remembered pairs.

    Args:
        solver: after acceptance.
        precondition: divides a vector ``(P,)`` by a bound of the Hessian. Without it the first
            step is a cautious one along the gradient.
    """
    moves, turns, gradient = solver["moves"], solver["turns"], solver["gradient"]
    if not len(moves):
        if precondition is not None:
            return -precondition(gradient)
        return -gradient / max(1.0, float(gradient.norm()))
    weights = 1 / (moves * turns).sum(dim=1)
    along: Tensor = gradient.clone()
    shares: list[Tensor] = []
    for move, turn, weight in zip(moves.flip(0), turns.flip(0), weights.flip(0), strict=True):
        shares.append(weight * (move @ along))
        along = along - shares[-1] * turn
    divide = precondition or torch.Tensor.clone
    along = divide(along) * (moves[-1] @ turns[-1]) / (turns[-1] @ divide(turns[-1]))
    for move, turn, weight, share in zip(moves, turns, weights, reversed(shares), strict=True):
        along = along + move * (share - weight * (turn @ along))
    return -along


def newton_direction(hessian: Tensor, gradient: Tensor) -> Tensor:
    """Return the shortest Newton direction; directions without curvature are left alone."""
    curvature, axes = torch.linalg.eigh(hessian)
    steep = curvature > 1e-12 * curvature[-1].clamp(min=1e-300)
    inverse = torch.where(steep, 1 / curvature, torch.zeros_like(curvature))
    direction: Tensor = -axes @ (inverse * (axes.T @ gradient))
    return direction
