"""The one kind of error a user's mistake ends in, and the hint that goes with a misspelling."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in what the user gave: shown as its message alone, without a traceback."""


class ConfigError(UserError):
    """Everything that is wrong with a run configuration, all at once.

    Attributes:
        problems: one sentence each, naming the key, what was expected and what was found.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        super().__init__(
            f"{head} in the run configuration:\n" + "\n".join(f"  - {p}" for p in self.problems)
        )


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or an empty string."""
    match = get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def listed(names: Iterable[str]) -> str:
    """Return names as a readable list: ``a, b, c``."""
    return ", ".join(sorted(names)) or "(none)"
