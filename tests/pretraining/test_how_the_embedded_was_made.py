"""How the embedded CLIP was made: the loss in closed form, the pairs, and one tiny run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.embedded import load_embedded
from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.clip_tuning.tiny_clip import new_model, new_preprocessor, new_tokenizer
from fl2ora.federated_data.datasets.fashion_mnist import FashionMNIST
from fl2ora.federated_data.datasets.shapes import HELD_BACK_STYLES, SEEN_STYLES, Shapes
from fl2ora.pretraining.check import ZeroShot, markdown_table, zero_shot, zero_shot_table
from fl2ora.pretraining.embedded import embedded_batches, main
from fl2ora.pretraining.pairs import Pairs
from fl2ora.pretraining.sources import Clothes, Drawings
from fl2ora.pretraining.training import Training, contrastive_loss

PREPROCESSING = Preprocessing.from_config(new_preprocessor(), 32)


def _write_idx(path: Path, array: Any) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Fashion-MNIST whose images after the pre-training part are white, the others black."""
    folder = tmp_path_factory.mktemp("fashion")
    for part, count in (("train", 2020), ("t10k", 10)):
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        images[2000:] = 255
        _write_idx(folder / f"{part}-images-idx3-ubyte", images)
        _write_idx(folder / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return folder


def test_loss_of_useless_features_is_the_logarithm_of_the_choices() -> None:
    images, texts = torch.ones(6, 1), torch.ones(3, 1)
    caption_of = torch.tensor([0, 1, 2, 0, 1, 2])
    loss = contrastive_loss(images, texts, caption_of, torch.tensor(1.0))
    assert float(loss) == pytest.approx((math.log(3) + math.log(6)) / 2, rel=1e-6)


def test_equal_captions_are_no_negatives() -> None:
    """With perfect features and a sharp temperature nothing is left but the choice of twins."""
    caption_of = torch.tensor([0, 0, 1, 1])
    texts = torch.eye(2)
    loss = contrastive_loss(texts[caption_of], texts, caption_of, torch.tensor(math.log(100.0)))
    assert float(loss) == pytest.approx(math.log(2) / 2, rel=1e-6)


def test_loss_of_two_pairs_by_hand() -> None:
    """Both directions are binary cross-entropies of a margin of scale * (1 - cos)."""
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    loss = contrastive_loss(images, texts, torch.tensor([0, 1]), torch.tensor(math.log(5.0)))
    to_text = (math.log1p(math.exp(5 * (0.6 - 1))) + math.log1p(math.exp(5 * (0 - 0.8)))) / 2
    to_image = (math.log1p(math.exp(5 * (0 - 1))) + math.log1p(math.exp(5 * (0.6 - 0.8)))) / 2
    assert float(loss) == pytest.approx((to_text + to_image) / 2, rel=1e-5)


def _first_batch(clothes: Path, batch_size: int, seed: int) -> Pairs:
    return next(embedded_batches(clothes, PREPROCESSING, batch_size, seed))


def test_pairs_show_seen_styles_and_the_pretraining_clothes_only(clothes: Path) -> None:
    pairs = _first_batch(clothes, 48, seed=0)
    assert pairs.pixels.shape == (48, 3, 32, 32)
    assert pairs.pixels.dtype == torch.float32
    assert pairs.caption_of.unique().tolist() == list(range(len(pairs.captions)))
    assert set(pairs.captions) <= Drawings().captions() | Clothes(clothes).captions()
    black = PREPROCESSING.evaluation(torch.zeros(1, 1, 32, 32, dtype=torch.uint8))
    torch.testing.assert_close(pairs.pixels[42:], black.expand(6, -1, -1, -1))


def test_pairs_follow_the_seed(clothes: Path) -> None:
    first, same, other = (_first_batch(clothes, 20, seed) for seed in (1, 1, 2))
    assert torch.equal(first.pixels, same.pixels)
    assert first.captions == same.captions
    assert not torch.equal(first.pixels, other.pixels)


def test_captions_name_no_held_back_style(clothes: Path) -> None:
    captions = Drawings().captions()
    assert "a picture of a circle." in captions
    assert "a photo of a ankle boot." in Clothes(clothes).captions()
    assert any(SEEN_STYLES[0] in caption for caption in captions)
    assert not any(style in caption for style in HELD_BACK_STYLES for caption in captions)


def test_training_lowers_the_loss_on_one_batch(clothes: Path) -> None:
    tokenizer = new_tokenizer(sorted(Drawings().captions() | Clothes(clothes).captions()))
    model = new_model(tokenizer, seed=0)
    pairs = _first_batch(clothes, 20, seed=0)
    losses = Training(model, tokenizer, steps=40).run(iter([pairs] * 40))
    assert len(losses) == 40
    assert losses[-1] < losses[0] - 1
    assert not model.training
    assert model.logit_scale.item() <= math.log(100) + 1e-6


def test_one_command_writes_a_model_that_loads(clothes: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    output = tmp_path / "assets"
    arguments = ["--fashion-mnist", str(clothes), "--output", str(output)]
    arguments += ["--steps", "1", "--batch-size", "20", "--images", "16"]
    arguments += ["--threads", str(torch.get_num_threads())]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "parameters trained in" in result.output
    for name in (*SEEN_STYLES, *HELD_BACK_STYLES, "Fashion-MNIST"):
        assert f"| {name} |" in result.output
    model, tokenizer, _ = load_embedded(output)
    assert model.config.text_config.eos_token_id == len(tokenizer) - 1


def test_zero_shot_of_a_model_that_cannot_tell_is_chance() -> None:
    """Zero projections give equal logits: class 0 is predicted with confidence 1/16."""
    tokenizer = new_tokenizer(sorted(Drawings().captions()))
    model = new_model(tokenizer, seed=0).eval()
    with torch.no_grad():
        model.visual_projection.weight.zero_()
    clip = Clip("untrained", model, tokenizer, PREPROCESSING)
    found = zero_shot(clip, Shapes(styles="neon", test=64), "neon", batch_size=40)
    assert found == ZeroShot("neon", accuracy=1 / 16, confidence=1 / 16, ece=0.0)


def test_every_style_is_measured_on_so_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(clip: object, dataset: Shapes, domain: str) -> tuple[str, int]:
        return domain, len(dataset.split("test"))

    monkeypatch.setattr("fl2ora.pretraining.check.zero_shot", count)
    tokenizer = new_tokenizer(["a cat."])
    clip = Clip("untrained", new_model(tokenizer, seed=0), tokenizer, PREPROCESSING)
    styles = (*SEEN_STYLES, *HELD_BACK_STYLES)
    assert zero_shot_table(clip, images=32) == [(style, 32) for style in styles]


def test_table_says_what_was_seen() -> None:
    table = markdown_table([ZeroShot("neon", 0.5, 0.75, 0.25), ZeroShot("noisy", 1, 1, 0)])
    assert "| neon | no | 50.0% | 75.0% | 25.0% |" in table
    assert "| noisy | yes | 100.0% | 100.0% | 0.0% |" in table


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(),
    reason="Debian's dataset-fashion-mnist is not installed",
)
def test_embedded_model_zero_shot_accuracy_on_fashion_mnist() -> None:
    model, tokenizer, preprocessor = load_embedded()
    clip = Clip("embedded", model, tokenizer, Preprocessing.from_config(preprocessor, 32))
    found = zero_shot(clip, FashionMNIST(), "Fashion-MNIST")
    assert 0.5 < found.accuracy < 0.9


def test_embedded_model_accuracy_on_held_back_styles_is_not_saturated() -> None:
    model, tokenizer, preprocessor = load_embedded()
    clip = Clip("embedded", model, tokenizer, Preprocessing.from_config(preprocessor, 32))
    seen = zero_shot(clip, Shapes(styles="seen", test=1000), "seen")
    held_back = zero_shot(clip, Shapes(styles="held-back", test=1000), "held back")
    assert 0.6 < seen.accuracy < 0.95
    assert seen.ece < 0.1
    assert 0.25 < held_back.accuracy < seen.accuracy
