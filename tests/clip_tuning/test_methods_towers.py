"""Our own passes through the towers, and where context vectors stand in a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fl2ora.clip_tuning.clip import Clip, load_clip
from fl2ora.clip_tuning.context import NOISE, ContextClassifier
from fl2ora.clip_tuning.packed_prompts import whole
from fl2ora.clip_tuning.prompt_layout import ContextSettings, Layout, lay_out
from fl2ora.clip_tuning.towers import TOWERS, blocks, encode_image, encode_text, width
from fl2ora.experiment.errors import UserError

TEXTS = ["a cat", "a photo of a rather long name", ""]


def _pixels(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _tokens(clip: Clip) -> tuple[Tensor, Tensor]:
    """Return padded ids ``(n, L)`` and where each text ends."""
    ids = torch.tensor(clip.tokenizer(TEXTS, padding="longest")["input_ids"])
    ends = torch.tensor([len(row) - 1 for row in clip.tokenizer(TEXTS)["input_ids"]])
    return ids, ends


@pytest.fixture(params=["embedded", "tiny", "eager"])
def clip(request: pytest.FixtureRequest, tiny_clip_folder: Path) -> Clip:
    if request.param == "embedded":
        return load_clip("embedded")
    loaded = load_clip(str(tiny_clip_folder))
    if request.param == "eager":
        loaded.model.set_attn_implementation("eager")
    return loaded


@torch.no_grad()
def test_images_are_encoded_as_transformers_does(clip: Clip) -> None:
    expected = clip.model.get_image_features(pixel_values=_pixels()).pooler_output
    torch.testing.assert_close(encode_image(clip.model, _pixels()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("legacy", [False, True])
@torch.no_grad()
def test_texts_are_encoded_as_transformers_does(clip: Clip, legacy: bool) -> None:
    """Under both of its rules: the highest id where ``eos_token_id`` is 2, else the first end."""
    if legacy:
        clip.model.text_model.eos_token_id = 2
    ids, ends = _tokens(clip)
    expected = clip.model.get_text_features(input_ids=ids).pooler_output
    embeddings = clip.model.text_model.embeddings.token_embedding(ids)
    found = encode_text(clip.model, embeddings, whole(ids, ends))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-2


def _inputs(clip: Clip, tower: str, run: Any) -> list[Tensor]:
    """Return what enters each block of a tower while ``run`` runs."""
    seen: list[Tensor] = []
    hooks = [
        block.layer_norm1.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        for block in blocks(clip.model, tower)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def test_vision_prompts_are_appended_after_the_patches(tiny_clip: Clip) -> None:
    prompts = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(2))
    inserted = {0: prompts[0], 1: prompts[1]}
    run = lambda: encode_image(tiny_clip.model, _pixels(), inserted)  # noqa: E731
    first, second = _inputs(tiny_clip, "vision", run)
    plain, _ = _inputs(tiny_clip, "vision", lambda: encode_image(tiny_clip.model, _pixels()))
    norm = tiny_clip.model.vision_model.pre_layrnorm
    assert plain.shape == (3, 17, 32)
    assert first.shape == second.shape == (3, 20, 32)
    assert torch.equal(first[:, :17], plain)
    torch.testing.assert_close(first[:, 17:], norm(prompts[0]).expand(3, -1, -1))
    assert torch.equal(second[:, 17:], prompts[1].expand(3, -1, -1))


@torch.no_grad()
def test_a_shallow_vision_prompt_passes_all_blocks(tiny_clip: Clip) -> None:
    prompts = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    run = lambda: encode_image(tiny_clip.model, _pixels(), {0: prompts})  # noqa: E731
    first, second = _inputs(tiny_clip, "vision", run)
    assert first.shape == second.shape == (3, 20, 32)
    assert not torch.equal(first[:, 17:], second[:, 17:])


@pytest.mark.parametrize("per_text", [False, True])
@torch.no_grad()
def test_deep_text_prompts_replace_what_follows_the_start(tiny_clip: Clip, per_text: bool) -> None:
    ids, ends = _tokens(tiny_clip)
    packed = whole(ids, ends)
    embeddings = tiny_clip.model.text_model.embeddings.token_embedding(ids)
    shape = (3, 1, 32) if per_text else (1, 32)  # the empty text has no more than two tokens
    prompts = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    run = lambda: encode_text(tiny_clip.model, embeddings, packed, {1: prompts})  # noqa: E731
    first, second = _inputs(tiny_clip, "text", run)
    before, after = _inputs(
        tiny_clip, "text", lambda: encode_text(tiny_clip.model, embeddings, packed)
    )
    assert torch.equal(first, before)
    assert torch.equal(second[:, :1], after[:, :1])
    assert torch.equal(second[:, 1:2], prompts.expand(3, -1, -1))
    assert torch.equal(second[:, 2:], after[:, 2:])


@torch.no_grad()
def test_prompts_enter_blocks_in_the_middle_too() -> None:
    """Of the embedded model, whose towers have three and four blocks."""
    clip = load_clip("embedded")
    ids, ends = _tokens(clip)
    embeddings, packed = clip.model.text_model.embeddings.token_embedding(ids), whole(ids, ends)
    text, image = (
        torch.randn(1, width(clip.model, "text")),
        torch.randn(2, width(clip.model, "vision")),
    )
    seen = _inputs(clip, "text", lambda: encode_text(clip.model, embeddings, packed, {1: text}))
    assert [torch.equal(each[:, 1:2], text.expand(3, -1, -1)) for each in seen] == [
        False,
        True,
        False,
    ]
    inserted = {0: image, 1: image}
    seen = _inputs(clip, "vision", lambda: encode_image(clip.model, _pixels(), inserted))
    found = [torch.equal(each[:, -2:], image.expand(3, -1, -1)) for each in seen]
    assert found == [False, True, False, False]


@torch.no_grad()
def test_the_last_mlp_sees_the_tokens_that_are_read_alone(clip: Clip) -> None:
    seen: list[int] = []
    for tower in TOWERS:
        last = blocks(clip.model, tower)[-1].mlp
        last.register_forward_pre_hook(lambda _, args: seen.append(args[0][..., 0].numel()))
    encode_image(clip.model, _pixels())
    ids, ends = _tokens(clip)
    embeddings = clip.model.text_model.embeddings.token_embedding(ids)
    encode_text(clip.model, embeddings, whole(ids, ends))
    assert seen == [3, 3]


def _shown(clip: Clip, layout: Layout) -> list[str]:
    """Return the rows as text, with context vectors as digits and the ends as brackets."""
    vocabulary = {index: token for token, index in clip.tokenizer.get_vocab().items()}
    rows = []
    for ids, slots, end in zip(*(part.tolist() for part in layout), strict=True):
        assert set(slots[end + 1 :]) <= {-1}
        assert set(ids[end + 1 :]) <= {257}
        words = [vocabulary[i] if slot < 0 else str(slot) for i, slot in zip(ids, slots)]  # noqa: B905
        assert words[0] == "<|startoftext|>"
        assert words[end] == "<|endoftext|>"
        rows.append("".join(words[1:end]).replace("Ġ", " "))
    return rows


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ContextSettings(5, "noise"), ["01234cat.", "01234ankle boot."]),
        (ContextSettings(5, "noise", "middle"), ["01cat234.", "01ankle boot234."]),
        (ContextSettings(5, "noise", "front"), ["cat01234.", "ankle boot01234."]),
        (ContextSettings(2), ["01ird cat, drawn", "01ird ankle boot, drawn"]),
        (ContextSettings(5), ["01234 cat, drawn", "01234 ankle boot, drawn"]),
        (ContextSettings(7), ["0123456 cat, drawn", "0123456 ankle boot, drawn"]),
        (ContextSettings(2, position="front"), [" cat01ird, drawn", " ankle boot01ird, drawn"]),
        (ContextSettings(4, position="middle"), ["01 cat23d, drawn", "01 ankle boot23d, drawn"]),
        (ContextSettings(2, "my"), ["01 cat.", "01 ankle boot."]),
        (ContextSettings(1, "my {}?"), ["0y cat?", "0y ankle boot?"]),
    ],
)  # fmt: skip
def test_layout_of_context_vectors_by_position(
    tiny_clip: Clip, settings: ContextSettings, expected: list[str]
) -> None:
    template = settings.template(("weird {}, drawn", "unused {}"))
    layout = lay_out(tiny_clip.tokenizer, template, ("cat", "ankle_boot"), settings, 77)
    assert _shown(tiny_clip, layout) == expected


def _context(clip: Clip, settings: ContextSettings) -> Tensor:
    torch.manual_seed(0)
    return ContextClassifier(clip, ("cat", "boot"), ("a dog or {}.",), settings).context.detach()


def test_initial_context_is_noise_then_words(tiny_clip: Clip) -> None:
    table = tiny_clip.model.text_model.embeddings.token_embedding.weight
    ids = tiny_clip.tokenizer("a dog or")["input_ids"][1:-1]
    assert torch.equal(_context(tiny_clip, ContextSettings(3)), table[ids[:3]])
    context = _context(tiny_clip, ContextSettings(50))
    assert torch.equal(context[-len(ids) :], table[ids])
    noise = context[: -len(ids)]
    assert float(noise.std()) == pytest.approx(NOISE, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=0.002)


def test_class_specific_contexts_share_words_and_differ_in_noise(tiny_clip: Clip) -> None:
    settings = ContextSettings(10, class_specific=True)
    context = _context(tiny_clip, settings)
    words = len("a dog or")
    assert context.shape == (2, 10, 32)
    assert torch.equal(context[0, -words:], context[1, -words:])
    assert not torch.equal(context[0, :-words], context[1, :-words])


def test_a_context_too_long_for_the_text_tower_is_refused(tiny_clip: Clip) -> None:
    message = "the prompt of 'elephant' has 79 tokens with 68 context vectors; .* takes 77$"
    with pytest.raises(UserError, match=message):
        lay_out(tiny_clip.tokenizer, "{}.", ("cat", "elephant"), ContextSettings(68, "noise"), 77)


@pytest.mark.parametrize("position", ["middle", "front"])
@pytest.mark.parametrize("template", ["a photo of the {}.", "a photo of a {}, drawn.", "my {}!"])
def test_punctuation_behind_the_name_keeps_its_tokens(template: str, position: str) -> None:
    """The embedded tokenizer has one token for "." behind a word and another for "." alone."""
    tokenizer = load_clip("embedded").tokenizer
    settings = ContextSettings(2, position=position)
    layout = lay_out(tokenizer, template, ("cat",), settings, 32)
    text = template.replace("{}", "cat")
    encoded = tokenizer(text, return_offsets_mapping=True)
    start = template.index("{}")
    parts: list[list[int]] = [[], [], []]  # before the name, the name, behind it
    spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    for token, (first, last) in spans:
        if last > first:
            parts[(last > start) + (first >= start + len("cat"))].append(token)
    before, name, behind = parts
    assert all(parts)
    context = [-1, -2, *before[2:]]  # two vectors take the places of two words
    cut = {"middle": len(context) // 2, "front": 0}[position]
    expected = [*context[:cut], *name, *context[cut:], *behind]
    shown = [
        token if slot < 0 else -1 - slot
        for token, slot in zip(layout.ids[0].tolist(), layout.slots[0].tolist(), strict=True)
    ]
    assert shown[1:-1] == expected


def test_template_words_that_merge_with_the_name_are_refused() -> None:
    clip = load_clip("embedded")
    settings = ContextSettings(2, position="front")
    message = r"^template 'a \{\}ing': expected words with the same tokens .* next to 'draw'"
    with pytest.raises(UserError, match=message):
        lay_out(clip.tokenizer, "a {}ing", ("draw",), settings, 32)
