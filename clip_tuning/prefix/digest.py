"""Keys of tensors by what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def digest(tensors: Iterable[Tensor], *words: object) -> str:
    """Return a key of 32 hexadecimal digits that differs where any value or word does."""
    found = hashlib.blake2b("\0".join(map(str, words)).encode(), digest_size=16)
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous()
        found.update(f"{tuple(flat.shape)} {flat.dtype}".encode())
        found.update(flat.view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
