"""Transport plans against an exact solver and against the conditions of the entropic optimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from fl2ora.clip_tuning.transport import transport_plan

EXACT = {"tolerance": 1e-9, "iterations": 20_000}


def _costs(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _cheapest(cost: np.ndarray, mass: float) -> float:
    """Return the least cost without entropy, by a linear program."""
    rows, columns = cost.shape
    row_sums = np.kron(np.eye(rows), np.ones(columns))
    column_sums = np.kron(np.ones(rows), np.eye(columns))
    found = linprog(
        cost.ravel(),
        A_ub=row_sums, b_ub=np.full(rows, 1 / rows),
        A_eq=column_sums, b_eq=np.full(columns, mass / columns),
    )  # fmt: skip
    assert found.success
    return float(found.fun)


@pytest.mark.parametrize("mass", [1.0, 0.7, 0.3])
@pytest.mark.parametrize(("rows", "columns"), [(4, 2), (7, 3), (9, 1)])
def test_plan_with_little_entropy_equals_the_linear_programme(
    mass: float, rows: int, columns: int
) -> None:
    cost = _costs(rows, columns, seed=rows)
    plan = transport_plan(cost, mass, epsilon=0.025, **EXACT)
    # Entropy costs at most epsilon log(number of entries) of the mass.
    least = _cheapest(cost.double().numpy(), mass)
    found = float((plan * cost).sum())
    assert least - 1e-5 <= found <= least + 0.025 * mass * np.log(rows * columns) + 1e-5
    assert float(plan.sum(dim=0).sub(mass / columns).abs().max()) < 1e-6
    assert float(plan.sum(dim=1).max()) <= 1 / rows + 1e-5


@pytest.mark.parametrize("mass", [1.0, 0.6])
def test_plan_is_the_entropic_optimum(mass: float) -> None:
    """Against a general solver of the same convex problem."""
    cost, epsilon = _costs(5, 2, seed=3), 0.1

    def objective(flat: np.ndarray) -> float:
        clipped = np.maximum(flat, 1e-12)
        linear = float(flat @ cost.double().numpy().ravel())
        return linear + epsilon * float((clipped * (np.log(clipped) - 1)).sum())

    solved = minimize(
        objective,
        np.full(10, mass / 10),
        bounds=[(1e-10, 1)] * 10,
        constraints=[
            {"type": "eq", "fun": lambda t: t.reshape(5, 2).sum(0) - mass / 2},
            {"type": "ineq", "fun": lambda t: 1 / 5 - t.reshape(5, 2).sum(1)},
        ],
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    assert solved.success
    plan = transport_plan(cost, mass, epsilon, **EXACT)
    np.testing.assert_allclose(plan.numpy(), solved.x.reshape(5, 2), atol=2e-4)


def test_plans_with_closed_forms() -> None:
    one = transport_plan(_costs(6, 1), 1.0)
    torch.testing.assert_close(one, torch.full((6, 1), 1 / 6))  # one column: nothing to choose
    equal = transport_plan(torch.ones(4, 3), 0.5)
    torch.testing.assert_close(equal, torch.full((4, 3), 0.5 / 12))
    # Two by two: T = [[a, b], [b, a]] with a / b = exp(gap / epsilon), 2 (a + b) = 1.
    plan = transport_plan(torch.tensor([[0.0, 0.2], [0.2, 0.0]]), 1.0, 0.1, **EXACT)
    ratio = float(np.exp(2.0))
    b = 0.5 / (1 + ratio)
    torch.testing.assert_close(plan, torch.tensor([[ratio * b, b], [b, ratio * b]]))


def test_adding_a_constant_to_costs_changes_no_plan() -> None:
    cost = _costs(5, 2)
    torch.testing.assert_close(transport_plan(cost + 0.3, 0.5), transport_plan(cost, 0.5))


def test_mass_below_one_leaves_out_the_most_expensive_rows() -> None:
    cost = torch.tensor([[0.1, 0.1], [0.2, 0.2], [1.9, 1.9]])
    rows = transport_plan(cost, 0.6, 0.025, **EXACT).sum(dim=1)
    assert float(rows[2]) < 1e-6
    assert float(rows[0]) == pytest.approx(1 / 3, abs=1e-5)


def test_a_plan_does_not_depend_on_the_rest_of_the_batch() -> None:
    costs = torch.cat([_costs(3, 8, 2), 10 * _costs(1, 8, 2) / 10, torch.zeros(1, 8, 2)])
    together = transport_plan(costs, 0.8)
    for index in range(len(costs)):
        assert torch.equal(transport_plan(costs[index : index + 1], 0.8)[0], together[index])
    assert not together.requires_grad


@pytest.mark.parametrize("mass", [1.0, 0.5])
def test_plans_of_extreme_costs_are_finite(mass: float) -> None:
    cost = torch.tensor([[0.0, 2.0], [2.0, 2.0], [2.0, 2.0], [2.0, 0.0]])
    plan = transport_plan(cost, mass, 0.025)
    assert bool(torch.isfinite(plan).all())
    torch.testing.assert_close(plan.sum(dim=0), torch.full((2,), mass / 2))
