"""Fonts for names in any script, and what is said where a machine has none."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from matplotlib import font_manager

logger = logging.getLogger(__name__)

FIRST = "DejaVu Sans"  # comes with matplotlib
# For what it lacks, in this order; of those that are installed.
_OTHERS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "IPAGothic",
    "NanumGothic",
    "Arial Unicode MS",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Nirmala UI",
    "Leelawadee UI",
    "Noto Emoji",
)
_MISSING = re.compile(r"Glyph (\d+) .*missing from", re.DOTALL)
_SHOWN = 10


@lru_cache(maxsize=1)
def families() -> list[str]:
    """Return matplotlib's own font, and those installed for other scripts."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return [FIRST, *(name for name in _OTHERS if name in installed)]


@contextmanager
def missing_said_once() -> Iterator[None]:
    """Say in one line which characters no font has, where matplotlib warns of each.

    They are drawn as boxes.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    missing: dict[str, None] = {}
    for warning in caught:
        found = _MISSING.match(str(warning.message))
        if found:
            missing[chr(int(found[1]))] = None
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if missing:
        shown = "".join(list(missing)[:_SHOWN]) + ("…" if len(missing) > _SHOWN else "")
        logger.warning(
            "Plots: no font here has %s: drawn as boxes; install one, such as Debian's "
            "fonts-noto-cjk, or give classes names in another script",
            shown,
        )
