"""LoRA on a linear layer: what peft computes, and what leaves it to peft."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from fl2ora.clip_tuning import low_rank
from fl2ora.clip_tuning.dropout import Dropout, keep_mask
from fl2ora.clip_tuning.low_rank import LowRankLinear, compute_faster

INNER, OUTER = 12, 7


def _model(dropout: float = 0.0, **options: Any) -> Any:
    """Return a peft model of one tuned layer, in training, whose values are all random."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(INNER, OUTER, bias=options.pop("bias_of_base", True)))
    settings = {"r": 3, "lora_alpha": 2, "use_rslora": True, "target_modules": ["0"], **options}
    model = get_peft_model(base, LoraConfig(lora_dropout=dropout, **settings)).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    return model


def _layer(model: Any) -> Any:
    return model.base_model.model[0]


def _answers(model: Any, x: Tensor, seed: int = 5) -> list[Tensor]:
    """Return outputs, and gradients of x (where it has one) and of every trained parameter."""
    torch.manual_seed(seed)
    found = model(x)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    given = [p for p in [x, *model.parameters()] if p.requires_grad]
    gradients = torch.autograd.grad((found * weights).sum(), given, allow_unused=True)
    return [found.detach(), *(g for g in gradients if g is not None)]


def _states(*shape: int) -> Tensor:
    return torch.randn(*shape, INNER, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "_WORTH", 0)


@pytest.fixture
def own_way(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every layer that our own code computes."""
    calls: list[int] = []
    apply = low_rank._LowRank.apply

    def counted(*given: Any) -> Any:
        calls.append(1)
        return apply(*given)

    monkeypatch.setattr(low_rank._LowRank, "apply", counted)
    return calls


@pytest.mark.parametrize("gradient", [True, False], ids=["with gradient of x", "without"])
@pytest.mark.parametrize("shape", [(4, 5), (1,), (600,), (2, 256), (0,)], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_outputs_and_gradients_are_those_of_peft(
    dropout: float, shape: tuple[int, ...], gradient: bool, own_way: list[int]
) -> None:
    model, x = _model(dropout), _states(*shape).requires_grad_(gradient)
    compute_faster(model)
    found = _answers(model, x)
    assert own_way
    layer = _layer(model)
    layer.forward = layer.as_peft_does  # with our dropout
    for mine, theirs in zip(found, _answers(model, x), strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).norm() <= 2e-6 * theirs.norm()


def test_a_layer_is_the_frozen_one_and_the_product_of_the_factors_in_float64() -> None:
    model, x = _model(0.25), _states(300).requires_grad_()
    compute_faster(model)
    found = _answers(model, x)
    torch.manual_seed(5)
    kept = keep_mask(x.shape, 0.25)
    layer = _layer(model)
    base, name = layer.base_layer, "default"
    a, b = (f[name].weight.detach().double() for f in (layer.lora_A, layer.lora_B))
    a, b, states = a.requires_grad_(), b.requires_grad_(), x.detach().double().requires_grad_()
    dropped = states * kept / 0.75
    output = states @ base.weight.double().T + base.bias.double()
    output = output + 2 / 3**0.5 * dropped @ a.T @ b.T
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    expected = [output.detach(), *torch.autograd.grad((output * weights).sum(), (states, a, b))]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", ["lora_A", "lora_B"])
def test_a_frozen_factor_has_no_gradient_and_the_others_are_the_same(frozen: str) -> None:
    model, x = _model(0.25), _states(300).requires_grad_()
    compute_faster(model)
    output, of_x, *of_factors = _answers(model, x)
    (kept,) = (
        f for f, name in zip(of_factors, ("lora_A", "lora_B"), strict=True) if name != frozen
    )
    getattr(_layer(model), frozen).requires_grad_(False)
    for mine, expected in zip(_answers(model, x), (output, of_x, kept), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("gradient", [True, False], ids=["with gradient of x", "without"])
def test_a_gradient_can_be_differentiated_again(dropout: float, gradient: bool) -> None:
    model, x = _model(dropout), _states(2, 6).requires_grad_(gradient)
    compute_faster(model)
    layer = _layer(model)
    answers = []
    for way in (layer.forward, layer.as_peft_does):
        torch.manual_seed(5)
        given = [p for p in [x, *model.parameters()] if p.requires_grad]
        slopes = torch.autograd.grad(way(x).square().sum(), given, create_graph=True)
        penalty = sum(slope.square().sum() for slope in slopes)
        answers.append([*slopes, *torch.autograd.grad(penalty, given)])
    for mine, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_what_a_layer_returns_may_be_changed_in_place() -> None:
    model, x = _model(), _states(4).requires_grad_()
    compute_faster(model)
    (expected,) = torch.autograd.grad((2 * model(x)).sum(), x)
    (found,) = torch.autograd.grad(model(x).mul_(2).sum(), x)
    assert torch.equal(found, expected)


def test_base_examples_of_a_batch_are_left_to_peft(own_way: list[int]) -> None:
    model = _model().eval()
    compute_faster(model)
    x = _states(4)
    found = _layer(model)(x, adapter_names=["__base__"] * 4)
    assert torch.equal(found, _layer(model).base_layer(x))
    assert not own_way


def test_no_gradient_is_computed_of_states_that_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(low_rank, "_add_kept", lambda *given: calls.append(1))
    model = _model()
    compute_faster(model)
    _answers(model, _states(4))
    assert not calls
    _answers(model, _states(4).requires_grad_())
    assert calls


def test_draws_are_those_of_our_dropout_and_end_with_training() -> None:
    model, x = _model(0.5), _states(50)
    compute_faster(model)
    torch.manual_seed(3)
    model(x)
    drawn = torch.get_rng_state()
    torch.manual_seed(3)
    keep_mask(x.shape, 0.5)
    assert torch.equal(torch.get_rng_state(), drawn)
    model.eval()(x)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(model(x), model(x))


def _two_adapters(model: Any) -> None:
    model.add_adapter("other", LoraConfig(r=2, target_modules=["0"]))
    model.base_model.set_adapter(["default", "other"])


def _trained_base(model: Any) -> None:
    _layer(model).base_layer.weight.requires_grad_()


def _trained_bias(model: Any) -> None:
    _layer(model).base_layer.bias.requires_grad_()


class _Twice(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _other_base(model: Any) -> None:
    _layer(model).base_layer.__class__ = _Twice


def _other_dropout(model: Any) -> None:
    _layer(model).lora_dropout["default"] = nn.AlphaDropout(0.5)


def _no_adapter(model: Any) -> None:
    _layer(model)._active_adapter = ["another"]


LEFT_TO_PEFT: dict[str, tuple[dict[str, Any], Callable[[Any], object]]] = {
    "DoRA": ({"use_dora": True}, lambda model: None),
    "bias of B": ({"lora_bias": True}, lambda model: None),
    "no bias": ({"bias_of_base": False}, lambda model: None),
    "float64": ({}, lambda model: model.double()),
    "merged": ({}, lambda model: _layer(model).merge()),
    "disabled": ({}, lambda model: _layer(model).enable_adapters(False)),
    "two adapters": ({}, _two_adapters),
    "trained weight": ({}, _trained_base),
    "trained bias": ({}, _trained_bias),
    "another kind of layer": ({}, _other_base),
    "another kind of dropout": ({}, _other_dropout),
    "an adapter of other layers": ({}, _no_adapter),
}


@pytest.mark.parametrize("case", LEFT_TO_PEFT)
def test_all_but_the_plain_case_is_left_to_peft(case: str, own_way: list[int]) -> None:
    options, change = LEFT_TO_PEFT[case]
    model = _model(**options)
    change(model)
    theirs = copy.deepcopy(model)
    compute_faster(model)
    assert isinstance(_layer(model), LowRankLinear)
    x = _states(9).to(_layer(model).base_layer.weight.dtype).requires_grad_()
    for mine, expected in zip(_answers(model, x), _answers(theirs, x), strict=True):
        assert torch.equal(mine, expected)
    assert not own_way


def test_evaluation_is_left_to_peft(own_way: list[int]) -> None:
    model = _model().eval()
    theirs = copy.deepcopy(model)
    compute_faster(model)
    with torch.no_grad():
        assert torch.equal(model(_states(9)), theirs(_states(9)))
    assert not own_way


def test_few_states_are_left_to_peft(own_way: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    theirs = copy.deepcopy(model)
    compute_faster(model)
    monkeypatch.setattr(low_rank, "_WORTH", 9 * INNER)
    x = _states(8).requires_grad_()
    for mine, expected in zip(_answers(model, x), _answers(theirs, x), strict=True):
        assert torch.equal(mine, expected)
    assert not own_way
    model(_states(9))
    assert own_way


def test_autocast_is_left_to_peft(own_way: list[int]) -> None:
    model = _model()
    compute_faster(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(_states(9)).dtype == torch.bfloat16
    assert not own_way


def test_a_layer_of_a_kind_of_its_own_is_left_alone() -> None:
    model = _model(0.25)

    class Own(Linear):  # type: ignore[misc]
        pass

    _layer(model).__class__ = Own
    compute_faster(model)
    assert type(_layer(model)) is Own
    assert type(_layer(model).lora_dropout["default"]) is nn.Dropout


@pytest.mark.parametrize("training", [True, False])
def test_what_a_model_has_stays_the_same(training: bool) -> None:
    model = _model(0.25).train(training)
    before = copy.deepcopy(model.state_dict())
    compute_faster(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    dropout = _layer(model).lora_dropout["default"]
    assert isinstance(dropout, Dropout)
    assert (dropout.p, dropout.training) == (0.25, training)
    assert isinstance(_layer(copy.deepcopy(model)), LowRankLinear)


def test_a_step_keeps_states_once_and_a_mask_of_bytes() -> None:
    def kept() -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(x)
        return sum(sizes.values())

    model, x = _model(0.25), _states(1_000).requires_grad_()
    theirs = kept()
    compute_faster(model)
    states = x.untyped_storage().nbytes()
    # What is between the factors, the factors, and the frozen weight and bias.
    small = 4 * (1_000 * 3 + 3 * (INNER + OUTER) + OUTER * (INNER + 1))
    assert kept() <= states + states / 4 + small < 0.75 * theirs
