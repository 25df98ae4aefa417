"""CLIP's activation: equal to transformers', with less that is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from transformers import CLIPConfig, CLIPModel
from transformers.activations import QuickGELUActivation

from fl2ora.clip_tuning import quick_gelu
from fl2ora.clip_tuning.clip import load_clip
from fl2ora.clip_tuning.quick_gelu import QuickGELU, keep_less
from fl2ora.clip_tuning.towers import blocks

LARGE = quick_gelu._WORTH
VALUES = torch.cat([torch.linspace(-30, 30, 121), torch.randn(200)])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("smallest", [0, LARGE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_transformers_activation_bit_for_bit(
    dtype: torch.dtype, smallest: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick_gelu, "_WORTH", smallest)
    values = VALUES.to(dtype)
    before = values.clone()
    with torch.set_grad_enabled(training):
        assert torch.equal(QuickGELU()(values), QuickGELUActivation()(values))
    assert torch.equal(values, before)


@pytest.mark.parametrize("smallest", [0, LARGE])
def test_its_gradient_is_the_one_of_its_formula(
    smallest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick_gelu, "_WORTH", smallest)
    values = VALUES.double().requires_grad_()
    assert torch.autograd.gradcheck(QuickGELU(), values)
    assert torch.autograd.gradgradcheck(QuickGELU(), values)
    sigmoid = torch.sigmoid(1.702 * values.detach())
    (found,) = torch.autograd.grad(QuickGELU()(values).sum(), values)
    expected = sigmoid * (1 + 1.702 * values.detach() * (1 - sigmoid))
    torch.testing.assert_close(found, expected)


def test_a_penalty_on_its_slope_has_a_gradient() -> None:
    values = torch.randn(LARGE).requires_grad_()
    answers = []
    for way in (QuickGELU(), QuickGELUActivation()):
        (slope,) = torch.autograd.grad(way(values).sum(), values, create_graph=True)
        answers.append(torch.autograd.grad(slope.square().sum(), values)[0])
    torch.testing.assert_close(*answers)


def test_it_keeps_its_input_alone() -> None:
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    values = torch.randn(LARGE).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        QuickGELU()(values)
    assert [tensor.data_ptr() for tensor in kept] == [values.data_ptr()]


@pytest.mark.parametrize("smallest", [0, LARGE])
def test_it_is_mapped_over_clients(smallest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_gelu, "_WORTH", smallest)
    values = torch.randn(3, 4, 5).requires_grad_()
    found, expected = vmap(QuickGELU())(values), QuickGELUActivation()(values)
    assert torch.equal(found, expected)
    weights = torch.randn(3, 4, 5)
    gradients = (torch.autograd.grad((f * weights).sum(), values)[0] for f in (found, expected))
    torch.testing.assert_close(*gradients)


def test_a_loaded_model_has_it_in_every_block_of_both_towers() -> None:
    model = load_clip("embedded").model
    for tower in ("vision", "text"):
        found = [type(block.mlp.activation_fn) for block in blocks(model, tower)]
        assert found == [QuickGELU] * len(found) != []


def test_another_activation_stays() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    other = sizes | {"hidden_act": "gelu"}
    model = CLIPModel(CLIPConfig(text_config=sizes, vision_config=other))
    before = blocks(model, "vision")[0].mlp.activation_fn
    keep_less(model)
    assert blocks(model, "vision")[0].mlp.activation_fn is before
    assert isinstance(blocks(model, "text")[0].mlp.activation_fn, QuickGELU)
