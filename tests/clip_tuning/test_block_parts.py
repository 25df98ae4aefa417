"""Blocks in parts: what whole blocks return, of some tokens and of trees behind a stem."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from fl2ora.clip_tuning.block_parts import last_block, whole_block
from fl2ora.clip_tuning.packed_prompts import pack
from fl2ora.clip_tuning.recomputation import recompute
from fl2ora.clip_tuning.sight import ALL_SEEN, Sight, sight
from fl2ora.clip_tuning.towers import blocks

WIDTH, TOKENS = 16, 5
LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


def _block(kind: str = "clip", attention: str = "sdpa", **options: Any) -> Any:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 24, "num_attention_heads": 2}
    sizes |= {"num_hidden_layers": 1, "bos_token_id": 0, "eos_token_id": 1, **options}
    torch.manual_seed(0)
    model: CLIPModel | SiglipModel
    if kind == "clip":
        model = CLIPModel(CLIPConfig(text_config=sizes, vision_config=sizes))
    else:
        model = SiglipModel(SiglipConfig(text_config=sizes, vision_config=sizes))
    model.set_attn_implementation(attention)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return blocks(model, "text")[-1]


def _states(rows: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, TOKENS, WIDTH, generator=generator).requires_grad_()


def _first(states: Tensor) -> Tensor:
    return states[:, :1]


def _some(states: Tensor) -> Tensor:
    """Return other two tokens of every row."""
    return states.flatten(0, 1)[torch.tensor([[4, 1], [7, 7], [10, 14]])]


def _causal(rows: int) -> Tensor:
    return torch.full((rows, 1, TOKENS, TOKENS), -torch.inf).triu(1)


def _answers(block: Any, states: Tensor, found: Tensor) -> list[Tensor]:
    """Return what was found, and the gradients of the states and of every parameter."""
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    given = [states, *block.parameters()]
    return [found.detach(), *torch.autograd.grad((found * weights).sum(), given)]


@pytest.mark.parametrize("pick", [_first, _some])
@pytest.mark.parametrize("mask", [None, _causal(1), _causal(3)], ids=["none", "one", "each"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_values_and_gradients_are_those_of_the_whole_block(
    attention: str, kind: str, mask: Tensor | None, pick: Any
) -> None:
    block, states = _block(kind, attention), _states()
    found = _answers(block, states, last_block(block, states, Sight(mask), pick))
    wanted = _answers(block, states, pick(block(states, mask)))
    for one, other in zip(found, wanted, strict=True):
        largest = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * max(1.0, largest))
    assert float(wanted[0].std()) > 0.1


def _with_dropout(block: Any, layer: str, share: float = 0.5) -> Any:
    parent, _, name = layer.rpartition(".")
    module = block.get_submodule(parent)
    setattr(module, name, nn.Sequential(nn.Dropout(share), getattr(module, name)))
    return block


@pytest.mark.parametrize("layer", LAYERS)
def test_dropout_draws_what_it_draws_in_a_whole_block(layer: str) -> None:
    block, states = _with_dropout(_block(), layer).train(), _states()
    torch.manual_seed(3)
    found = last_block(block, states, ALL_SEEN, _some)
    after = torch.rand(3)
    torch.manual_seed(3)
    wanted = _some(block(states, None))
    torch.testing.assert_close(found, wanted)
    assert torch.equal(after, torch.rand(3))
    torch.manual_seed(4)
    assert not torch.allclose(last_block(block, states, ALL_SEEN, _some), wanted)


def test_dropout_of_the_attention_draws_what_it_draws_in_a_whole_block() -> None:
    block, states = _block(attention_dropout=0.5).train(), _states()
    torch.manual_seed(3)
    found = last_block(block, states, ALL_SEEN, _first)
    torch.manual_seed(3)
    torch.testing.assert_close(found, _first(block(states, None)))
    torch.testing.assert_close(
        last_block(block.eval(), states, ALL_SEEN, _first), _first(block(states, None))
    )


@pytest.mark.parametrize(
    ("dropout", "share", "training", "queries", "keys", "rest"),
    [
        ("self_attn.q_proj", 0.0, True, 3, 15, 3),
        ("self_attn.q_proj", 0.5, True, 15, 15, 3),
        ("self_attn.q_proj", 0.5, False, 3, 15, 3),
        ("self_attn.v_proj", 0.5, True, 3, 15, 3),
        ("mlp.fc1", 0.0, True, 3, 15, 3),
        ("mlp.fc1", 0.5, True, 15, 15, 15),
        ("mlp.fc1", 0.5, False, 3, 15, 3),
    ],
)
def test_tokens_that_each_layer_sees(
    dropout: str, share: float, training: bool, queries: int, keys: int, rest: int
) -> None:
    """Of three rows of five tokens, of which one is read."""
    block, seen = _with_dropout(_block(), dropout, share), dict.fromkeys(LAYERS, 0)
    block.train(training)
    for name in LAYERS:

        def count(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
            seen[name] += given[0][..., 0].numel()

        block.get_submodule(name).register_forward_pre_hook(count)
    last_block(block, _states(), ALL_SEEN, _first)
    assert list(seen.values()) == [queries, keys, rest, rest, rest]


STEM, TREES, SIZE = 3, 4, 5
# Of each tree: two prompts of 2 and 3 tokens, of which the second begins with the first's token.
OWN = torch.tensor(
    [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
)


def _trees() -> Sight:
    looks = torch.cat([torch.ones(SIZE, STEM), OWN], dim=1).bool().repeat(TREES, 1, 1)
    looks[1, 3] = looks[1, 1]  # not alike in all trees
    mask = torch.full(looks.shape, -torch.inf).masked_fill(looks, 0.0)[:, None]
    return Sight(mask, torch.full((1, 1, STEM, STEM), -torch.inf).triu(1))


def _as_one_row(seen: Sight) -> Tensor:
    """Return the mask of one row in which every token may look at stem and tree."""
    assert seen.mask is not None
    assert seen.stem is not None
    places = STEM + TREES * SIZE
    mask = torch.full((1, 1, places, places), -torch.inf)
    mask[..., :STEM, :STEM] = seen.stem
    for tree, own in enumerate(seen.mask[:, 0]):
        start = STEM + tree * SIZE
        rows = slice(start, start + SIZE)
        mask[0, 0, rows, :STEM], mask[0, 0, rows, rows] = own[:, :STEM], own[:, STEM:]
    return mask


def _ends(states: Tensor) -> Tensor:
    """Return two places of every tree, the fourth of the second tree twice."""
    places = [STEM + tree * SIZE + end for tree in range(TREES) for end in (1, 3)]
    places[2] = places[3]
    return states[:, places]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("pick", [None, _ends])
def test_trees_behind_a_stem_are_as_one_row_with_a_mask(
    attention: str, recomputes: bool, pick: Any
) -> None:
    block, seen = _block(attention=attention).train(), _trees()
    states = torch.randn(1, STEM + TREES * SIZE, WIDTH, generator=torch.Generator().manual_seed(1))
    states.requires_grad_()
    expected = block(states, _as_one_row(seen))
    if pick is not None:
        expected = pick(expected)
    wanted = _answers(block, states, expected)
    seen_twice = []
    if recomputes:
        recompute(block)
        block.mlp.register_forward_pre_hook(lambda *_: seen_twice.append(1))
    if pick is None:
        found = whole_block(block, states, seen)
    else:
        found = last_block(block, states, seen, pick)
    for one, other in zip(_answers(block, states, found), wanted, strict=True):
        largest = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * max(1.0, largest))
    assert len(seen_twice) == (2 if recomputes else 0)


def test_masks_have_the_precision_in_which_the_attention_weighs() -> None:
    packed = pack(torch.arange(12).view(3, 4) % 5, torch.tensor([3, 3, 3]))
    states = torch.zeros(1, 4)
    mask = sight(packed, states).mask
    assert mask is not None
    assert mask.dtype == torch.float32
    assert torch.equal(mask, torch.zeros(mask.shape).masked_fill(~packed.mask, -torch.inf))
    with torch.autocast("cpu", torch.bfloat16):
        found = sight(packed, states).mask
    assert found is not None
    assert found.dtype == torch.bfloat16
    assert sight(packed._replace(mask=None), states) == ALL_SEEN
