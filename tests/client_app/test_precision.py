"""Training in other number formats: what is scaled, and what stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.precision import LossScale, products_in
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.server_app.run_plugins import build_plugins
from runs import run_small

WORLD = Shapes(styles="held-back", train=16, validation=16, test=16)


def trained(precision: str, **changes: object) -> tuple[dict[str, Tensor], dict[str, float]]:
    plan = replace(
        TrainingPlan(CrossEntropy(), client="a", seed=1, batch_size=8, learning_rate=0.05),
        precision=precision,
        **changes,  # type: ignore[arg-type]
    )
    method = "lora(dropout=0.0)"
    model = build_classifier("embedded", method, WORLD.class_names, WORLD.templates, 0)
    update, _ = local_train(model, WORLD.split("train"), plan)
    return update.adapter, dict(update.metrics)


def scaled(factor: float, power: float = 1.0) -> Tensor:
    """Return the gradient of ``factor * x`` where the product is of float16, by ``LossScale``."""
    weight = nn.Parameter(torch.ones(3))

    def clear() -> None:
        weight.grad = None

    objective = ((weight.half() * factor).float() * power).sum()
    LossScale().backward(objective, [weight], clear)
    assert weight.grad is not None
    return weight.grad


@pytest.mark.parametrize(
    ("factor", "power"), [(0.25, 1.0), (60_000.0, 1.0), (1.0, 1e-8), (1.0, 3e-11)]
)
def test_gradients_that_are_small_or_large_come_out_as_they_are(
    factor: float, power: float
) -> None:
    """1e-8 is below the smallest float16, and 60,000 times more than 1 above the largest."""
    torch.testing.assert_close(
        scaled(factor, power), torch.full((3,), factor * power), rtol=2e-2, atol=0
    )


def test_gradients_that_no_scale_makes_finite_are_refused() -> None:
    with pytest.raises(UserError, match="precision: expected gradients that float16 can hold"):
        scaled(1.0, 1e6)


def test_what_no_parameter_leads_to_needs_no_scale() -> None:
    other = nn.Parameter(torch.ones(1))
    LossScale().backward((2 * other).sum(), [], lambda: None)
    assert other.grad == 2 * 2**16  # nobody takes it for a gradient


def test_float16_trains_as_float32_does_but_for_rounding() -> None:
    (half, losses), (full, expected) = trained("float16"), trained("float32")
    start = build_classifier("embedded", "lora", WORLD.class_names, WORLD.templates, 0).export()
    moved = sum(float((full[name] - start[name]).square().sum()) for name in full) ** 0.5
    apart = sum(float((full[name] - half[name]).square().sum()) for name in full) ** 0.5
    assert 0 < apart < 0.05 * moved
    assert all(value.dtype == torch.float32 for value in half.values())
    assert losses["steps"] == expected["steps"] == 2
    assert losses["loss"] == pytest.approx(expected["loss"], rel=0.01)


def test_clipping_sees_gradients_without_the_scale() -> None:
    (half, _), (full, _) = (trained(kind, gradient_clip=0.1) for kind in ("float16", "float32"))
    for name, value in full.items():
        torch.testing.assert_close(half[name], value, rtol=0, atol=1e-3)


def test_tf32_is_allowed_while_training_and_nowhere_else() -> None:
    before = torch.get_float32_matmul_precision()
    with products_in("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
        with products_in("float32"):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    found, expected = trained("tf32")[0], trained("float32")[0]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_float16_is_refused_where_gradients_are_changed_or_of_several_clients(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=r"precision: expected .* with method = 'prograd'"):
        run_small(tmp_path, method="prograd", precision="float16", learning_rate=0.0)
    with pytest.raises(UserError, match="clients-per-batch: expected 1 with precision float16"):
        build_plugins(RunConfig.from_flat({"clients-per-batch": 2, "precision": "float16"}))


def test_both_towers_attend_by_torchs_fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fused = nn.functional.scaled_dot_product_attention

    def counting(*args: Tensor, **kwargs: object) -> Tensor:
        calls.append(args[0].shape)
        return fused(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", counting)
    model = build_classifier("embedded", "lora", WORLD.class_names, WORLD.templates, 0)
    model(model.preprocessing.evaluation(WORLD.split("test").images[:2]))
    config = model.clip.config
    layers = config.vision_config.num_hidden_layers + config.text_config.num_hidden_layers
    assert len(calls) == layers
