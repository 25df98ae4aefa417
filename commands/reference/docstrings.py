"""What docstrings say, as Markdown."""

from __future__ import annotations

import inspect
import re

_SECTION = re.compile(r"^(?:Args|Attributes|Class attributes|Examples?|Raises|Returns):$", re.M)
_ARGS = re.compile(r"^Args:\n(.*?)(?=^\S|\Z)", re.M | re.S)
_ARGUMENT = re.compile(r"^    (\*{0,2}\w+): (.*?)(?=^    \S|\Z)", re.M | re.S)


def text_of(docstring: str | None) -> str:
    r"""Return what stands before the first section, such as ``Args:``.

    >>> text_of("Adds ``mu``.\n\nArgs:\n    mu: above 0.")
    'Adds `mu`.'
    """
    return markdown(_SECTION.split(inspect.cleandoc(docstring or ""))[0])


def arguments_of(cls: type) -> dict[str, str]:
    """Return what the docstrings of a class and of those it derives from say of its arguments."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = _ARGS.search(inspect.cleandoc(vars(base).get("__doc__") or ""))
        if section:
            for name, words in _ARGUMENT.findall(section.group(1)):
                found[name.lstrip("*")] = markdown(" ".join(words.split()))
    return found


def markdown(text: str) -> str:
    """Return a docstring's text as Markdown, where code stands in single backticks.

    >>> markdown("the key ``mu``")
    'the key `mu`'
    """
    return text.strip().replace("``", "`")
