"""The classifier: logits by their definition, ensembles of templates, strict restoring."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fl2ora.clip_tuning import build
from fl2ora.clip_tuning.adapter import AdapterError, load_adapter
from fl2ora.clip_tuning.build import build_classifier, resolve_device
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.methods.lora import LoRA
from fl2ora.clip_tuning.methods.zero_shot import ZeroShot
from fl2ora.clip_tuning.prediction import predict
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.images import LabelledImages

NAMES = ("cat", "ankle_boot", "dog")
TEMPLATE = ("a photo of a {}.",)
Maker = Callable[..., LabelledImages]


def _pixels(count: int = 5) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _features(clip: Clip, text: str) -> Tensor:
    """Return one text's feature as transformers gives it, padded to the full length."""
    tokens = clip.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        return clip.model.get_text_features(**tokens).pooler_output[0]


def test_zero_shot_logits_are_what_transformers_computes(tiny_clip: Clip) -> None:
    texts = ["a photo of a cat.", "a photo of a ankle boot.", "a photo of a dog."]
    tokens = tiny_clip.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = tiny_clip.model(pixel_values=_pixels(), **tokens).logits_per_image
        ours = ClipClassifier(tiny_clip, NAMES, TEMPLATE).eval()(_pixels())
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert float(ours.std(1).min()) > 0.1  # the texts are told apart


def test_logits_are_scaled_cosines(tiny_clip: Clip) -> None:
    classifier = ClipClassifier(tiny_clip, NAMES, TEMPLATE)
    with torch.no_grad():
        tiny_clip.model.logit_scale.fill_(math.log(10))
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    classes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = torch.tensor([[10.0, 0.0], [6.0, 8.0]])
    torch.testing.assert_close(classifier.logits(images, classes), expected)


def test_a_class_is_the_mean_of_its_prompts_unit_features(tiny_clip: Clip) -> None:
    templates = ("a {}.", "a blurry photo of the {}, taken at night.", "{}")
    classifier = ClipClassifier(tiny_clip, NAMES, templates)
    expected = []
    for name in ("cat", "ankle boot", "dog"):
        prompts = [template.format(name) for template in templates]
        units = [normalize(_features(tiny_clip, text), dim=0) for text in prompts]
        mean = torch.stack(units).mean(0)
        assert float(mean.norm()) < 0.999  # the prompts differ: normalising again matters
        expected.append(mean / mean.norm())
    with torch.no_grad():
        found = classifier.encode_classes()
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-6)


def test_one_template_gives_its_own_unit_feature(tiny_clip: Clip) -> None:
    with torch.no_grad():
        found = ClipClassifier(tiny_clip, NAMES, TEMPLATE).encode_classes()
    expected = normalize(_features(tiny_clip, "a photo of a ankle boot."), dim=0)
    torch.testing.assert_close(found[1], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_zero_shot_has_nothing_to_tune_and_nothing_to_send(tiny_clip: Clip) -> None:
    classifier = ZeroShot().attach(tiny_clip, NAMES, TEMPLATE)
    assert classifier.export() == {}
    assert not any(p.requires_grad for p in classifier.parameters())
    classifier.restore({})
    with pytest.raises(AdapterError, match="unexpected: a"):
        classifier.restore({"a": torch.zeros(1)})


def test_prompts_move_with_the_model_but_are_not_saved(tiny_clip: Clip) -> None:
    classifier = ClipClassifier(tiny_clip, NAMES, TEMPLATE)
    assert "prompt_ids" in dict(classifier.named_buffers())
    assert "prompt_ids" not in classifier.state_dict()


def _lora(clip: Clip) -> ClipClassifier:
    torch.manual_seed(0)
    return LoRA(rank=2).attach(clip, NAMES, TEMPLATE).eval()


def test_restoring_gives_back_what_was_exported(tiny_clip: Clip) -> None:
    classifier = _lora(tiny_clip)
    other = {name: torch.randn_like(tensor) for name, tensor in classifier.export().items()}
    before = classifier.export()
    classifier.restore(other)
    assert all(torch.equal(classifier.export()[name], other[name]) for name in other)
    assert all(p.requires_grad for p in classifier.tuned.values())
    classifier.restore(dict(reversed(before.items())))
    assert all(torch.equal(classifier.export()[name], before[name]) for name in before)


def test_an_export_is_sorted_and_a_copy(tiny_clip: Clip) -> None:
    classifier = _lora(tiny_clip)
    export = classifier.export()
    assert list(export) == sorted(export)
    for tensor in export.values():
        tensor.fill_(7)
    assert not any(bool((tensor == 7).all()) for tensor in classifier.export().values())


Damage = Callable[[dict[str, Tensor], str], object]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a, name: a.pop(name), "adapter: missing: {name}"),
        (lambda a, name: a.update(extra=torch.zeros(1)), "adapter: unexpected: extra"),
        (lambda a, name: a.update({name: a[name].T}), "{name} has shape (32, 2), expected (2, 32)"),
        (lambda a, name: a[name][0, 3:5].fill_(math.nan), "{name} has 2 of 64 values not finite"),
        (lambda a, name: a[name][1, :1].fill_(math.inf), "{name} has 1 of 64 values not finite"),
    ],
)  # fmt: skip
def test_restore_refuses_a_wrong_adapter_and_changes_nothing(
    tiny_clip: Clip, damage: Damage, message: str
) -> None:
    classifier = _lora(tiny_clip)
    before = classifier.export()
    adapter = {name: torch.ones_like(tensor) for name, tensor in before.items()}
    name = [n for n in adapter if "lora_A" in n][-1]
    damage(adapter, name)
    with pytest.raises(AdapterError) as caught:
        classifier.restore(adapter)
    assert message.format(name=name) in str(caught.value)
    after = classifier.export()
    assert all(torch.equal(after[n], before[n]) for n in before)


def test_batch_size_changes_no_prediction(tiny_clip: Clip, random_images: Maker) -> None:
    classifier = _lora(tiny_clip)
    images = random_images(7, side=40).images[:]
    whole = predict(classifier, images)
    assert whole.shape == (7, 3)
    assert not whole.requires_grad
    for size in (1, 3, 7):
        torch.testing.assert_close(predict(classifier, images, size), whole, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        direct = classifier(classifier.preprocessing.evaluation(images))
    torch.testing.assert_close(whole, direct, rtol=1e-6, atol=1e-6)


def test_predict_of_no_images_returns_no_rows(tiny_clip: Clip, random_images: Maker) -> None:
    assert predict(_lora(tiny_clip), random_images(0).images).shape == (0, 3)


def test_grey_images_are_read_as_equal_rgb_channels(tiny_clip: Clip, random_images: Maker) -> None:
    classifier = _lora(tiny_clip)
    grey = random_images(3, channels=1, side=28).images[:]
    found = predict(classifier, grey)
    assert torch.equal(found, predict(classifier, grey.expand(-1, 3, -1, -1)))


def test_predict_turns_dropout_off(tiny_clip: Clip, random_images: Maker) -> None:
    torch.manual_seed(0)
    classifier = LoRA(dropout=0.5).attach(tiny_clip, NAMES, TEMPLATE)
    classifier.restore({n: torch.ones_like(t) for n, t in classifier.export().items()})
    images = random_images(4).images[:]
    calm = predict(classifier.eval(), images)
    first, second = predict(classifier.train(), images), predict(classifier.train(), images)
    assert torch.equal(first, calm)
    assert torch.equal(second, calm)
    classifier.train()
    with torch.no_grad():
        pixels = classifier.preprocessing.evaluation(images)
        assert not torch.equal(classifier(pixels), classifier(pixels))  # dropout is there


def test_equal_arguments_build_equal_adapters(tiny_clip_folder: Path) -> None:
    def build(seed: int) -> dict[str, Tensor]:
        return build_classifier(
            str(tiny_clip_folder), "lora(rank=1)", NAMES, TEMPLATE, seed
        ).export()

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    second, other = build(0), build(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("model", "method", "message"),
    [
        ("/no/such/folder", "lora", "folder '/no/such/folder' does not exist"),
        ("tiny", "lorra", "clip_tuning/methods has no 'lorra' (valid: "),
        ("tiny", "lora(rank=0)", "lora: rank: expected at least 1, found 0"),
        ("tiny", "lora(ranks=1)", "did you mean 'rank'?"),
    ],
)
def test_build_errors_name_model_method_or_argument(
    tiny_clip_folder: Path, model: str, method: str, message: str
) -> None:
    source = str(tiny_clip_folder) if model == "tiny" else model
    with pytest.raises(UserError) as caught:
        build_classifier(source, method, NAMES, TEMPLATE, 0)
    assert message in str(caught.value)


def test_a_built_classifier_is_in_evaluation_mode(tiny_clip_folder: Path) -> None:
    assert not build_classifier(str(tiny_clip_folder), "zero-shot", NAMES, TEMPLATE, 0).training


def _machine(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool) -> None:
    monkeypatch.setattr(build.torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(build.torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(build.torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "wanted", "found"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, True, "auto", "cuda"),
        (2, False, "cpu", "cpu"),
        (2, False, "cuda", "cuda"),
        (2, False, "cuda:1", "cuda:1"),
        (0, True, "mps", "mps"),
    ],
)
def test_resolve_device(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, wanted: str, found: str
) -> None:
    _machine(monkeypatch, cuda, mps)
    assert resolve_device(wanted) == torch.device(found)


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", "cuda:2", "mps"])
def test_a_missing_device_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    _machine(monkeypatch, 2 if wanted == "cuda:2" else 0, False)
    with pytest.raises(UserError, match=f"^device '{wanted}' was asked for, but torch sees "):
        resolve_device(wanted)


def test_default_save_writes_adapter_safetensors(tiny_clip: Clip, tmp_path: Path) -> None:
    """As ``adapter.safetensors`` unless it has a format of its own, as LoRA does."""
    classifier = _lora(tiny_clip)
    TuningMethod.save(ZeroShot(), classifier, tmp_path / "new" / "folder")
    saved = load_adapter(tmp_path / "new" / "folder" / "adapter.safetensors")
    export = classifier.export()
    assert list(saved) == list(export)
    assert all(torch.equal(saved[name], export[name]) for name in export)
