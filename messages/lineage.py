"""Which interrupted runs a run goes on from: what of a node's memory still counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fl2ora.experiment.config import Value
from fl2ora.messages.records import UnusableMessageError

_RUNS, _CHECKPOINTS = "earlier-runs", "checkpoints"
_LONGEST = 100_000
_LARGEST = 2**64


@dataclass(frozen=True)
class Lineage:
    """Goes with every message to which what a node remembers matters.

    A client that trained in a round which was lost when the server ended goes back with it: what
    it kept in that round counts for nothing, however many resumes later it is asked again.

    Attributes:
        runs: Flower's ids of the interrupted runs, the first one first, and the last round of each
            that counts.
        checkpoints: rounds to which a resume may go back.
    """

    runs: tuple[tuple[int, int], ...] = ()
    checkpoints: tuple[int, ...] = ()

    def origin(self, run_id: int) -> int:
        """Return the id of the run that the run of this id began as.

        >>> Lineage(((7, 4), (9, 6))).origin(11), Lineage().origin(11)
        (7, 11)
        """
        return self.runs[0][0] if self.runs else run_id

    def counts(self, kept_in: int, server_round: int, run_id: int) -> bool:
        """Return whether what was kept in a round of one run holds for the run of ``run_id``.

        >>> lineage = Lineage(((7, 4), (9, 6)))
        >>> [lineage.counts(7, 4, 11), lineage.counts(7, 5, 11), lineage.counts(11, 5, 11)]
        [True, False, True]
        """
        return kept_in == run_id or server_round <= dict(self.runs).get(kept_in, -1)

    def settings(self) -> dict[str, Value]:
        """Return it as texts for a message."""
        runs = " ".join(f"{run_id}:{last}" for run_id, last in self.runs)
        return {_RUNS: runs, _CHECKPOINTS: " ".join(map(str, self.checkpoints))}

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> Lineage:
        """Return what ``settings`` wrote; another server than ours writes nothing.

        Raises:
            UnusableMessageError: it cannot be read.
        """
        runs, checkpoints = (str(settings.get(key, "")) for key in (_RUNS, _CHECKPOINTS))
        if max(len(runs), len(checkpoints)) > _LONGEST:
            raise UnusableMessageError(f"{_RUNS}: expected at most {_LONGEST} characters")
        pairs = [_numbers(_RUNS, word, 2) for word in runs.split()]
        rounds = [_numbers(_CHECKPOINTS, word, 1)[0] for word in checkpoints.split()]
        return cls(tuple((run_id, last) for run_id, last in pairs), tuple(rounds))


def _numbers(key: str, word: str, count: int) -> list[int]:
    parts = word.split(":")
    if len(parts) != count or not all(re.fullmatch(r"[0-9]{1,20}", part) for part in parts):
        raise UnusableMessageError(f"{key}: expected numbers, found {word!r:.80}")
    numbers = [int(part) for part in parts]
    if max(numbers) >= _LARGEST:
        raise UnusableMessageError(f"{key}: expected numbers below 2^64, found {word!r:.80}")
    return numbers
