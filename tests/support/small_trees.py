"""Prompts in small trees, also where they are few enough for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fl2ora.clip_tuning import packed_prompts, prompt_trees


@contextmanager
def tokens_of_a_tree(most: int) -> Iterator[None]:
    """Make trees of few tokens, unless a prompt is longer, and one with all only below that."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packed_prompts, "_MOST", most)
        patched.setattr(prompt_trees, "_PIECES", (max(1, most // 2),))
        patched.setattr(prompt_trees, "_LARGEST", most)
        patched.setattr(prompt_trees, "_FILLED", (most,))
        yield


@contextmanager
def stems_wherever_possible() -> Iterator[None]:
    """Make small trees behind what all prompts begin with."""
    with tokens_of_a_tree(0), pytest.MonkeyPatch.context() as patched:
        patched.setattr(prompt_trees, "_JOINED", -(10**9))
        yield
