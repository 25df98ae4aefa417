"""What every tuning method promises, whatever the model; each law fails by an assertion."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.federated_data.images import LabelledImages

NAMES = ("cat", "ankle_boot", "dog")
TEMPLATES = ("a photo of a {}.",)


def build(folder: str, spec: str, seed: int = 0) -> ClipClassifier:
    return build_classifier(folder, spec, NAMES, TEMPLATES, seed)


def changed(classifier: ClipClassifier, scale: float = 0.2) -> ClipClassifier:
    """Move every tuned tensor away from where it starts."""
    rng = torch.Generator().manual_seed(3)
    classifier.restore(
        {
            name: tensor + scale * torch.randn(tensor.shape, generator=rng)
            for name, tensor in classifier.export().items()
        }
    )
    return classifier


def some_pixels(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits_of(classifier: ClipClassifier) -> Tensor:
    found: Tensor = classifier(some_pixels())
    return found


def every_tuned_tensor_matters(folder: str, spec: str) -> None:
    """Only biases of k may change without changing a logit: softmax takes no notice of them."""
    classifier = changed(build(folder, spec), 0.05)
    start = classifier.export()
    before = logits_of(classifier)
    for name, tensor in start.items():
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(4))
        classifier.restore({**start, name: tensor + noise})
        same = torch.allclose(logits_of(classifier), before, rtol=1e-5, atol=1e-5)
        assert same == name.endswith("k_proj.bias"), name


def starts_at_zero_shot(folder: str, spec: str) -> None:
    expected = logits_of(build(folder, "zero_shot"))
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(logits_of(build(folder, spec)), expected, rtol=1e-5, atol=2e-5)


def training_changes_what_is_exported_and_nothing_else(
    folder: str, spec: str, data: LabelledImages
) -> None:
    classifier = build(folder, spec)
    gathered = classifier.carried if classifier.gathers else {}
    tuned = {id(parameter) for parameter in [*classifier.trained, *gathered.values()]}
    named = [*classifier.named_parameters(), *classifier.named_buffers()]
    frozen = {name: tensor.clone() for name, tensor in named if id(tensor) not in tuned}
    before = classifier.export()
    assert len(named) == len(frozen) + len(tuned)
    plan = TrainingPlan(CrossEntropy(), epochs=2, batch_size=6, learning_rate=0.05, client="c")
    own = classifier.export_personal()
    with classifier.as_client({}):
        update, _ = local_train(classifier, data, plan)
    kept = classifier.export_personal()
    assert all(not torch.equal(kept[name], tensor) for name, tensor in own.items())
    assert not kept.keys() & update.adapter.keys()
    after = dict([*classifier.named_parameters(), *classifier.named_buffers()])
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())
    assert update.adapter.keys() == before.keys()
    carried = before.keys() - classifier.tuned.keys() - gathered.keys()
    assert all(torch.equal(update.adapter[name], before[name]) for name in carried)
    for name, parameter in {**classifier.tuned, **classifier.personal}.items():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) or name.endswith("k_proj.bias"), name
        assert bool(torch.isfinite(parameter.grad).all()), name
    for name in classifier.tuned:
        assert not torch.equal(update.adapter[name], before[name]), name


def what_is_called_frozen_is(folder: str, spec: str) -> None:
    plain, classifier = build(folder, spec), changed(build(folder, spec))
    with torch.no_grad():
        images = torch.equal(
            plain.encode_images(some_pixels()), classifier.encode_images(some_pixels())
        )
        classes = torch.equal(plain.encode_classes(), classifier.encode_classes())
    assert classifier.images_frozen == images
    assert classifier.classes_frozen == classes


def half_precision_forward(folder: str, spec: str) -> None:
    classifier = build(folder, spec).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        passed = classifier.run(some_pixels())
        extra = classifier.extra_loss(passed)
    assert passed.logits.dtype == torch.float32
    loss = cross_entropy(passed.logits, torch.tensor([0, 1, 2, 0]))
    if classifier.tuned:
        classifier.backward(loss if extra is None else loss + extra, passed)
    for name, parameter in classifier.tuned.items():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32, name
        assert bool(torch.isfinite(parameter.grad).all()), name


def nothing_stays_behind_when_it_moves(folder: str, spec: str) -> None:
    """The meta device stands for an accelerator: it refuses to compute with CPU tensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no meta
        classifier = build(folder, spec).to("meta")
        passed = classifier.run(some_pixels().to("meta"))
        loss = cross_entropy(passed.logits, torch.zeros(4, dtype=torch.int64, device="meta"))
        extra = classifier.extra_loss(passed)
        names = classifier.encode_names(("cat", "fish"))
        found = [*vars(passed).values(), loss, names, extra]
        assert {tensor.device.type for tensor in found if tensor is not None} == {"meta"}
