"""Prompts in trees of tokens: what the text tower makes of them, and how many tokens it sees."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl2ora.clip_tuning import packed_prompts, prompt_trees
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.imagenet_templates import IMAGENET_TEMPLATES
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.packed_prompts import PackedPrompts, pack, whole
from fl2ora.clip_tuning.prompts import fill_templates, tokenise
from fl2ora.clip_tuning.towers import blocks
from fl2ora.experiment.plugins import available
from small_trees import stems_wherever_possible, tokens_of_a_tree

NAMES = ("cat", "ankle_boot", "catfish", "dog", "ankle", "cattle")
TEMPLATES = ("a photo of a {}.",)
METHODS = [
    *sorted(set(available(TuningMethod)) - {"lora", "lora_residual", "logit_scale"}),
    "lora(dropout=0.0)",
    "lora(dropout=0.0, blocks='1')",
    "lora_residual(dropout=0.0)",
    "logit_scale('task_res')",
    "coop(class_specific=True)",
    "coop(position='middle')",
]


@st.composite
def prompts(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Return keys ``(N, L)`` of few kinds, so that beginnings are often shared, and ends."""
    length = draw(st.integers(1, 6))
    row = st.lists(st.integers(-2, 2), min_size=length, max_size=length)
    keys = draw(st.lists(row, min_size=1, max_size=8))
    ends = draw(st.lists(st.integers(0, length - 1), min_size=len(keys), max_size=len(keys)))
    return torch.tensor(keys), torch.tensor(ends)


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make trees also where they save nothing."""
    monkeypatch.setattr(packed_prompts, "_WORTH", 1e9)


def _looks(packed: PackedPrompts) -> list[list[int]]:
    """Return for every place those it looks at, in order."""
    assert packed.mask is not None
    stem, (trees, _, size, _) = packed.stem, packed.mask.shape
    assert packed.tokens.shape == ((1, stem + trees * size) if stem else (trees, size))
    looks = [list(range(place + 1)) for place in range(stem)]
    for tree, rows in enumerate(packed.mask[:, 0].tolist()):
        for row in rows:
            seen = [place for place, looked_at in enumerate(row) if looked_at]
            looks.append([p if p < stem else p + tree * size for p in seen])
    return looks


def _places(packed: PackedPrompts) -> list[int]:
    """Return for each prompt the place of its end."""
    return packed.ends.flatten()[packed.picks].tolist()


@settings(deadline=None)
@given(prompts(), st.sampled_from([1, 4, 128]), st.booleans())
def test_every_place_looks_at_its_own_prompt_up_to_itself(
    given_prompts: tuple[Tensor, Tensor], most: int, shared: bool
) -> None:
    keys, ends = given_prompts
    with tokens_of_a_tree(most):
        packed = pack(keys, ends, shared)
    looks, tokens = _looks(packed), keys.flatten()[packed.tokens.flatten()]
    positions = packed.positions.flatten()
    for row, last, end in zip(keys.tolist(), ends.tolist(), _places(packed), strict=True):
        assert tokens[looks[end]].tolist() == row[: last + 1]
        for place in looks[end]:
            assert positions[looks[place]].tolist() == list(range(len(looks[place])))
            assert tokens[looks[place]].tolist() == row[: len(looks[place])]


@settings(deadline=None)
@given(prompts())
def test_a_shared_beginning_is_there_once_and_only_if_asked(
    given_prompts: tuple[Tensor, Tensor],
) -> None:
    keys, ends = given_prompts
    rows = [row[: last + 1] for row, last in zip(keys.tolist(), ends.tolist(), strict=True)]
    beginnings = {tuple(row[: i + 1]) for row in rows for i in range(len(row))}
    assert pack(keys, ends).tokens.shape == (1, len(beginnings))
    assert pack(keys, ends, shared=False).tokens.shape == (1, sum(map(len, rows)))


@settings(deadline=None)
@given(prompts(), st.sampled_from([1, 4, 128]), st.booleans())
def test_of_each_tree_there_are_as_many_ends_and_the_first_place_stands_for_missing_ones(
    given_prompts: tuple[Tensor, Tensor], most: int, shared: bool
) -> None:
    with tokens_of_a_tree(most):
        packed = pack(*given_prompts, shared)
    assert packed.mask is not None
    trees, _, size, _ = packed.mask.shape
    starts = [packed.stem + tree * size for tree in range(trees)]
    places = {*_places(packed)}
    own = [{place for place in places if start <= place < start + size} for start in starts]
    assert packed.ends.numel() == trees * max(map(len, own))
    assert len(packed.ends) == (1 if packed.stem else trees)
    for start, mine, row in zip(starts, own, packed.ends.view(trees, -1).tolist(), strict=True):
        assert {*row[: len(mine)]} == mine
        assert {*row[len(mine) :]} <= {start}


@settings(deadline=None)
@given(prompts(), st.booleans())
def test_the_stem_is_what_all_begin_with_but_the_end_of_none(
    given_prompts: tuple[Tensor, Tensor], shared: bool
) -> None:
    keys, ends = given_prompts
    rows = [row[: last + 1] for row, last in zip(keys.tolist(), ends.tolist(), strict=True)]
    with stems_wherever_possible():
        packed = pack(keys, ends, shared)
    shortest = min(map(len, rows))
    alike = [i for i in range(shortest) if len({tuple(row[: i + 1]) for row in rows}) == 1]
    expected = min(len(alike), shortest - 1) if shared and len(rows) > 1 else 0
    assert packed.stem == expected
    assert packed.tokens.flatten()[:expected].tolist() == list(range(expected))


def _named(own: list[int], stem: int) -> tuple[Tensor, Tensor]:
    """Return prompts of so many tokens each behind a common stem, and their ends."""
    width = stem + max(own)
    rows = [[*range(-stem, 0), 1000 + i, *range(1, length)] for i, length in enumerate(own)]
    return (
        torch.tensor([row + [9] * (width - len(row)) for row in rows]),
        torch.tensor([stem + length - 1 for length in own]),
    )


@pytest.mark.parametrize(
    ("own", "stem", "expected"),
    [
        ([4] * 30, 8, (0, 1, 128)),  # 128 tokens in one tree
        ([4] * 29 + [5], 8, (8, 3, 41)),  # one more, and there are several behind what is common
        ([4] * 32, 0, (0, 1, 128)),
        ([4] * 33, 0, (0, 33, 4)),
        ([90] * 20, 1, (0, 20, 91)),  # one token that is there once is not worth trees behind it
        ([6] * 200, 17, (17, 200, 6)),
    ],
)
def test_a_stem_is_there_where_all_are_too_many_for_one_tree_and_it_saves_work(
    own: list[int], stem: int, expected: tuple[int, int, int]
) -> None:
    packed = pack(*_named(own, stem))
    assert packed.mask is not None
    trees, _, size, _ = packed.mask.shape
    assert (packed.stem, trees, size) == expected


def test_trees_behind_a_stem_are_chosen_with_what_they_attend_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As ``test_prompt_trees`` has it: 42 * (1,400 + ...) against 41 * (1,400 + ...)."""
    monkeypatch.setattr(packed_prompts, "_MOST", 0)
    monkeypatch.setattr(prompt_trees, "_LAYERS", 1_380)
    monkeypatch.setattr(prompt_trees, "_JOINED", 0)
    sizes = {}
    for stem in (1, 60):
        packed = pack(*_named([6] * 6 + [5], stem))
        assert packed.stem == stem
        sizes[stem] = packed.tokens.numel() - stem
    assert sizes == {1: 42, 60: 41}


def test_keys_without_values_are_left_as_they_are() -> None:
    keys, ends = torch.zeros(3, 5, dtype=torch.int64), torch.tensor([4, 4, 4])
    packed = pack(keys.to("meta"), ends.to("meta"))
    assert packed.tokens.shape == (3, 5)
    assert packed.stem == 0


@pytest.mark.parametrize(("tokens", "packs"), [(4, True), (5, False)])
def test_prompts_are_left_as_they_are_where_trees_save_less_than_a_fifth(
    tokens: int, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_prompts, "_WORTH", 0.8)
    keys, ends = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([tokens - 1])
    packed, as_it_is = pack(keys, ends), whole(keys, ends)
    assert packed.tokens.shape == ((1, 4) if packs else (1, 5))
    assert _places(packed) == _places(as_it_is) == [tokens - 1]


def _answer(classifier: ClipClassifier, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return logits, and the gradients of a loss in all that is tuned."""
    with classifier.as_client({}):
        passed = classifier.run(pixels)
        tuned = [tensor for tensor in classifier.trained if tensor.requires_grad]
        loss = torch.nn.functional.cross_entropy(passed.logits, torch.tensor([0, 3, 5]))
        needed = loss.requires_grad
        found = torch.autograd.grad(loss, tuned, allow_unused=True) if needed else ()
    return passed.logits.detach(), [g for g in found if g is not None]


@pytest.mark.parametrize("method", METHODS)
def test_logits_and_gradients_are_those_of_the_prompts_one_by_one(
    method: str, tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all in one tree, of trees with a stem, and as they are."""
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    answers = []
    for way, worth in ((nullcontext, 1e9), (stems_wherever_possible, 1e9), (nullcontext, 0.0)):
        monkeypatch.setattr(packed_prompts, "_WORTH", worth)
        classifier = build_classifier(str(tiny_clip_folder), method, NAMES, TEMPLATES, 0)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for tensor in classifier.trained:
                tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
        with way():
            answers.append(_answer(classifier, pixels))
    *packed, (expected, wanted) = answers
    largest = max((float(want.abs().max()) for want in wanted), default=0.0)
    for logits, gradients in packed:
        near = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(logits, expected, rtol=0, atol=near)
        assert len(gradients) == len(wanted)
        for gradient, want in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(gradient, want, rtol=0, atol=1e-5 * largest)


def test_features_of_many_templates_are_those_of_transformers(tiny_clip_folder: Path) -> None:
    classifier = build_classifier(str(tiny_clip_folder), "zero_shot", NAMES, TEMPLATES, 0)
    templates = [each for each in IMAGENET_TEMPLATES if len(each) < 40][:30]
    texts = fill_templates(NAMES, templates)
    ids = tokenise(classifier.tokenizer, texts, classifier.longest_prompt)
    with torch.no_grad():
        features = classifier.clip.get_text_features(input_ids=ids).pooler_output
    units = features / features.norm(dim=-1, keepdim=True)
    mean = units.view(len(NAMES), len(templates), -1).mean(dim=1)
    expected = mean / mean.norm(dim=-1, keepdim=True)
    found = classifier.zero_shot_classes(templates)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.fixture
def tokens_seen(monkeypatch: pytest.MonkeyPatch) -> Callable[[ClipClassifier], int]:
    """Return a counter of the tokens that enter the text tower's last block in a step."""
    monkeypatch.setattr(packed_prompts, "_WORTH", 0.8)

    def count(classifier: ClipClassifier) -> int:
        seen: list[int] = []
        last = blocks(classifier.clip, "text")[-1].layer_norm1
        hook = last.register_forward_pre_hook(lambda _, args: seen.append(args[0][..., 0].numel()))
        with classifier.as_client({}):
            classifier.run(torch.zeros(2, 3, 32, 32))
        hook.remove()
        return sum(seen)

    return count


TEXTS = ["a photo of a cat.", "a photo of a ankle boot.", "a photo of a catfish."]
TREE = 1 + len("a photo of a ") + len("cat.") + len("fish.") + len("ankle boot.") + 3  # bytes
PADDED = 3 * (len(TEXTS[1]) + 2)
ALONE = sum(len(text) + 2 for text in TEXTS)


@pytest.mark.parametrize(
    ("method", "tokens"),
    [
        ("zero_shot", TREE),
        ("lora(dropout=0.0)", TREE),
        ("layer_norm", TREE),
        ("bitfit", TREE),
        ("coop(12, 'template')", TREE),
        ("cocoop", 2 * TREE + TREE),
        ("fedotp(12, init='template')", 2 * TREE),
        ("tcp", PADDED),  # has tokens of each class's own in later blocks
        ("lora(dropout=0.5)", PADDED),
        ("linear_probe", 0),
    ],
)
def test_tokens_of_the_text_tower_in_a_training_step(
    method: str, tokens: int, tokens_seen: Callable[[ClipClassifier], int], tiny_clip_folder: Path
) -> None:
    classifier = build_classifier(str(tiny_clip_folder), method, NAMES[:3], TEMPLATES, 0).train()
    classifier.run(torch.zeros(2, 3, 32, 32))  # may encode what is kept from then on
    assert tokens_seen(classifier) == tokens


def test_dropout_packs_without_sharing_where_padding_is_much(
    tokens_seen: Callable[[ClipClassifier], int], tiny_clip_folder: Path
) -> None:
    """A shared token would be dropped in all prompts or in none."""
    names = ("cat", "a very long name that is there once")
    classifier = build_classifier(str(tiny_clip_folder), "lora", names, ("a {}.",), 0)
    alone = sum(len(f"a {name}.") + 2 for name in names)
    assert tokens_seen(classifier.train()) == alone
    assert tokens_seen(classifier.eval()) == alone - 3
