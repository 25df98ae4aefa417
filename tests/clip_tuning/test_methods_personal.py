"""Methods of which a part stays with the client, and the one that trains nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.adapter import AdapterError
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.methods.fedotp import FedOTP
from fl2ora.clip_tuning.methods.fedpgp import FedPGP, contrast
from fl2ora.clip_tuning.methods.tip_adapter import TipAdapter
from fl2ora.clip_tuning.prefix.features import prefix_features
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.images import LabelledImages
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.client_rule import ClientRule
from fl2ora.strategies.updates import WeightedMean

NAMES = ("cat", "ankle_boot", "dog")
TEMPLATES = ("a photo of a {}.", "the {}")
SIZES = {
    "fedotp": ({"context": (16, 32)}, {"local_context": (16, 32)}),
    "fedpgp": ({"context": (16, 32)}, {"left": (16, 4), "right": (4, 32)}),
    "promptfolio": ({"context": (16, 32)}, {"local_context": (16, 32)}),
    "logit_scale('fedpgp')": (
        {"context": (16, 32), "logit_scale": ()},
        {"left": (16, 4), "right": (4, 32)},
    ),
}


@pytest.fixture
def build(tiny_clip_folder: Path) -> Any:
    def make(spec: str, names: Sequence[str] = NAMES) -> ClipClassifier:
        return build_classifier(str(tiny_clip_folder), spec, names, TEMPLATES, 0)

    return make


def _pixels(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spec", SIZES)
def test_sent_and_kept_parameters_of_personal_methods(build: Any, spec: str) -> None:
    classifier = build(spec)
    sent, kept = SIZES[spec]
    assert {name: tuple(t.shape) for name, t in classifier.export().items()} == sent
    assert {name: tuple(t.shape) for name, t in classifier.export_personal().items()} == kept


@pytest.mark.parametrize("spec", SIZES)
@torch.no_grad()
def test_personal_part_is_used_only_within_as_client(build: Any, spec: str) -> None:
    classifier = build(spec)
    start = classifier.export_personal()
    alone = classifier(_pixels())
    other = {name: tensor + 1 for name, tensor in start.items()}
    with classifier.as_client(other):
        assert all(torch.equal(classifier.export_personal()[n], t) for n, t in other.items())
        assert not torch.allclose(classifier(_pixels()), alone, atol=1e-3)
    assert torch.equal(classifier(_pixels()), alone)
    with classifier.as_client({}):  # who never took part starts where all do
        assert all(torch.equal(classifier.export_personal()[n], t) for n, t in start.items())
    with pytest.raises(AdapterError, match=r"^personal part: missing: "):
        classifier.as_client({"nothing": torch.zeros(1)}).__enter__()
    assert not classifier.personalised


@torch.no_grad()
def test_fedpgp_adds_a_product_to_the_context(build: Any) -> None:
    classifier = build("fedpgp(length=4, rank=2)")
    left, right = torch.randn(4, 2), torch.randn(2, 32)
    coop = build("coop(length=4)")
    coop.restore(classifier.export())
    torch.testing.assert_close(classifier(_pixels()), coop(_pixels()))
    with classifier.as_client({"left": left, "right": right}):
        coop.restore({"context": classifier.context + left @ right})
        torch.testing.assert_close(classifier(_pixels()), coop(_pixels()))


@torch.no_grad()
def test_promptfolio_mixes_unit_features(build: Any) -> None:
    """Logits are linear in class features: a client's are .7 of coop's here, .3 of coop's there."""
    classifier = build("promptfolio(length=4, share=0.3)")
    classifier.restore({"context": torch.randn(4, 32)})
    own, coop, logits = torch.randn(4, 32), build("coop(length=4)"), []
    for context in (classifier.export()["context"], own):
        coop.restore({"context": context})
        logits.append(coop(_pixels()))
    torch.testing.assert_close(classifier(_pixels()), logits[0])
    with classifier.as_client({"local_context": own}):
        mixed = classifier(_pixels())
        lengths = classifier.encode_classes().norm(dim=1)
        pooled = classifier.pooled_classes(classifier.encode_classes()).norm(dim=1)
    torch.testing.assert_close(mixed, 0.7 * logits[0] + 0.3 * logits[1])
    assert float(lengths.max()) < 0.9999
    torch.testing.assert_close(pooled, torch.ones(3))


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5])
def test_a_share_of_none_or_all_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="share: expected a number > 0 and < 1, found"):
        load(f"promptfolio(share={share})", TuningMethod)


def test_fedpgp_s_contrast() -> None:
    """Cosines (1, 0) and (.6, .8) at temperature .5."""
    anchor = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    positive = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    negative = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    rows = [math.log(1 + math.exp((far - near) / 0.5)) for near, far in ((1, 0), (0.6, 0.8))]
    found = contrast(anchor, positive, negative, 0.5)
    assert float(found) == pytest.approx(sum(rows) / 2, rel=1e-6)


@torch.no_grad()
def test_fedpgp_s_loss_compares_the_shared_part(build: Any) -> None:
    classifier = build("fedpgp(weight=2.0, temperature=0.25)")
    assert classifier.extra_loss(classifier.run(_pixels())) is None
    shared, zero_shot = classifier.encode_classes(), build("zero_shot").encode_classes()
    with classifier.as_client({}):
        passed = classifier.run(_pixels())
        expected = 2 * contrast(shared, zero_shot, passed.classes, 0.25)
        torch.testing.assert_close(classifier.extra_loss(passed), expected)


@torch.no_grad()
def test_fedotp_s_patches_are_projected_tokens(build: Any) -> None:
    classifier = build("fedotp")
    clip = classifier.clip
    found = classifier.encode_images(_pixels())
    states = clip.vision_model(pixel_values=_pixels()).last_hidden_state
    norm = clip.vision_model.post_layernorm
    for token in (0, 1, -1):
        raw = clip.visual_projection(norm(states[:, token]))
        torch.testing.assert_close(found[:, token], normalize(raw, dim=1))
    plain = build("zero_shot").encode_images(_pixels())
    torch.testing.assert_close(classifier.pooled_images(found), plain)


@torch.no_grad()
def test_fedotp_s_logits(build: Any) -> None:
    """Without a personal part and with all mass: the mean cosine of the patches, by hand."""
    classifier = build("fedotp(length=4)")
    images = classifier.encode_images(_pixels())
    coop = build("coop(length=4)")
    coop.restore(classifier.export())
    scale = classifier.clip.logit_scale.exp()
    expected = scale * (images[:, 1:] @ coop.encode_classes().T).mean(dim=1)
    torch.testing.assert_close(classifier(_pixels()), expected, rtol=1e-4, atol=1e-4)
    with classifier.as_client({}):
        classes = classifier.encode_classes()
        assert classes.shape == (3, 2, 16)
        coop.restore({"context": classifier.local_context})
        torch.testing.assert_close(classes[:, 1], coop.encode_classes())
        # Two equal prompts share the patches: as one.
        equal = classes[:, :1].expand(-1, 2, -1)
        torch.testing.assert_close(classifier.logits(images, equal), expected, rtol=1e-4, atol=1e-4)
        best = classifier.logits(images, classes)
        both = torch.stack([images[:, 1:] @ classes[:, n].T for n in (0, 1)]).mean(dim=(0, 2))
        assert bool((best >= scale * both - 1e-3).all())  # a plan beats giving each its half


def _train(classifier: ClipClassifier, data: LabelledImages, client: str, **settings: Any) -> Any:
    plan = TrainingPlan(CrossEntropy(), client=client, **settings)
    with classifier.as_client({}):
        return local_train(classifier, data, plan)[0]


@torch.no_grad()
def test_tip_adapter_with_one_client_is_the_original(build: Any, random_images: Any) -> None:
    """Two images a class, two rows a class; logits written out as in the paper."""
    data = random_images(6)
    classifier = build("tip_adapter(shots=2, alpha=3.0, beta=5.5)")
    update = _train(classifier, data, "a")
    features = prefix_features(build("zero_shot"), data.images)
    keys, values = features, torch.eye(3)[data.labels]
    images = build("zero_shot").encode_images(_pixels())
    affinity = images @ keys.T
    expected = build("zero_shot")(_pixels()) + 3 * torch.exp(-5.5 * (1 - affinity)) @ values
    torch.testing.assert_close(classifier(_pixels()), expected, rtol=1e-4, atol=1e-4)
    assert update.adapter["cache"].shape == (3, 2, 16)
    assert float((classifier(_pixels()) - build("zero_shot")(_pixels())).abs().min()) > 0.1


def test_tip_adapter_s_mean_is_the_pooled_cache(build: Any, random_images: Any) -> None:
    """With one row a class: the clients' weighted mean is what one client with all images has."""
    data = random_images(10)
    parts = {"a": range(7), "b": range(7, 10)}
    mean = WeightedMean()
    for client, rows in parts.items():
        picked = torch.tensor(rows)
        part = LabelledImages(data.images[picked], data.labels[picked], data.domains[picked])
        update = _train(build("tip_adapter(shots=1)"), part, client)
        mean.add(update.adapter, update.num_examples)
    pooled = _train(build("tip_adapter(shots=1)"), data, "c").adapter
    torch.testing.assert_close(mean.result()["cache"], pooled["cache"], rtol=1e-5, atol=1e-6)


def test_tip_adapter_s_rows_without_images_do_not_vote(build: Any, random_images: Any) -> None:
    data = random_images(3, classes=2)  # cat twice, ankle boot once, no dog
    classifier = build("tip_adapter(shots=4)")
    cache = _train(classifier, data, "a").adapter["cache"]
    assert cache.any(dim=-1).sum(dim=1).tolist() == [2, 1, 0]
    with torch.no_grad():
        difference = classifier(_pixels()) - build("zero_shot")(_pixels())
    assert bool((difference[:, 2].abs() < 1e-5).all())
    assert bool((difference[:, :2] > 0.01).all())


def test_tip_adapter_gathers_the_same_cache_again(build: Any, random_images: Any) -> None:
    data = random_images(6)
    classifier = build("tip_adapter(shots=2)")
    first = _train(classifier, data, "a").adapter["cache"]
    assert torch.equal(_train(classifier, data, "a").adapter["cache"], first)
    augmented = _train(classifier, data, "a", augmentation="flip").adapter["cache"]
    assert not torch.equal(augmented, first)
    assert float(torch.cosine_similarity(augmented, first, dim=-1).min()) > 0.5


def test_tip_adapter_f_with_one_client_is_the_original(build: Any, random_images: Any) -> None:
    """The paper's formula and one step of gradient descent on its keys, written out."""
    data, rate = random_images(6), 0.5
    classifier = build("tip_adapter_f(shots=2, alpha=3.0, beta=5.5)")
    _train(classifier, data, "a", batch_size=6, learning_rate=rate)
    zero_shot, values = build("zero_shot"), torch.eye(3)[data.labels]
    images = prefix_features(zero_shot, data.images)
    keys = images.clone().requires_grad_()

    def votes(features: Tensor) -> Tensor:
        return 3 * torch.exp(-5.5 * (1 - features @ keys.T)) @ values

    with torch.no_grad():
        plain, seen = zero_shot(_pixels()), zero_shot.encode_images(_pixels())
        trained_on = zero_shot.logits(images, zero_shot.encode_classes())
    cross_entropy(trained_on + votes(images), data.labels).backward()
    with torch.no_grad():
        before = plain + votes(seen)
        keys -= rate * keys.grad
        expected = plain + votes(seen)
        torch.testing.assert_close(classifier(_pixels()), expected, rtol=1e-4, atol=1e-4)
    assert float((expected - before).abs().max()) > 0.01


def test_tip_adapter_f_keeps_the_pooled_rows_from_round_2_on(
    build: Any, random_images: Any
) -> None:
    data, classifier = random_images(6), build("tip_adapter_f(shots=2)")
    first = _train(classifier, data, "a", learning_rate=0.1).adapter
    other = {**first, "cache": first["cache"].roll(1, dims=-1)}
    classifier.restore(other)
    second = _train(classifier, data, "a", learning_rate=0.1).adapter
    assert torch.equal(second["cache"], other["cache"])
    assert not torch.equal(second["residual"], first["residual"])


def test_gradients_a_rule_leaves_on_the_cache_are_cleared(build: Any, random_images: Any) -> None:
    """FedDyn clips the norm of all gradients, and no optimiser clears those of the cache."""
    data, classifier = random_images(6), build("logit_scale('tip_adapter(shots=2)')")
    start, found = classifier.export(), []
    spec = load("feddyn(alpha=1.0, clip=1.0)", Strategy).plan(1, start, "ab").rule
    for _ in range(3):
        classifier.restore(start)
        rule = load(spec, ClientRule)
        plan = TrainingPlan(CrossEntropy(), rule, batch_size=3, learning_rate=0.1, client="a")
        found.append(local_train(classifier, data, plan)[0].adapter["logit_scale"])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (FedOTP, {"mass": 0.0}, "mass: expected a number > 0"),
        (FedOTP, {"mass": 1.5}, "mass: expected a number .*1, found 1.5"),
        (FedOTP, {"epsilon": 0.01}, "epsilon: expected a number >= 0.025, found 0.01"),
        (FedPGP, {"rank": 0}, "rank: expected a whole number >= 1, found 0"),
        (FedPGP, {"temperature": 0}, "temperature: expected a number > 0, found 0"),
        (TipAdapter, {"shots": 0}, "shots: expected a whole number >= 1, found 0"),
        (TipAdapter, {"beta": 0}, "beta: expected a number > 0, found 0"),
    ],
)
def test_arguments_out_of_range_are_named(
    method: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        method(**arguments)
