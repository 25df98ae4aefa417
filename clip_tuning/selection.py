"""Which towers and which of their blocks a method is about, by the names a spec string uses."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import CLIPModel, SiglipModel

from fl2ora.clip_tuning.towers import TOWERS, blocks, check_insertable

TOWER_CHOICES = ("both", *TOWERS)
BLOCK_CHOICES = ("all", "top3", "bottom", "mid", "up", "half-up", "half-bottom")


def chosen_towers(towers: str) -> tuple[str, ...]:
    """Return the towers that ``both``, ``vision`` or ``text`` stands for."""
    return TOWERS if towers == "both" else (towers,)


def parse_blocks(text: str) -> str | tuple[int, ...]:
    """Return a name of ``BLOCK_CHOICES`` as it is, or comma-separated indices as numbers.

    Raises:
        ValueError: it is neither.
    """
    if text in BLOCK_CHOICES:
        return text
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(
            f"blocks: expected one of {', '.join(BLOCK_CHOICES)} or indices such as '0,1,11', "
            f"found {text!r}"
        )
    return tuple(sorted({int(part) for part in parts}))


def chosen_blocks(
    clip: CLIPModel | SiglipModel, tower: str, wanted: str | Sequence[int]
) -> list[int]:
    """Return the block indices, counted from the input.

    The names are those of CLIP-LoRA (Zanella & Ben Ayed 2024, arXiv 2405.18541), for any number of
    blocks: bottom, mid and up are thirds, with the rest in the middle.

    Raises:
        ValueError: the tower has no such block.
    """
    count = len(blocks(clip, tower))
    third, half = count // 3, count // 2
    named = {
        "all": range(count),
        "top3": range(count - 3, count),
        "bottom": range(third),
        "mid": range(third, count - third),
        "up": range(count - third, count),
        "half-up": range(half, count),
        "half-bottom": range(half),
    }
    indices = list(named[wanted] if isinstance(wanted, str) else wanted)
    if not indices or min(indices) < 0 or max(indices) >= count:
        shown = wanted if isinstance(wanted, str) else ",".join(map(str, wanted))
        raise ValueError(
            f"blocks: expected blocks of the model's {tower} tower, which has 0 to {count - 1}, "
            f"found {shown!r}"
        )
    return indices


def chosen_depth(
    clip: CLIPModel | SiglipModel, depth: int, towers: Sequence[str], twelfths: int
) -> int:
    """Return how many blocks get prompts.

    Args:
        clip: the model.
        depth: blocks from the input; 0 stands for the source's share of them.
        towers: all of them must be that deep.
        twelfths: the source's share of 12 blocks, rounded up on other models.

    Raises:
        ValueError: a tower has fewer blocks, or see ``check_insertable``.
    """
    check_insertable(clip)
    tower = min(towers, key=lambda name: len(blocks(clip, name)))
    count = len(blocks(clip, tower))
    if depth > count:
        raise ValueError(
            f"depth: expected at most {count}, the blocks of the model's {tower} tower, "
            f"found {depth}"
        )
    return depth or -(-count * twelfths // 12)
