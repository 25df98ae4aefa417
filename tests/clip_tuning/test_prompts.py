"""Prompts: templates, and that cutting the padding off changes no feature."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fl2ora.clip_tuning.clip import Clip, load_clip
from fl2ora.clip_tuning.prompts import fill_templates, tokenise
from fl2ora.experiment.errors import UserError

TEXTS = ["a cat.", "a photo of an ankle boot.", "", "été"]


def test_fill_templates_orders_prompts_by_class() -> None:
    assert fill_templates(["cat", "dog"], ["a {}.", "the {}!"]) == [
        "a cat.", "the cat!", "a dog.", "the dog!",
    ]  # fmt: skip


def test_underscores_are_read_as_spaces() -> None:
    assert fill_templates(["ankle_boot_x"], ["my_{}"]) == ["my_ankle boot x"]


def test_braces_in_a_class_name_are_kept() -> None:
    assert fill_templates(["{} {0}"], ["a {}"]) == ["a {} {0}"]


@pytest.mark.parametrize("template", ["a photo", "", "{} and {}", "{0}", "{name}", "{ }"])
def test_a_template_without_one_place_is_refused(template: str) -> None:
    with pytest.raises(UserError) as caught:
        fill_templates(["cat"], ["fine {}", template])
    assert str(caught.value).startswith(f"template {template!r}: expected exactly one {{}}")


def test_ids_are_as_long_as_the_longest_text(tiny_clip: Clip) -> None:
    ids = tokenise(tiny_clip.tokenizer, TEXTS, 77)
    assert ids.shape == (4, len("a photo of an ankle boot.") + 2)
    assert ids.dtype == torch.int64
    start, end = 256, 257
    assert ids[:, 0].tolist() == [start] * 4
    assert (ids == end).int().argmax(1).tolist() == [7, 26, 1, 6]  # é is two bytes


@pytest.mark.parametrize("eos", [257, 2])
def test_padding_length_changes_no_clip_feature(
    tiny_clip_folder: Path, tiny_clip: Clip, eos: int
) -> None:
    """By both of transformers' rules: the highest id (with ``eos_token_id`` 2) and the first."""
    model = tiny_clip.model
    assert model.text_model.eos_token_id == 257
    model.text_model.eos_token_id = eos
    ids = tokenise(tiny_clip.tokenizer, TEXTS, 77)
    full = tiny_clip.tokenizer(TEXTS, padding="max_length", max_length=77, return_tensors="pt")
    assert full["input_ids"].shape == (4, 77)
    with torch.no_grad():
        cut = model.get_text_features(input_ids=ids).pooler_output
        padded = model.get_text_features(input_ids=full["input_ids"]).pooler_output
        masked = model.get_text_features(**full).pooler_output
        alone = [model.get_text_features(input_ids=row[None]).pooler_output for row in ids]
    torch.testing.assert_close(cut, padded, rtol=0, atol=1e-6)
    torch.testing.assert_close(cut, masked, rtol=0, atol=1e-6)
    torch.testing.assert_close(cut, torch.cat(alone), rtol=0, atol=1e-6)
    assert float(torch.cdist(cut, cut).fill_diagonal_(9).min()) > 0.1  # texts are told apart


def test_features_read_one_token_off_differ(tiny_clip: Clip) -> None:
    """The test above can fail: pooling at the last position gives other features."""
    ids = tokenise(tiny_clip.tokenizer, TEXTS, 77)
    with torch.no_grad():
        states = tiny_clip.model.text_model(input_ids=ids).last_hidden_state
        pooled = tiny_clip.model.text_model(input_ids=ids).pooler_output
    torch.testing.assert_close(pooled[0], states[0, 7])
    assert not torch.allclose(pooled[0], states[0, -1], atol=1e-3)


def test_a_prompt_too_long_is_refused_with_both_lengths(tiny_clip: Clip) -> None:
    few_letters_many_bytes = "é" * 40
    with pytest.raises(UserError) as caught:
        tokenise(tiny_clip.tokenizer, ["x" * 60, few_letters_many_bytes], 77)
    assert str(caught.value) == (
        f"prompt {few_letters_many_bytes!r} has 82 tokens; the text tower takes 77"
    )
    assert tokenise(tiny_clip.tokenizer, ["x" * 75], 77).shape == (1, 77)


def test_tiny_clip_pools_at_its_eos_token_id(tiny_clip_folder: Path) -> None:
    clip = load_clip(str(tiny_clip_folder))
    assert clip.model.config.text_config.eos_token_id == clip.tokenizer.eos_token_id == 257
