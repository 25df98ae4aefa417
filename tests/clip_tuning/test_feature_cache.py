from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.feature_cache import FeatureCache, digest
from fl2ora.clip_tuning.frozen import PLAIN, Views, begin_all, table_key
from fl2ora.clip_tuning.preprocessing import Augmentation
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.shapes import Shapes

KIB = torch.arange(256, dtype=torch.float32)
WORLD = Shapes(styles="held-back", train=32, validation=16, test=16)
IMAGES = WORLD.split("train").images


class Maker:
    """Counts how often its table was made."""

    def __init__(self, value: float = 0.0) -> None:
        self.made = 0
        self._table = KIB + value

    def __call__(self) -> Tensor:
        self.made += 1
        return self._table

    def size(self) -> int:
        return self._table.nbytes


def take(cache: FeatureCache, key: str, maker: Maker) -> Tensor | None:
    return cache.get(key, maker.size, maker)


def test_a_table_is_made_once() -> None:
    cache, maker = FeatureCache(4096), Maker()
    for _ in range(3):
        assert torch.equal(take(cache, "a", maker), KIB)
    assert maker.made == 1


def test_the_oldest_goes_where_memory_ends() -> None:
    cache = FeatureCache(2 * 1024)
    makers = {key: Maker(i) for i, key in enumerate("abc")}
    for key in "abac":  # b was used longest ago
        take(cache, key, makers[key])
    for key in "cab":
        take(cache, key, makers[key])
    assert {key: maker.made for key, maker in makers.items()} == {"a": 1, "b": 2, "c": 1}


def test_without_room_or_folder_there_is_no_table() -> None:
    maker = Maker()
    assert take(FeatureCache(1023), "a", maker) is None
    assert maker.made == 0


def test_files_outlive_the_process(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    first, second = Maker(), Maker(7)
    assert torch.equal(take(FeatureCache(4096, folder), "a", first), KIB)
    assert torch.equal(take(FeatureCache(4096, folder), "a", second), KIB)
    assert (first.made, second.made) == (1, 0)
    assert [path.name for path in folder.iterdir()] == ["a.safetensors"]
    # The limit holds for files too.
    assert take(FeatureCache(1023, folder), "a", second) is None
    assert second.made == 0


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    take(FeatureCache(4096, tmp_path), "a", Maker())
    path = tmp_path / "a.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(take(FeatureCache(4096, tmp_path), "a", Maker(1)), KIB + 1)
    assert torch.equal(take(FeatureCache(4096, tmp_path), "a", Maker(2)), KIB + 1)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^cache-dir: .*file/features cannot be written to: "):
        take(FeatureCache(4096, tmp_path / "file" / "features"), "a", Maker())


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


def model(method: str, seed: int = 0) -> ClipClassifier:
    return build_classifier("embedded", method, WORLD.class_names, WORLD.templates, seed)


def key_of(classifier: ClipClassifier, images: Tensor, views: Views = PLAIN) -> str:
    return table_key(classifier, digest([images]), views)


def test_a_key_says_what_a_table_depends_on() -> None:
    plain = model("prompt")
    key = key_of(plain, IMAGES)
    # The same features, whoever asks: other prompts, nothing tuned, other prompts' values.
    assert key_of(model("kgcoop", seed=5), IMAGES) == key
    assert key_of(model("zero_shot"), IMAGES) == key
    plain.restore({"context": plain.context + 1})
    assert key_of(plain, IMAGES) == key
    others = [
        key_of(plain, IMAGES[1:]),
        key_of(plain, IMAGES.flip(0)),
        key_of(plain, IMAGES, Views("flip", 2, 0)),
        key_of(plain, IMAGES, Views("flip", 2, 1)),
        key_of(model("fedotp"), IMAGES),
        key_of(model("clip_adapter"), IMAGES),
        key_of(model("lora(blocks='2')"), IMAGES),
        key_of(model("lora(blocks='1,2')"), IMAGES),
    ]
    other = model("prompt")
    with torch.no_grad():
        other.clip.vision_model.post_layernorm.bias[0] += 1
    others.append(key_of(other, IMAGES))
    other = model("prompt")
    other.clip.config.vision_config.hidden_act = "gelu"
    others.append(key_of(other, IMAGES))
    assert len({key, *others}) == 1 + len(others)


def test_training_does_not_change_a_key() -> None:
    lora = model("lora(blocks='2')")
    key = key_of(lora, IMAGES)
    lora.restore({name: tensor + 1 for name, tensor in lora.export().items()})
    assert key_of(lora, IMAGES) == key


@pytest.mark.parametrize("kind", ["crop_flip", "flip", "none"])
def test_batches_do_not_decide_what_is_seen(kind: Augmentation) -> None:
    plain, views = model("prompt"), Views(kind, 2, 7)
    images = torch.cat([IMAGES, IMAGES, IMAGES])
    made = [begin_all(plain, images, batch, views) for batch in (5, 64, 256)]
    torch.testing.assert_close(made[0], made[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(made[1], made[2], rtol=0, atol=1e-5)
    assert made[0].shape == (2 * 96, 64)


def test_what_lasts_is_never_in_half_precision() -> None:
    """Also where it is first asked for in the middle of half-precision training."""
    for method in ("clip_adapter", "lora(blocks='2')"):
        plain, half = model(method), model(method)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = begin_all(half, IMAGES)
            half.run(half.preprocessing.evaluation(IMAGES[:2]))
        assert torch.equal(made, begin_all(plain, IMAGES))
        with torch.no_grad():
            assert torch.equal(half.encode_classes(), plain.encode_classes())
        if half.classes_frozen:
            assert torch.equal(half.frozen_classes, plain.frozen_classes)
