"""The contract of tuning methods: all of ours keep it, and it catches methods that do not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip, load_clip
from fl2ora.clip_tuning.contract import check_method
from fl2ora.clip_tuning.forward_pass import ForwardPass
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.prefix.image_prefix import ImagePrefix
from method_specs import ALL


@pytest.fixture(scope="module")
def model(tiny_clip_folder: object) -> Clip:
    return load_clip(str(tiny_clip_folder))


@pytest.mark.parametrize("spec", ALL)
def test_our_methods_keep_the_contract(model: Clip, spec: str) -> None:
    check_method(spec, model)


@pytest.mark.parametrize("spec", ["coop(length=4)", "lora(blocks='up')", "fedpgp"])
def test_the_contract_holds_on_the_embedded_model(spec: str) -> None:
    check_method(spec)


class _Toy(ClipClassifier):
    """A residual on the image features, and a personal one; the methods below break it."""

    residual: nn.Parameter
    own: nn.Parameter

    def encode_images(self, pixels: Tensor) -> Tensor:
        return self.refine(super().encode_images(pixels))

    @property
    def image_prefix(self) -> ImagePrefix | None:
        return ImagePrefix("CLIP's features", super().encode_images, self.refine)

    def refine(self, features: Tensor) -> Tensor:
        return features + self.residual + (self.own if self.personalised else 0)


class Kept(TuningMethod):
    """Breaks nothing."""

    kind: type[ClipClassifier] = _Toy

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        classifier = self.kind(clip, class_names, templates)
        size = clip.feature_size
        classifier.residual = nn.Parameter(0.1 * torch.randn(size))
        classifier.own = nn.Parameter(0.1 * torch.randn(size))
        return self.tuned(classifier)

    def tuned(self, classifier: ClipClassifier) -> ClipClassifier:
        return classifier.tune_own(personal=("own",), classes_frozen=True)


class _TunedPrefix(_Toy):
    @property
    def image_prefix(self) -> ImagePrefix | None:
        return ImagePrefix("all", self.encode_images, lambda features: features)


class _HalfPrefix(_Toy):
    """Its finish forgets the scale that encode_images has, in the gradients."""

    @property
    def image_prefix(self) -> ImagePrefix | None:
        return ImagePrefix(
            "half", super().image_prefix.compute, lambda f: f + self.residual.detach()
        )


class _BatchPrefix(_Toy):
    """Its prefix features are standardised over the batch."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        features = ClipClassifier.encode_images(self, pixels)
        return self.refine(features - features.mean(dim=0))

    @property
    def image_prefix(self) -> ImagePrefix | None:
        def compute(pixels: Tensor) -> Tensor:
            features = ClipClassifier.encode_images(self, pixels)
            return features - features.mean(dim=0)

        return ImagePrefix("standardised", compute, self.refine)


class _PersonalPrefix(_Toy):
    """Its prefix features depend on what each client keeps to itself."""

    @property
    def image_prefix(self) -> ImagePrefix | None:
        def compute(pixels: Tensor) -> Tensor:
            own = self.own if self.personalised else 0
            return ClipClassifier.encode_images(self, pixels) + own

        return ImagePrefix("personal", compute, lambda features: features + self.residual)


class _Noisy(_Toy):
    def logits(self, images: Tensor, classes: Tensor) -> Tensor:
        found = super().logits(images, classes)
        return found + torch.randn_like(found)


class _LeakingPersonal(_Toy):
    def refine(self, features: Tensor) -> Tensor:
        return features + self.residual + self.own


class _Stale(_Toy):
    """Keeps what it refined with at first."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        features = ClipClassifier.encode_images(self, pixels)
        if not hasattr(self, "first"):
            self.first = self.residual.detach().clone()
        return features + self.first + 0 * self.residual + (self.own if self.personalised else 0)


class _HalfPrecision(_Toy):
    def logits(self, images: Tensor, classes: Tensor) -> Tensor:
        return super().logits(images, classes).half()


class _CountingBuffer(_Toy):
    """Changes something that does not travel while it trains."""

    def extra_loss(self, passed: ForwardPass) -> Tensor | None:
        with torch.no_grad():
            self.clip.logit_scale += 0.1
        return None


class _LooseRestore(_Toy):
    def restore(self, adapter: Adapter) -> None:  # type: ignore[override]
        known = {name: adapter.get(name, p) for name, p in self.tuned.items()}
        super().restore(known)


class _Untrained(_Toy):
    """One tuned tensor is in no pass."""

    def refine(self, features: Tensor) -> Tensor:
        return features + self.residual.detach() + (self.own if self.personalised else 0)


class WrongClassesFrozen(Kept):
    def tuned(self, classifier: ClipClassifier) -> ClipClassifier:
        return classifier.tune_own(personal=("own",), images_frozen=True, classes_frozen=True)


class TravellingPersonal(Kept):
    def tuned(self, classifier: ClipClassifier) -> ClipClassifier:
        own = {"residual": classifier.residual, "too": classifier.own}
        return classifier.tune(own, personal={"own": classifier.own}, classes_frozen=True)


class TrainsClip(Kept):
    def tuned(self, classifier: ClipClassifier) -> ClipClassifier:
        super().tuned(classifier)
        classifier.clip.logit_scale.requires_grad_(True)
        return classifier


class OwnRandomness(Kept):
    counter = 0

    def tuned(self, classifier: ClipClassifier) -> ClipClassifier:
        OwnRandomness.counter += 1
        with torch.no_grad():
            classifier.residual += OwnRandomness.counter
        return super().tuned(classifier)


class SavesNothing(Kept):
    def load(self, folder: object) -> Adapter:
        return {"residual": torch.zeros(16)}


BROKEN = {
    _TunedPrefix: "image_prefix: compute depends on what is tuned",
    _HalfPrefix: r"finish\(compute\(pixels\)\) is not encode_images",
    _BatchPrefix: "compute makes something else of an image alone than in a batch",
    _PersonalPrefix: "image_prefix: compute depends on what is tuned",
    _Noisy: "logits of one seed differ",
    _LeakingPersonal: "personal: it plays a part outside of as_client",
    _Stale: "encode_images: something computed before restore is still used",
    _HalfPrecision: "logits: expected float32, found torch.float16",
    _CountingBuffer: "a forward and a backward pass have changed clip.logit_scale",
    _LooseRestore: r"restore: an adapter with a name it does not know was accepted",
    _Untrained: "residual is tuned and got no gradient",
    WrongClassesFrozen: "images_frozen: encode_images depends on what is tuned",
    TravellingPersonal: "a personal parameter travels under another name",
    TrainsClip: "clip.logit_scale is not tuned and got a gradient",
    OwnRandomness: "two classifiers attached from one seed differ in residual",
    SavesNothing: "save, load: logits differ",
}


def test_the_toy_that_breaks_nothing_keeps_the_contract(model: Clip) -> None:
    check_method(f"{__name__}:Kept", model)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda kind: kind.__name__.strip("_"))
def test_a_broken_promise_is_named(
    model: Clip, monkeypatch: pytest.MonkeyPatch, broken: type
) -> None:
    name = broken.__name__
    if not issubclass(broken, TuningMethod):
        monkeypatch.setattr(Kept, "kind", broken)
        name = "Kept"
    with pytest.raises(AssertionError, match=BROKEN[broken]):
        check_method(f"{__name__}:{name}", model)
