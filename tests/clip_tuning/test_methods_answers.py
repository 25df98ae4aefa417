"""Each method's own arithmetic, against examples worked by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.forward_pass import ForwardPass
from fl2ora.clip_tuning.imagenet_templates import IMAGENET_TEMPLATES
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.methods.bitfit import BitFit
from fl2ora.clip_tuning.methods.clip_adapter import CLIPAdapter
from fl2ora.clip_tuning.methods.cocoop import CoCoOp
from fl2ora.clip_tuning.methods.coop import CoOp
from fl2ora.clip_tuning.methods.fedtpg import FedTPG
from fl2ora.clip_tuning.methods.full import Full
from fl2ora.clip_tuning.methods.ivlp import IVLP
from fl2ora.clip_tuning.methods.kgcoop import KgCoOp
from fl2ora.clip_tuning.methods.layer_norm import LayerNorm
from fl2ora.clip_tuning.methods.linear_probe import LinearProbe
from fl2ora.clip_tuning.methods.logit_scale import LogitScale
from fl2ora.clip_tuning.methods.maple import MaPLe
from fl2ora.clip_tuning.methods.prograd import ProGrad, aligned
from fl2ora.clip_tuning.methods.prompt_src import PromptSRC, gaussian_weights
from fl2ora.clip_tuning.methods.task_res import TaskRes
from fl2ora.clip_tuning.methods.tcp import TCP, injection_block
from fl2ora.clip_tuning.methods.vpt import VPT
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available, load

NAMES = ("cat", "ankle_boot", "dog")
TEMPLATES = ("a photo of a {}.", "the {}")
LABELS = torch.tensor([0, 2, 1, 0])


@pytest.fixture
def build(tiny_clip_folder: Path) -> Any:
    def make(spec: str, names: Sequence[str] = NAMES, seed: int = 0) -> ClipClassifier:
        return build_classifier(str(tiny_clip_folder), spec, names, TEMPLATES, seed)

    return make


def _pixels() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _passed(images: Tensor, classes: Tensor, logits: Tensor) -> ForwardPass:
    return ForwardPass(torch.zeros(len(images), 3, 1, 1), images, classes, logits)


def test_kgcoop_s_regulariser(build: Any) -> None:
    """Cosines 1, .8, .8 to the unit vectors: 1 - mean = .133333."""
    for spec, weight in (("kgcoop", 8.0), ("kgcoop(weight=1.5)", 1.5), ("tcp", 8.0)):
        classifier = build(spec)
        classifier.guides = torch.eye(3)
        classes = torch.tensor([[1, 0, 0], [0.6, 0.8, 0], [0, 0.6, 0.8]])
        found = classifier.extra_loss(_passed(torch.eye(3), classes, torch.eye(3)))
        assert found.item() == pytest.approx(weight * 0.1333333, rel=1e-5)


def test_kgcoop_s_guides_are_those_of_all_templates(build: Any) -> None:
    with torch.no_grad():
        expected = build("zero_shot").encode_classes()
    for spec in ("kgcoop", "tcp", "prograd", "prompt_src"):
        assert torch.equal(build(spec).guides, expected)
    with torch.no_grad():
        assert not torch.allclose(build("kgcoop").encode_classes(), expected, atol=1e-3)


def test_methods_without_an_extra_loss(build: Any) -> None:
    for spec in ("zero_shot", "lora", "coop", "maple", "vpt", "clip_adapter", "prograd"):
        classifier = build(spec)
        assert classifier.extra_loss(classifier.run(_pixels())) is None


@pytest.mark.parametrize(
    ("gradient", "guide", "strength", "expected"),
    [
        ((1, -1), (0, 2), 1.0, (1, 0)),
        ((1, -1), (0, 2), 0.5, (1, -0.5)),
        ((1, -1), (0, 2), 0.0, (1, -1)),
        ((1, 1), (0, 2), 1.0, (1, 1)),  # they agree
        ((1, 0), (0, 2), 1.0, (1, 0)),  # orthogonal
        ((1, -1), (0, 0), 1.0, (1, -1)),  # nothing to keep to
        ((-3, 1), (1, 1), 1.0, (-2, 2)),
    ],
)
def test_prograd_removes_the_opposing_part_of_a_gradient(
    gradient: tuple[float, ...], guide: tuple[float, ...], strength: float, expected: Any
) -> None:
    found = aligned(torch.tensor(gradient).float(), torch.tensor(guide).float(), strength)
    torch.testing.assert_close(found, torch.tensor(expected).float())


@pytest.mark.parametrize(("strength", "temperature"), [(1.0, 1.0), (0.7, 2.0)])
def test_prograd_gradient_of_a_whole_step(build: Any, strength: float, temperature: float) -> None:
    classifier = build(f"prograd(length=4, strength={strength}, temperature={temperature})")
    with torch.no_grad():
        classifier.context += 0.3 * torch.randn(4, 32, generator=torch.Generator().manual_seed(2))

    def gradient(objective: Any) -> Tensor:
        (found,) = torch.autograd.grad(objective(classifier(_pixels())), [classifier.context])
        return found

    with torch.no_grad():
        zero_shot = build("zero_shot")(_pixels()) / temperature

    def divergence(logits: Tensor) -> Tensor:
        p = zero_shot.softmax(1)
        rows = (p * (p.log() - (logits / temperature).log_softmax(1))).sum(1)
        return temperature**2 * rows.mean()

    guide = gradient(divergence)
    opposing = None
    for labels in torch.cartesian_prod(*[torch.arange(3)] * 4):
        plain = gradient(lambda logits, labels=labels: cross_entropy(logits, labels))
        cosine = float((plain * guide).sum() / plain.norm() / guide.norm())
        passed = classifier.run(_pixels())
        classifier.zero_grad()
        classifier.backward(cross_entropy(passed.logits, labels), passed)
        part = (plain * guide).sum() / guide.norm() * guide / guide.norm()
        expected = plain if cosine >= 0 else plain - strength * part
        scale = float(plain.abs().max())
        torch.testing.assert_close(classifier.context.grad, expected, rtol=1e-4, atol=1e-4 * scale)
        opposing = opposing or cosine < -0.05
    assert opposing  # some labels go against the zero-shot predictions


def test_prograd_with_a_tuned_scale_holds_to_zero_shot_clip_s_own_scale(build: Any) -> None:
    classifier = build("logit_scale('prograd(length=4)')")
    with torch.no_grad():
        classifier.clip.logit_scale += 1
        passed = classifier.run(_pixels())
        p = build("zero_shot")(_pixels()).softmax(1)
        expected = (p * (p.log() - passed.logits.log_softmax(1))).sum(1).mean()
        found = classifier.divergence(passed)
    assert float(expected) > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_prompt_src_with_a_tuned_scale_holds_to_zero_shot_clip_s_own_scale(build: Any) -> None:
    classifier = build("logit_scale('prompt_src(text_weight=0.0, image_weight=0.0)')")
    with torch.no_grad():
        zero_shot = build("zero_shot")(_pixels())
        classifier.clip.logit_scale += 1
        passed = classifier.run(_pixels())
        p, q = zero_shot.softmax(1), passed.logits.softmax(1)
        expected = (p * (p / q).log()).sum() / 12
        found = classifier.extra_loss(passed)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_prograd_s_vectors_beyond_the_words_start_at_zero(build: Any) -> None:
    """As in the authors' code; those of other methods start as noise."""
    words = build("prograd(length=4)").context
    context = build("prograd(length=20, init='a photo')").context
    known = len("a photo")  # a token for each byte
    assert not bool(context[:-known].any())
    assert bool(context[-known:].any(dim=1).all())
    assert bool(words.any(dim=1).all())
    assert bool(build("prograd(length=3, init='noise')").context.any(dim=1).all())
    assert bool(build("coop(length=20, init='a photo')").context.any(dim=1).all())


def test_prompt_src_s_imagenet_guides_are_means_of_sixty_unit_features(build: Any) -> None:
    assert len(set(IMAGENET_TEMPLATES)) == 60
    plain, found = build("zero_shot"), build("prompt_src(guide='imagenet')").guides
    prompts = [template.replace("{}", "ankle boot") for template in IMAGENET_TEMPLATES]
    assert prompts[22] == "a black and white photo of the ankle boot."
    tokens = plain.tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        units = normalize(plain.clip.get_text_features(**tokens).pooler_output, dim=1)
    torch.testing.assert_close(found[1], normalize(units.mean(0), dim=0), rtol=0, atol=1e-5)
    assert not torch.allclose(found, build("prompt_src").guides, atol=1e-3)


def test_gaussian_weights() -> None:
    side = math.exp(-0.5)
    expected = torch.tensor([side, 1, side], dtype=torch.float64) / (1 + 2 * side)
    torch.testing.assert_close(gaussian_weights(3, 2, 1), expected, rtol=1e-12, atol=0)
    assert gaussian_weights(1, 40, 0.1).tolist() == [1]
    assert gaussian_weights(2, 100, 1).tolist() == pytest.approx([0, 1], abs=1e-12)


def test_prompt_src_weighs_rounds_as_the_paper_does_epochs() -> None:
    """Of 20 epochs the 15th most, with the density of a normal of deviation 1."""
    weights = PromptSRC().round_weights(20)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    assert int(weights.argmax()) == 14
    assert float(weights[14]) == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-5)
    assert float(weights[13]) == float(weights[15])
    assert int(PromptSRC(mean=2, deviation=0.5).round_weights(20).argmax()) == 1
    assert int(PromptSRC().round_weights(4).argmax()) == 2


def test_only_prompt_src_asks_for_a_mean_over_rounds() -> None:
    for name in available(TuningMethod):
        weights = load(name, TuningMethod).round_weights(3)
        assert (weights is not None) == (name == "prompt_src")
    wrapped, plain = LogitScale("prompt_src(mean=2)"), PromptSRC(mean=2)
    assert torch.equal(wrapped.round_weights(5), plain.round_weights(5))
    assert LogitScale("lora").round_weights(5) is None


def test_prompt_src_s_losses(build: Any) -> None:
    classifier = build("prompt_src(text_weight=3.0, image_weight=2.0)")
    plain = build("zero_shot")
    with torch.no_grad():
        passed = classifier.run(_pixels())
        zero_shot = plain.run(_pixels())
        p, q = zero_shot.logits.softmax(1), passed.logits.softmax(1)
        expected = (
            3 * (passed.classes - zero_shot.classes).abs().sum() / (3 * 16)
            + 2 * (passed.images - zero_shot.images).abs().sum() / (4 * 16)
            + (p * (p / q).log()).sum() / 12
        )
    assert float(expected) > 0.1
    torch.testing.assert_close(classifier.extra_loss(passed), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_maple_s_vision_prompts_are_linear_in_its_text_prompts(build: Any) -> None:
    classifier = build("maple(length=2, depth=2)")
    weights = classifier.export()
    assert sorted(weights) == [
        "context",
        "couplings.0.bias", "couplings.0.weight",
        "couplings.1.bias", "couplings.1.weight",
        "text_prompts",
    ]  # fmt: skip
    found = classifier.vision_prompts()
    for index, text in ((0, weights["context"]), (1, weights["text_prompts"][0])):
        coupled = text @ weights[f"couplings.{index}.weight"].T + weights[f"couplings.{index}.bias"]
        torch.testing.assert_close(found[index], coupled)
    vpt = build("vpt(length=2, depth=2)")  # the same vision prompts, learned directly
    vpt.restore({"vision_prompts": torch.stack([found[0], found[1]])})
    torch.testing.assert_close(classifier.encode_images(_pixels()), vpt.encode_images(_pixels()))
    ivlp = build("ivlp(length=2, depth=2)")
    ivlp.restore(
        {
            "context": weights["context"],
            "text_prompts": weights["text_prompts"],
            "vision_prompts": vpt.vision_prompts,
        }
    )
    torch.testing.assert_close(ivlp(_pixels()), classifier(_pixels()), rtol=1e-5, atol=1e-5)


def test_tcp_s_block_scales_with_the_model() -> None:
    assert [injection_block(count) for count in (2, 3, 6, 12, 24)] == [1, 2, 4, 8, 16]


@torch.no_grad()
def test_tcp_s_tokens_come_from_zero_shot_features(build: Any) -> None:
    classifier = build("tcp(length=2)")
    w = classifier.export()
    hidden = classifier.guides @ w["class_tokens.0.weight"].T + w["class_tokens.0.bias"]
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    tokens = hidden @ w["class_tokens.2.weight"].T + w["class_tokens.2.bias"]
    assert list(classifier.deep_text()) == [1]
    torch.testing.assert_close(classifier.deep_text()[1], tokens.view(3, 2, 32))


@torch.no_grad()
def test_cocoop_encodes_class_features_for_every_image(build: Any) -> None:
    classifier = build("cocoop(length=4, reduction=4)")
    weights = {k: v + 0.1 * torch.ones_like(v) for k, v in classifier.export().items()}
    classifier.restore(weights)
    images = build("zero_shot").encode_images(_pixels())
    hidden = torch.relu(images @ weights["shift.0.weight"].T + weights["shift.0.bias"])
    shift = hidden @ weights["shift.2.weight"].T + weights["shift.2.bias"]
    scale = classifier.clip.logit_scale.exp()
    found = classifier(_pixels())
    classes = []
    for row in range(4):
        coop = build("coop(length=4, init='template')")
        coop.restore({"context": weights["context"] + shift[row]})
        classes.append(coop.encode_classes())
        expected = scale * images[row] @ classes[row].T
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(classes[0], classes[1], atol=1e-4)
    assert classifier.logits(images[:0], classes[0]).shape == (0, 3)


@torch.no_grad()
def test_clip_adapter_mixes_features(build: Any) -> None:
    for ratio in (0.2, 1.0):
        classifier = build(f"clip_adapter(ratio={ratio})")
        one, two = (classifier.export()[f"adapter.{i}.weight"] for i in (0, 2))
        raw = classifier.clip.get_image_features(pixel_values=_pixels()).pooler_output
        refined = torch.relu(torch.relu(raw @ one.T) @ two.T)
        expected = normalize(ratio * refined + (1 - ratio) * raw, dim=1)
        found = classifier.encode_images(_pixels())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_task_res_adds_a_scaled_residual(build: Any) -> None:
    classifier = build("task_res(scale=0.25)")
    start, residual = classifier.encode_classes(), torch.randn(3, 16)
    classifier.restore({"residual": residual})
    expected = normalize(start + 0.25 * residual, dim=1)
    torch.testing.assert_close(classifier.encode_classes(), expected)


@torch.no_grad()
def test_a_linear_probe_is_linear(build: Any) -> None:
    classifier = build("linear_probe")
    scale = classifier.clip.logit_scale.exp()
    weight, bias = torch.randn(3, 16), torch.randn(3)
    classifier.restore({"weight": weight, "bias": bias})
    images = classifier.encode_images(_pixels())
    expected = scale * (images @ weight.T + bias)
    torch.testing.assert_close(classifier(_pixels()), expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(build("linear_probe(init='zero')")(_pixels()), torch.zeros(4, 3))


@torch.no_grad()
def test_fedtpg_context_depends_on_all_class_names(build: Any) -> None:
    """Whatever their order, and another one for other names."""
    one, two = build("fedtpg"), build("fedtpg", names=NAMES[::-1])
    other = build("fedtpg", names=("cat", "fish"))
    assert one.export().keys() == other.export().keys()
    for classifier in (two, other):
        classifier.restore(one.export())
    assert one.make_context().shape == (4, 32)
    torch.testing.assert_close(one.make_context(), two.make_context(), rtol=1e-5, atol=1e-6)
    assert float((one.make_context() - other.make_context()).abs().max()) > 1e-3
    torch.testing.assert_close(one(_pixels()), two(_pixels()).flip(1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_fedtpg_s_network(build: Any) -> None:
    """Attention of one head, written out."""
    classifier = build("fedtpg(heads=1)")
    w = {name.removeprefix("writer."): t for name, t in classifier.export().items()}

    def norm(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    names = norm(classifier.names)
    query = norm(w["context"]) @ w["attention.q_proj_weight"].T
    key, value = (names @ w[f"attention.{part}_proj_weight"].T for part in "kv")
    mixed = (query @ key.T / math.sqrt(32)).softmax(1) @ value
    found = mixed @ w["attention.out_proj.weight"].T
    wide = norm(found) @ w["up.weight"].T + w["up.bias"]
    gate = wide[:, 128:]
    gated = wide[:, :128] * 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2)))
    expected = found + gated @ w["down.weight"].T + w["down.bias"]
    torch.testing.assert_close(classifier.make_context(), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_logit_scale_changes_confidences_and_no_prediction(build: Any) -> None:
    classifier = build("logit_scale")
    before = classifier(_pixels())
    export = classifier.export()
    assert list(export) == ["logit_scale"]
    classifier.restore({"logit_scale": export["logit_scale"] - math.log(4)})
    torch.testing.assert_close(classifier(_pixels()), before / 4)


def test_logit_scale_names_an_unknown_inner_method(build: Any) -> None:
    with pytest.raises(UserError, match="did you mean 'lora'"):
        build("logit_scale('loro')")


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (CoOp, {"length": 0}, "length: expected a whole number >= 1, found 0"),
        (CoOp, {"position": "left"}, "position: expected one of end, middle, front, found "),
        (KgCoOp, {"weight": -1.0}, "weight: expected a number >= 0, found -1.0"),
        (KgCoOp, {"length": True}, "length: expected a whole number >= 1, found True"),
        (ProGrad, {"temperature": 0}, "temperature: expected a number > 0, found 0"),
        (ProGrad, {"strength": math.inf}, "strength: expected a number >= 0, found inf"),
        (CoCoOp, {"reduction": 0}, "reduction: expected a whole number >= 1, found 0"),
        (TCP, {"block": -1}, "block: expected a whole number >= 0, found -1"),
        (VPT, {"depth": -1}, "depth: expected a whole number >= 0, found -1"),
        (IVLP, {"length": 0}, "length: expected a whole number >= 1, found 0"),
        (MaPLe, {"depth": 1.5}, "depth: expected a whole number >= 0, found 1.5"),
        (PromptSRC, {"deviation": 0.0}, "deviation: expected a number > 0, found 0.0"),
        (PromptSRC, {"text_weight": "1"}, "text_weight: expected a number >= 0, found '1'"),
        (CLIPAdapter, {"ratio": 1.1}, "ratio: expected a number >= 0 and <= 1, found 1.1"),
        (TaskRes, {"scale": 0}, "scale: expected a number > 0, found 0"),
        (LinearProbe, {"init": "x"}, "init: expected one of text, zero, found 'x'"),
        (BitFit, {"biases": "x"}, "biases: expected one of all, fl2ora, found 'x'"),
        (LayerNorm, {"towers": "x"}, "towers: expected one of both, vision, text, found 'x'"),
        (Full, {"towers": "x"}, "towers: expected one of both, vision, text, found 'x'"),
        (FedTPG, {"heads": 0}, "heads: expected a whole number >= 1, found 0"),
    ],
)
def test_arguments_out_of_range_are_named(method: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        method(**arguments)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vpt(depth=3)", "depth: expected at most 2, the blocks of the model's vision tower, "),
        ("maple(depth=3)", "depth: expected at most 2, the blocks of the model's vision tower, "),
        ("tcp(block=2)", "block: expected one of the model's text blocks 1 to 1, found 2"),
        ("fedtpg(heads=5)", "heads: expected a divisor of 32, the model's text width, found 5"),
        ("cocoop(reduction=17)", "reduction: expected at most 16, the model's feature size, "),
        ("lora(blocks='up')", "blocks: expected blocks of the model's vision tower, which has "),
        ("coop(length=90)", "the prompt of 'ankle_boot' has 103 tokens with 90 context vectors"),
    ],
)
def test_a_model_that_does_not_fit_is_named(build: Any, spec: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(spec)
    assert message in str(caught.value)
