"""SigLIP as the model: how it scores, and which methods tune it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoTokenizer, SiglipModel

import method_laws as laws
from fl2ora.clip_tuning import build as building
from fl2ora.clip_tuning.adapter import num_parameters
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.clip import load_clip
from fl2ora.clip_tuning.contract import check_method
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.prompts import fill_templates
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.images import LabelledImages
from method_laws import NAMES, TEMPLATES, build, changed, some_pixels
from runs import events, final_adapter, run_small
from tiny_siglip import LENGTH

# Every method that runs on SigLIP, with what changes what it trains.
SPECS = [
    "bitfit",
    "bitfit(biases='fl2ora')",
    "bitfit(towers='vision')",
    "clip_adapter",
    "full",
    "full(towers='text')",
    "full(towers='vision')",
    "layer_norm",
    "layer_norm(towers='text')",
    "layer_norm(towers='vision')",
    "linear_probe",
    "linear_probe(init='zero', bias=False)",
    "logit_scale",
    "logit_scale('lora(rank=1)')",
    "lora",
    "lora(dora=True)",
    "lora(targets='q,k,v,o,fc1,fc2', rslora=False)",
    "lora(targets='fc1,fc2', blocks='1', towers='text')",
    "lora(blocks='half-up', towers='vision')",
    "lora_residual(residual_rank=3)",
    "task_res",
    "tip_adapter_f(shots=2)",
    "tip_adapter(shots=2)",
    "zero_shot",
]
TRAINED = SPECS[:-2]
NOT_FROM_ZERO_SHOT = {"clip_adapter", "linear_probe(init='zero', bias=False)"}
FROM_ZERO_SHOT = [
    *(spec for spec in SPECS if spec not in NOT_FROM_ZERO_SHOT),
    "clip_adapter(ratio=0.0)",
]
REFUSED = [
    "coop", "kgcoop", "prograd", "cocoop", "tcp", "fedtpg", "vpt", "ivlp", "maple", "prompt_src",
    "fedotp", "fedpgp", "promptfolio", "logit_scale('coop')",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny_siglip_folder: Path) -> Iterator[str]:
    """Return that folder, which is read once and copied from then on."""
    read = lru_cache(load_clip)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "load_clip", lambda name: copy.deepcopy(read(name)))
        yield str(tiny_siglip_folder)


@torch.no_grad()
def _their_logits(folder: Path, templates: tuple[str, ...] = TEMPLATES) -> Tensor:
    """Return what transformers' own forward makes of ``some_pixels``, as its authors call it."""
    texts = fill_templates(NAMES, templates)
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", max_length=LENGTH, return_tensors="pt"
    )
    model = SiglipModel.from_pretrained(folder).eval()
    made = model(input_ids=tokens["input_ids"], pixel_values=some_pixels())
    return made.logits_per_image - model.logit_bias


def test_logits_are_transformers_own_less_the_bias(tiny_siglip_folder: Path, folder: str) -> None:
    found = laws.logits_of(build(folder, "zero_shot"))
    torch.testing.assert_close(found, _their_logits(tiny_siglip_folder), rtol=1e-5, atol=1e-5)
    assert float(found.std()) > 0.1


@torch.no_grad()
def test_padding_length_changes_siglip_features(folder: str) -> None:
    classifier = build(folder, "zero_shot")
    assert classifier.prompt_ids.shape == (3, LENGTH)
    encode = classifier.clip.get_text_features
    rows = classifier.tokenizer(fill_templates(NAMES, TEMPLATES))["input_ids"]
    found = classifier.encode_classes()
    for row, ids, feature in zip(rows, classifier.prompt_ids, found, strict=True):
        assert ids.tolist() == row + [0] * (LENGTH - len(row))
        whole = unit(encode(input_ids=ids[None]).pooler_output)[0]
        cut = unit(encode(input_ids=ids[None, : len(row)]).pooler_output)[0]
        torch.testing.assert_close(feature, whole)
        assert float((feature - cut).norm()) > 0.1


@torch.no_grad()
def test_features_of_a_name_do_not_depend_on_other_names(folder: str) -> None:
    classifier = build(folder, "zero_shot")
    several = classifier.encode_names(["a much longer name", *NAMES])[1:]
    torch.testing.assert_close(several, classifier.encode_classes(), rtol=0, atol=1e-6)


def test_several_prompt_templates_are_accepted(folder: str) -> None:
    templates = ("a photo of a {}.", "a drawing of the {}, on paper.", "{}")
    classifier = build_classifier(folder, "zero_shot", NAMES, templates, 0)
    assert laws.logits_of(classifier).shape == (4, 3)


def test_a_prompt_too_long_is_refused(folder: str) -> None:
    name = "x" * 40
    with pytest.raises(UserError, match=rf"prompt '.*{name}' has 54 tokens; .* takes {LENGTH}$"):
        build_classifier(folder, "zero_shot", ("cat", name), ("a photo of a {}",), 0)


@pytest.mark.parametrize("spec", FROM_ZERO_SHOT)
def test_first_logits_equal_zero_shot(folder: str, spec: str) -> None:
    laws.starts_at_zero_shot(folder, spec)


@pytest.mark.parametrize("spec", TRAINED)
def test_training_changes_what_is_exported_and_nothing_else(
    folder: str, spec: str, random_images: Callable[..., LabelledImages]
) -> None:
    laws.training_changes_what_is_exported_and_nothing_else(folder, spec, random_images(6))


@pytest.mark.parametrize("spec", TRAINED)
def test_every_tuned_tensor_changes_the_logits(folder: str, spec: str) -> None:
    laws.every_tuned_tensor_matters(folder, spec)
    assert "logit_bias" not in build(folder, spec).tuned


@pytest.mark.parametrize("spec", SPECS)
def test_methods_keep_the_contract_on_siglip(folder: str, spec: str) -> None:
    check_method(spec, building.load_clip(folder))


@pytest.mark.parametrize("spec", SPECS)
def test_frozen_flags_equal_what_the_forward_pass_shows(folder: str, spec: str) -> None:
    laws.what_is_called_frozen_is(folder, spec)


@pytest.mark.parametrize("spec", ["lora", "full", "linear_probe"])
def test_every_tensor_moves_to_the_device(folder: str, spec: str) -> None:
    laws.nothing_stays_behind_when_it_moves(folder, spec)


@pytest.mark.parametrize("spec", ["lora", "full", "logit_scale"])
def test_half_precision_forward(folder: str, spec: str) -> None:
    laws.half_precision_forward(folder, spec)


@pytest.mark.parametrize("spec", ["lora(dropout=0.5)", "full"])
def test_recomputed_activations_give_the_same_gradients(folder: str, spec: str) -> None:
    found = []
    for recompute in (False, True):
        classifier = build_classifier(
            folder, spec, NAMES, TEMPLATES, 0, gradient_checkpointing=recompute
        )
        torch.manual_seed(0)
        classifier.train()(some_pixels()).square().sum().backward()
        found.append({name: p.grad for name, p in classifier.tuned.items()})
    plain, recomputed = found
    assert any(bool(gradient.any()) for gradient in plain.values())
    assert all(torch.equal(recomputed[name], gradient) for name, gradient in plain.items())


def test_lora_starts_from_a_folder(folder: str, tmp_path: Path) -> None:
    first = changed(build(folder, "lora(targets='q,fc2', rank=3)"))
    first.clip.save_pretrained(str(tmp_path / "start"))
    second = build(folder, f"lora(start={str(tmp_path / 'start')!r})")
    assert torch.equal(laws.logits_of(second), laws.logits_of(first))


@torch.no_grad()
def test_peft_loads_what_lora_saves(folder: str, tiny_siglip_folder: Path, tmp_path: Path) -> None:
    spec = "lora(targets='q,k,v,o,fc1,fc2')"
    classifier = changed(build(folder, spec))
    load(spec, TuningMethod).save(classifier, tmp_path / "adapter")
    base = SiglipModel.from_pretrained(tiny_siglip_folder)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    features = unit(theirs.get_text_features(input_ids=classifier.prompt_ids).pooler_output)
    torch.testing.assert_close(features, classifier.encode_classes())
    features = unit(theirs.get_image_features(pixel_values=some_pixels()).pooler_output)
    assert torch.equal(features, classifier.encode_images(some_pixels()))


@pytest.mark.parametrize("spec", [*SPECS, "lora(blocks='1')"])
@torch.no_grad()
def test_prefix_features_finished_equal_the_full_forward_pass(folder: str, spec: str) -> None:
    classifier = changed(build(folder, spec))
    prefix = classifier.image_prefix
    if prefix is not None:
        finished = prefix.finish(prefix.compute(some_pixels()))
        torch.testing.assert_close(finished, classifier.encode_images(some_pixels()))
    if spec.startswith("lora"):
        whole = ClipClassifier.encode_classes(classifier)
        torch.testing.assert_close(classifier.encode_classes(), whole)


def test_the_pooling_head_is_tuned_with_the_vision_tower(folder: str) -> None:
    head = {
        n: p.numel() for n, p in load_clip(folder).model.named_parameters() if "vision_model.h" in n
    }
    vision, text = (build(folder, f"full(towers='{tower}')").tuned for tower in ("vision", "text"))
    assert head.keys() <= vision.keys()
    assert all(name.startswith("text_model.") for name in text)
    both = build(folder, "full")
    assert both.tuned.keys() == vision.keys() | text.keys()
    left = {name for name, _ in both.clip.named_parameters()} - both.tuned.keys()
    assert left == {"logit_scale", "logit_bias"}


def test_bitfit_knows_the_pooling_head_s_fused_bias(folder: str) -> None:
    fused = "vision_model.head.attention.in_proj_bias"
    every, fewer = (build(folder, f"bitfit(biases='{b}')") for b in ("all", "fl2ora"))
    apart = every.tuned.keys() - fewer.tuned.keys()
    assert apart == {fused} | {
        f"{tower}_model.encoder.layers.{block}.self_attn.{layer}_proj.bias"
        for tower in ("vision", "text")
        for block in (0, 1)
        for layer in "qkv"
    }
    assert fused not in build(folder, "bitfit(towers='text')").tuned
    assert num_parameters(every.export()) - num_parameters(fewer.export()) == 96 + 6 * (32 + 24)


@pytest.mark.parametrize("spec", REFUSED)
def test_methods_that_insert_vectors_refuse_siglip(folder: str, spec: str) -> None:
    with pytest.raises(UserError) as caught:
        build(folder, spec)
    assert str(caught.value) == (
        f"method {spec!r} on model {folder!r}: expected a CLIP, since the method inserts vectors "
        f"into its towers, found a model of type 'siglip'"
    )


@pytest.mark.parametrize(
    ("method", "augmentation"), [("lora", "crop_flip"), ("lora(blocks='1')", "none")]
)
def test_a_federated_run_on_siglip(
    tiny_siglip_folder: Path, tmp_path: Path, method: str, augmentation: str
) -> None:
    model = str(tiny_siglip_folder)
    run = run_small(
        tmp_path, model=model, method=method, learning_rate=0.05, augmentation=augmentation
    )
    adapter = final_adapter(run)
    assert adapter.keys() == build_classifier(model, method, NAMES, TEMPLATES, 3).export().keys()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in adapter.values())
    assert all(bool(adapter[name].any()) for name in adapter if "lora_B" in name)
    assert not events(run, "drop")
