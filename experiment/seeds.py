"""Every random stream of a run, derived from its one seed and a path of names.

Deriving by hashing rather than by drawing means that no stream depends on how many numbers another
one consumed, or on the order in which clients ran.
"""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed for the stream named by ``path``.

    >>> derive_seed(0, "sampling", 1) == derive_seed(0, "sampling", 1)
    True
    >>> derive_seed(0, "sampling", 1) == derive_seed(0, "sampling", 2)
    False
    """
    text = "\x1f".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
