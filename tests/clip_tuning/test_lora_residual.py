from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import CLIPModel

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.adapter import Adapter, AdapterError
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip, load_clip
from fl2ora.clip_tuning.factors import factor_names, merged_of, pair_names, residual_names, scalings
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.methods.lora import LoRA
from fl2ora.clip_tuning.methods.lora_residual import LoRAResidual
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.images import LabelledImages

NAMES, TEMPLATE = ("cat", "boot", "dog"), ("a photo of a {}.",)
Maker = Callable[..., LabelledImages]


def attached(clip: Clip, method: LoRA | None = None) -> ClipClassifier:
    torch.manual_seed(0)
    method = method or LoRAResidual(residual_rank=3, alpha=2.0)
    return method.attach(clip, NAMES, TEMPLATE).eval()


def filled(classifier: ClipClassifier) -> Adapter:
    generator = torch.Generator().manual_seed(3)
    adapter = {
        n: 0.3 * torch.randn(t.shape, generator=generator) for n, t in classifier.export().items()
    }
    classifier.restore(adapter)
    return adapter


def logits(classifier: ClipClassifier) -> Tensor:
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found: Tensor = classifier(pixels)
    return found


def test_the_residual_starts_at_zero_and_is_not_trained(tiny_clip: Clip) -> None:
    method = load("lora_residual(residual_rank=3)", TuningMethod)
    assert isinstance(method, LoRAResidual)
    classifier = attached(tiny_clip, method)
    names = set(classifier.carried)
    assert names == {n for m in pair_names(classifier.export()) for n in residual_names(m)}
    assert classifier.export().keys() == names | classifier.tuned.keys()
    assert not any(p.requires_grad or bool(p.any()) for p in classifier.carried.values())
    assert all(p.requires_grad for p in classifier.tuned.values())
    assert {tuple(p.shape) for p in classifier.carried.values()} == {(3, 32), (32, 3)}


def test_zero_residual_equals_lora(tiny_clip_folder: Path) -> None:
    plain = attached(load_clip(str(tiny_clip_folder)), LoRA(alpha=2.0))
    ours = attached(load_clip(str(tiny_clip_folder)))
    adapter = filled(plain)
    before = ours.export()
    assert all(torch.equal(before[n], t) for n, t in attached_start(tiny_clip_folder).items())
    ours.restore({**before, **adapter})
    assert torch.equal(logits(ours), logits(plain))


def attached_start(folder: Path) -> Adapter:
    return attached(load_clip(str(folder)), LoRA(alpha=2.0)).export()


def test_effective_weights_are_w_plus_s_times_both_products(
    tiny_clip: Clip, tiny_clip_folder: Path
) -> None:
    classifier = attached(tiny_clip)
    adapter = filled(classifier)
    fresh, by_hand = (
        ClipClassifier(load_clip(str(tiny_clip_folder)), NAMES, TEMPLATE).eval() for _ in range(2)
    )
    with torch.no_grad():
        for module in pair_names(adapter):
            both = merged_of(adapter, module)
            weight = by_hand.clip.get_submodule(module).weight
            weight += (2 / math.sqrt(2) * both.b @ both.a).float()
    torch.testing.assert_close(logits(classifier), logits(by_hand), rtol=1e-4, atol=1e-4)
    assert float((logits(classifier) - logits(fresh)).abs().max()) > 0.1


def test_training_leaves_the_residual_unchanged(tiny_clip: Clip, random_images: Maker) -> None:
    classifier = attached(tiny_clip)
    start = filled(classifier)
    plan = TrainingPlan(
        CrossEntropy(),
        epochs=2,
        batch_size=4,
        learning_rate=0.1,
        optimiser="sgd(weight_decay=0.1)",
    )
    update, _ = local_train(classifier, random_images(6), plan)
    for name, tensor in update.adapter.items():
        assert torch.equal(tensor, start[name]) == (name in classifier.carried), name


def test_restore_refuses_an_adapter_without_residuals(tiny_clip: Clip) -> None:
    classifier = attached(tiny_clip)
    adapter = filled(classifier)
    name = next(iter(classifier.carried))
    with pytest.raises(AdapterError, match=f"missing: {name}"):
        classifier.restore({n: t for n, t in adapter.items() if n != name})
    with pytest.raises(AdapterError, match="not finite"):
        classifier.restore({**adapter, name: torch.full_like(adapter[name], torch.nan)})
    assert all(torch.equal(classifier.export()[n], t) for n, t in adapter.items())


def test_a_deep_copy_and_a_moved_model_keep_the_residual(tiny_clip: Clip) -> None:
    classifier = attached(tiny_clip)
    filled(classifier)
    expected = logits(classifier)
    other = copy.deepcopy(classifier).to("cpu", torch.float64).float()
    torch.testing.assert_close(logits(other), expected)
    other.restore({n: torch.zeros_like(t) for n, t in other.export().items()})
    assert not torch.equal(logits(other), expected)
    assert torch.equal(logits(classifier), expected)


def test_disabled_adapters_are_zero_shot_clip(tiny_clip: Clip, tiny_clip_folder: Path) -> None:
    classifier = attached(tiny_clip)
    filled(classifier)
    fresh = ClipClassifier(load_clip(str(tiny_clip_folder)), NAMES, TEMPLATE).eval()
    assert isinstance(classifier.clip, PeftModel)
    with classifier.clip.disable_adapter():
        assert torch.equal(logits(classifier), logits(fresh))


@pytest.mark.parametrize("rslora", [True, False])
def test_peft_loads_factors_and_residual_as_one_adapter(
    tiny_clip: Clip, tiny_clip_folder: Path, tmp_path: Path, rslora: bool
) -> None:
    method = LoRAResidual(residual_rank=3, alpha=2.0, rslora=rslora)
    classifier = attached(tiny_clip, method)
    adapter = filled(classifier)
    method.save(classifier, tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["r"] == 5
    assert settings["inference_mode"] is True
    base = CLIPModel.from_pretrained(tiny_clip_folder)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    expected = 2 / math.sqrt(2) if rslora else 1.0
    assert list(scalings(theirs).values()) == pytest.approx([expected] * 12)
    fresh = ClipClassifier(load_clip(str(tiny_clip_folder)), NAMES, TEMPLATE).eval()
    fresh.clip = theirs
    torch.testing.assert_close(logits(fresh), logits(classifier), rtol=1e-5, atol=1e-5)
    back = method.load(tmp_path / "out")
    assert back.keys() == adapter.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in adapter.items())


def test_saving_does_not_change_the_model(tiny_clip: Clip, tmp_path: Path) -> None:
    method = LoRAResidual(residual_rank=3, alpha=2.0)
    classifier = attached(tiny_clip, method)
    filled(classifier)
    before, scale = logits(classifier), scalings(classifier.clip)
    method.save(classifier, tmp_path / "out")
    method.save(classifier, tmp_path / "again")
    assert torch.equal(logits(classifier), before)
    assert scalings(classifier.clip) == scale
    first, second = (
        (tmp_path / name / "adapter_config.json").read_text() for name in ("out", "again")
    )
    assert first == second


@pytest.mark.parametrize("rank", [0, -1, True])
def test_residual_rank_below_one_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="residual_rank: expected a whole number >= 1"):
        LoRAResidual(residual_rank=rank)


def test_factor_names_lie_beside_the_residual_s(tiny_clip: Clip) -> None:
    adapter = attached(tiny_clip).export()
    for module in pair_names(adapter):
        assert {*factor_names(module), *residual_names(module)} <= adapter.keys()
