"""Prefix features: kept by a key of all they depend on, made once, equal whoever computes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.prefix import store as store_module
from fl2ora.clip_tuning.prefix.digest import digest
from fl2ora.clip_tuning.prefix.features import Views, prefix_features
from fl2ora.clip_tuning.prefix.store import PrefixStore, features_key
from fl2ora.clip_tuning.preprocessing import Augmentation
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.shapes import Shapes

WORLD = Shapes(styles="held-back", train=32, validation=16, test=16)
IMAGES = WORLD.split("train").images[:]
SIZE = len(IMAGES) * 64 * 4  # bytes of their 64 float32 features


def model(method: str = "coop", seed: int = 0) -> ClipClassifier:
    return build_classifier("embedded", method, WORLD.class_names, WORLD.templates, seed)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the numbers of images whose features were computed for a whole part."""
    calls: list[int] = []

    def counting(classifier: ClipClassifier, images: Tensor, *rest: Any) -> Tensor:
        if len(images) > 1:  # the size is asked of one image
            calls.append(len(images))
        return prefix_features(classifier, images, *rest)

    monkeypatch.setattr(store_module, "prefix_features", counting)
    return calls


def test_features_are_computed_once(computed: list[int]) -> None:
    store, classifier = PrefixStore(SIZE), model()
    expected = prefix_features(classifier, IMAGES)
    for _ in range(3):
        found = store.features(classifier, IMAGES, "train")
        assert found is not None
        assert torch.equal(found, expected)
    assert computed == [len(IMAGES)]


def test_classifiers_with_the_same_prefix_share_features(computed: list[int]) -> None:
    store = PrefixStore(SIZE)
    for method in ("coop", "kgcoop", "zero_shot"):
        assert store.features(model(method), IMAGES, "train") is not None
    assert computed == [len(IMAGES)]


def test_the_least_recently_used_features_are_dropped_first(computed: list[int]) -> None:
    store, classifier = PrefixStore(2 * SIZE), model()
    parts = {"a": IMAGES, "b": IMAGES.flip(0), "c": IMAGES.flip(-1)}
    for name in "abac":  # b was used longest ago
        store.features(classifier, parts[name], name)
    assert len(computed) == 3
    store.features(classifier, parts["a"], "a")
    assert len(computed) == 3
    store.features(classifier, parts["b"], "b")
    assert len(computed) == 4


def test_no_features_without_room_images_or_prefix(computed: list[int], tmp_path: Path) -> None:
    assert PrefixStore(SIZE - 1).features(model(), IMAGES, "a") is None
    assert PrefixStore(0, tmp_path).features(model(), IMAGES, "a") is None
    assert PrefixStore(SIZE).features(model(), IMAGES[:0], "a") is None
    assert PrefixStore(SIZE).features(model("lora"), IMAGES, "a") is None
    assert computed == []


def test_features_in_files_are_read_by_another_store(computed: list[int], tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    first = PrefixStore(SIZE, folder).features(model(), IMAGES, "a")
    second = PrefixStore(SIZE, folder).features(model("kgcoop"), IMAGES, "b")
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)
    assert computed == [len(IMAGES)]
    key = features_key(model(), digest([IMAGES]))
    assert [path.name for path in folder.iterdir()] == [f"{key}.safetensors"]
    # The limit holds for files too.
    assert PrefixStore(SIZE - 1, folder).features(model(), IMAGES, "a") is None


def test_a_damaged_file_is_computed_anew(computed: list[int], tmp_path: Path) -> None:
    PrefixStore(SIZE, tmp_path).features(model(), IMAGES, "a")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    for _ in range(2):
        found = PrefixStore(SIZE, tmp_path).features(model(), IMAGES, "a")
        assert found is not None
        assert torch.equal(found, prefix_features(model(), IMAGES))
    assert len(computed) == 2


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^cache-dir: .*file/features cannot be written to: "):
        PrefixStore(SIZE, tmp_path / "file" / "features").features(model(), IMAGES, "a")


def test_digests_differ_with_values_shapes_types_and_words() -> None:
    ones = torch.ones(4)
    found = [
        digest([ones]),
        digest([ones.reshape(2, 2)]),
        digest([ones.double()]),
        digest([ones, ones]),
        digest([ones * 2]),
        digest([ones], "a"),
        digest([ones], "a", "b"),
        digest([ones], "ab"),
        digest([]),
    ]
    assert len(set(found)) == len(found)
    assert digest([ones.clone()], "a", "b") == found[6]


def key_of(classifier: ClipClassifier, images: Tensor = IMAGES) -> str:
    return features_key(classifier, digest([images]))


def test_a_key_differs_with_all_that_the_features_depend_on() -> None:
    plain = model("coop")
    key = key_of(plain)
    # The same features, whoever asks: other prompts, nothing tuned, other prompts' values.
    assert key_of(model("kgcoop", seed=5)) == key
    assert key_of(model("zero_shot")) == key
    plain.restore({"context": plain.context + 1})
    assert key_of(plain) == key
    others = [
        key_of(plain, IMAGES[1:]),
        key_of(plain, IMAGES.flip(0)),
        key_of(model("fedotp")),
        key_of(model("clip_adapter")),
        key_of(model("lora(blocks='2')")),
        key_of(model("lora(blocks='1,2')")),
        *(
            features_key(plain, digest([IMAGES]), views)
            for views in (Views("flip"), Views("crop_flip"), Views("flip", 2), Views("flip", 1, 3))
        ),
    ]
    other = model("coop")
    with torch.no_grad():
        other.clip.vision_model.post_layernorm.bias[0] += 1
    others.append(key_of(other))
    other = model("coop")
    other.clip.config.vision_config.hidden_act = "gelu"
    others.append(key_of(other))
    assert len({key, *others}) == 1 + len(others)


class Shifted(TuningMethod):
    """A method of somebody's own whose image features depend on an argument."""

    def __init__(self, shift: float = 0.0, vector: float = 0.0) -> None:
        self.shift, self.vector = shift, vector

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        classifier = _ShiftedClassifier(clip, class_names, templates)
        classifier.shift = self.shift
        classifier.register_buffer("vector", torch.full((64,), self.vector))
        classifier.residual = torch.nn.Parameter(torch.randn(1))
        return classifier.tune_own(images_frozen=True)


class _ShiftedClassifier(ClipClassifier):
    shift: float
    residual: torch.nn.Parameter

    def encode_images(self, pixels: Tensor) -> Tensor:
        return super().encode_images(pixels) + self.shift + self.vector

    def logits(self, images: Tensor, classes: Tensor) -> Tensor:
        return super().logits(images, classes) * self.residual


def test_a_key_knows_the_settings_and_tensors_of_a_method_with_its_own_image_features() -> None:
    name = f"{__name__}:Shifted"
    specs = [name, f"{name}(shift=1.0)", f"{name}(vector=1.0)", "zero_shot"]
    assert len({key_of(model(spec)) for spec in specs}) == len(specs)
    assert key_of(model(name, seed=1)) == key_of(model(name, seed=2))
    trained = model(name)
    trained.restore({"residual": torch.ones(1)})
    trained.train()
    assert key_of(trained) == key_of(model(name))


def test_a_key_stays_the_same_while_upper_blocks_are_tuned() -> None:
    lora = model("lora(blocks='2')")
    key = key_of(lora)
    lora.restore({name: tensor + 1 for name, tensor in lora.export().items()})
    assert key_of(lora) == key


@pytest.mark.parametrize("kind", ["crop_flip", "flip", "none"])
def test_batch_size_changes_no_feature(kind: Augmentation) -> None:
    plain, images = model(), torch.cat([IMAGES, IMAGES, IMAGES])
    made = [prefix_features(plain, images, batch, Views(kind, 1, 7)) for batch in (5, 64, 256)]
    torch.testing.assert_close(made[0], made[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(made[1], made[2], rtol=0, atol=1e-5)
    assert made[0].shape == (96, 64)


def test_kept_features_are_float32_even_inside_autocast() -> None:
    for method in ("clip_adapter", "lora(blocks='2')"):
        plain, half = model(method), model(method)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = prefix_features(half, IMAGES)
            half.run(half.preprocessing.evaluation(IMAGES[:2]))
        assert made.dtype == torch.float32
        assert torch.equal(made, prefix_features(plain, IMAGES))
        with torch.no_grad():
            assert torch.equal(half.encode_classes(), plain.encode_classes())
        if half.classes_frozen:
            assert torch.equal(half.frozen_classes, plain.frozen_classes)
