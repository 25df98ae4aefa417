"""What every tuning method promises, as a check to run on yours.

    from fl2ora.clip_tuning.contract import check_method
    check_method("my_module:MyMethod(length=4)")

It attaches the method to a small model, trains it for a step, and raises an AssertionError that
says which promise is broken.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip, load_clip
from fl2ora.clip_tuning.contract_probe import (
    ATOL,
    IMAGES,
    Make,
    assert_close,
    assert_equal,
    assert_same_pass,
    gradients_of,
    logits_of,
    moved,
    other_personal,
    some_labels,
    some_pixels,
    with_gradients,
)  # fmt: skip
from fl2ora.clip_tuning.contract_travel import (
    check_export,
    check_files,
    check_personal,
    check_strict_restore,
)
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.plugins import load

CLASSES = ("cat", "ankle_boot", "dog")
TEMPLATES = ("a photo of a {}.",)
_LOGITS = 1e-4  # logits are about a hundred times as large as features


def check_method(
    method: str,
    clip: Clip | str = "embedded",
    class_names: Sequence[str] = CLASSES,
    templates: Sequence[str] = TEMPLATES,
) -> None:
    """Check a tuning method and the classifier it attaches.

    Args:
        method: spec string of the method.
        clip: what it is attached to, copies of it, or a name for ``load_clip``.
        class_names: of the classes.
        templates: with ``{}`` where a class name goes.

    Raises:
        AssertionError: a promise is broken; the message says which.
        UserError: there is no such method or model.
    """
    tuning = load(method, TuningMethod)
    model = load_clip(clip) if isinstance(clip, str) else clip

    def make(seed: int = 0) -> ClipClassifier:
        own = Clip(model.name, copy.deepcopy(model.model), model.tokenizer, model.preprocessing)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return tuning.attach(own, class_names, templates).eval()

    _check_seed(make)
    check_personal(make)
    _check_forward(make)
    check_export(make)
    check_strict_restore(make)
    check_files(tuning, make)
    _check_frozen_parts(make)
    _check_prefix(make)
    _check_training(make)
    if make().gathers:
        _check_gathering(make)


def _check_seed(make: Make) -> None:
    one, two = make(), make()
    assert_equal(one.export(), two.export(), "two classifiers attached from one seed differ in")
    assert_equal(
        one.export_personal(), two.export_personal(), "personal parts of one seed differ in"
    )
    assert_close(logits_of(one), logits_of(two), 0.0, "logits of one seed differ")


def _check_forward(make: Make) -> None:
    classifier = moved(make())
    pixels = some_pixels(classifier)
    with torch.no_grad():
        first = classifier(pixels)
        torch.rand(1)  # moves the global random stream, and nothing in evaluation mode reads it
        second = classifier(pixels)
        images, classes = classifier.encode_images(pixels), classifier.encode_classes()
        parts = [classifier.logits(image, classes) for image in images.split(1)]
    shape, expected = tuple(first.shape), (IMAGES, len(classifier.class_names))
    assert shape == expected, f"logits: expected shape {expected}, found {shape}"
    assert first.dtype == torch.float32, f"logits: expected float32, found {first.dtype}"
    assert bool(torch.isfinite(first).all()), "logits: expected finite values"
    assert_close(second, first, 0.0, "two passes in evaluation mode give different logits")
    assert_close(
        torch.cat(parts), first, _LOGITS,
        "logits(encode_images, encode_classes), image by image, is not the forward pass",
    )  # fmt: skip


def _check_frozen_parts(make: Make) -> None:
    """Look whether what is called frozen is, and whether anything goes stale that is not."""
    plain, used, fresh = make(), make(), make()
    pixels = some_pixels(plain)
    with torch.no_grad():
        used(pixels)  # fills whatever the classifier keeps
    for classifier in (used, fresh):
        moved(classifier)
    with torch.no_grad(), used.as_client(other_personal(used)):
        if plain.images_frozen:
            assert_close(
                used.encode_images(pixels), plain.encode_images(pixels), 0.0,
                "images_frozen: encode_images depends on what is tuned",
            )  # fmt: skip
        if plain.classes_frozen:
            assert_close(
                used.encode_classes(), plain.encode_classes(), 0.0,
                "classes_frozen: encode_classes depends on what is tuned",
            )  # fmt: skip
            assert_close(
                used.frozen_classes, plain.encode_classes(), ATOL,
                "frozen_classes is not encode_classes",
            )  # fmt: skip
    for what in ("encode_classes", "encode_images"):
        results = []
        for classifier in (used, fresh):
            with classifier.as_client({}):
                results.append(with_gradients(classifier, what, pixels))
        message = f"{what}: something computed before restore is still used"
        assert_same_pass(results[0], results[1], message)


def _check_prefix(make: Make) -> None:
    classifier = make()
    prefix, pixels = classifier.image_prefix, some_pixels(classifier)
    if prefix is None:
        return
    with torch.no_grad():
        features = prefix.compute(pixels)
    moved(classifier)
    with torch.no_grad(), classifier.as_client(other_personal(classifier)):
        assert_close(
            prefix.compute(pixels), features, 0.0,
            "image_prefix: compute depends on what is tuned",
        )  # fmt: skip
        assert_close(
            torch.cat([prefix.compute(pixel) for pixel in pixels.split(1)]), features, ATOL,
            "image_prefix: compute makes something else of an image alone than in a batch",
        )  # fmt: skip
    with classifier.as_client({}):
        kept = gradients_of(classifier, lambda: classifier.finish_images(features))
        whole = gradients_of(classifier, lambda: classifier.encode_images(pixels))
    assert_same_pass(kept, whole, "image_prefix: finish(compute(pixels)) is not encode_images")


def _check_training(make: Make) -> None:
    classifier = moved(make())
    with classifier.as_client({}):
        trained = {id(parameter) for parameter in classifier.trained}
        named = dict([*classifier.named_parameters(), *classifier.named_buffers()])
        before = {name: tensor.detach().clone() for name, tensor in named.items()}
        passed = classifier.run(some_pixels(classifier))
        objective = cross_entropy(passed.logits, some_labels(classifier))
        extra = classifier.extra_loss(passed)
        objective = objective if extra is None else objective + extra
        if trained:
            classifier.backward(objective, passed)
    for name, parameter in classifier.named_parameters():
        if id(parameter) not in trained:
            assert parameter.grad is None, f"{name} is not tuned and got a gradient"
            assert not parameter.requires_grad, f"{name} is not tuned and requires a gradient"
    for name, parameter in {**classifier.tuned, **classifier.personal}.items():
        assert parameter.grad is not None, f"{name} is tuned and got no gradient"
        assert bool(torch.isfinite(parameter.grad).all()), f"{name}: its gradient is not finite"
    assert_equal(named, before, "a forward and a backward pass have changed")


def _check_gathering(make: Make) -> None:
    exports = []
    for _ in range(2):
        classifier = make()
        before = {name: p.detach().clone() for name, p in classifier.named_parameters()}
        with torch.no_grad():
            images = classifier.encode_images(some_pixels(classifier))
        classifier.gather(images, some_labels(classifier), torch.Generator().manual_seed(0))
        carried = {id(parameter) for parameter in classifier.carried.values()}
        others = {n: p for n, p in classifier.named_parameters() if id(p) not in carried}
        assert_equal(others, {n: before[n] for n in others}, "gather has changed")
        exports.append(classifier.export())
    assert_equal(exports[0], exports[1], "gather: equal images and draws give different")
