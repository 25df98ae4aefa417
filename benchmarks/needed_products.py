"""The matrix products that a training step cannot do without, and how long they take here.

Of every block: queries, keys, values, output and MLP; the attention of images, which is more than
a tenth of their work; LoRA's own factors. Forward, and backward to what is tuned and to what lies
before it. In a tower's last block all but keys and values are needed of one token of an image or
text. Norms, activations, softmax and the attention of texts are left out.
"""

from __future__ import annotations

import time
from collections import Counter
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

REPEATS = 5
HEADS, HEAD, RANK = 12, 64, 2  # of ViT-B/16's image tower, and of LoRA


class Product(NamedTuple):
    """A matrix product: shapes of both sides in memory, and which of them is transposed."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    transposed: str = ""


class Tower(NamedTuple):
    """What a step asks of a tower.

    Attributes:
        width: d.
        blocks: how many there are.
        tokens: needed of all blocks but the last.
        read: tokens that are read of the last block.
        backward: whether anything before its end is tuned.
        inputs: whether the gradient of what enters the first block is needed.
        lora: whether q, k and v have LoRA's factors.
        attention: images and tokens of each, between which attention is counted.
    """

    width: int
    blocks: int
    tokens: int
    read: int
    backward: bool = True
    inputs: bool = False
    lora: bool = True
    attention: tuple[int, int] | None = None


def needed(tower: Tower) -> Counter[Product]:
    """Return how often each product is needed in a step."""
    found: Counter[Product] = Counter()
    for block in range(tower.blocks):
        last, through = block == tower.blocks - 1, block > 0 or tower.inputs
        rest, d = tower.read if last else tower.tokens, tower.width
        for rows in (rest, tower.tokens, tower.tokens):  # queries, keys, values
            found += _linear(rows, d, d, tower.backward and through)
            if tower.lora:
                found += _factors(rows, d, through)
        for inner, outer in ((d, d), (d, 4 * d), (4 * d, d)):
            found += _linear(rest, inner, outer, tower.backward)
        if tower.attention and not last:
            found += _attention(*tower.attention, tower.backward)
    return found


def _linear(rows: int, inner: int, outer: int, backward: bool) -> Counter[Product]:
    found = Counter([Product((rows, inner), (outer, inner), "right")])
    if backward:
        found[Product((rows, outer), (outer, inner))] += 1
    return found


def _factors(rows: int, d: int, through: bool) -> Counter[Product]:
    """Of ``s B A x``, each in the order in which it is fastest.

    Forward by A and by B; the gradient of what is between them, those of both, and that of x.
    """
    found = Counter({Product((rows, d), (RANK, d), "right"): 2})
    found[Product((rows, RANK), (d, RANK), "right")] += 1
    found[Product((rows, RANK), (rows, d), "left")] += 2
    if through:
        found[Product((rows, RANK), (RANK, d))] += 1
    return found


def _attention(images: int, tokens: int, backward: bool) -> Counter[Product]:
    """Two products forward, four backward; half of them sum over tokens."""
    states, weights = (images * HEADS, tokens, HEAD), (images * HEADS, tokens, tokens)
    found = Counter({Product(states, states, "right"): 1, Product(weights, states): 1})
    if backward:
        found[Product(states, states, "right")] += 1
        found[Product(weights, states)] += 1
        found[Product(weights, states, "left")] += 2
    return found


def operations(products: Counter[Product]) -> int:
    """Return the multiplications and additions of some products."""
    found = 0
    for product, count in products.items():
        columns = product.right[-2 if product.transposed == "right" else -1]
        found += 2 * count * prod(product.left) * columns
    return found


def seconds(product: Product) -> float:
    """Return the processor's seconds of one product into memory at hand, the mean of some."""
    left, right = sides(product)
    found = left @ right
    started = time.process_time()
    for _ in range(REPEATS):
        torch.matmul(left, right, out=found)
    return (time.process_time() - started) / REPEATS


def sides(
    product: Product, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return random numbers of a product's shapes, to be multiplied as they are."""
    left = torch.randn(product.left, device=device, dtype=dtype)
    right = torch.randn(product.right, device=device, dtype=dtype)
    return (
        left.mT if product.transposed == "left" else left,
        right.mT if product.transposed == "right" else right,
    )
