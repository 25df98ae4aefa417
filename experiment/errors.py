"""The one kind of error a user's mistake ends in, and the hint that goes with a misspelling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches

LONGEST = 100


class UserError(ValueError):
    """A mistake in what the user gave: shown as its message alone, without a traceback."""


class RunInterruptedError(UserError):
    """A run that was asked to end and did so between two rounds: it can go on from there."""


class ConfigError(UserError):
    """Everything that is wrong with a configuration, all at once.

    Attributes:
        problems: one sentence each, naming the key, what was expected and what was found.
    """

    def __init__(self, problems: Iterable[str], where: str = "the run configuration") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        super().__init__(f"{head} in {where}:\n" + "\n".join(f"  - {p}" for p in self.problems))


def problems_of(checks: Mapping[str, Callable[[], object]]) -> list[str]:
    """Run every check and return what the failing ones say, each named by its key.

    >>> def check():
    ...     raise UserError("expected fedavg, found 'fedavgg'")
    >>> problems_of({"strategy": check, "method": lambda: None})
    ["strategy: expected fedavg, found 'fedavgg'"]
    """
    problems: list[str] = []
    for key, check in checks.items():
        try:
            check()
        except ConfigError as error:
            problems += error.problems
        except UserError as error:
            problems.append(f"{key}: {error}")
    return problems


def shown(value: object) -> str:
    """Return a value as it is quoted in a message: its ``repr``, cut where it is long.

    >>> shown("x" * 1000)[-23:]
    'xxxxxxx... (1002 signs)'
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or a deep list
        return f"a very long {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} signs)"


def printable(text: str) -> str:
    r"""Return a text without what would steer a terminal; line breaks stay.

    >>> printable("a\x1b[31mb\nc")
    'a [31mb\nc'
    """
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or an empty string."""
    match = get_close_matches(name[:LONGEST], list(valid), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def listed(names: Iterable[str]) -> str:
    """Return names as a readable list: ``a, b, c``."""
    return ", ".join(sorted(names)) or "(none)"
