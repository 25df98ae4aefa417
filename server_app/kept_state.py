"""Where the clients of a run keep what they must remember, as far as they say."""

from __future__ import annotations

from fl2ora.messages.train import DISK, MEMORY
from fl2ora.reporting.comings import STATE_IN_MEMORY, STATE_ON_DISK
from fl2ora.reporting.events import Tracker


class KeptState:
    """Puts on record which clients would have lost their state if the run were resumed.

    Args:
        tracker: told when a client begins to keep it in memory alone, and when it no longer does.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._in_memory: set[str] = set()

    def note(self, server_round: int, client: str, kept: str) -> None:
        """Take note of what a reply says, see ``kept_in``."""
        if kept == MEMORY and client not in self._in_memory:
            self._in_memory.add(client)
            self._tracker.log(STATE_IN_MEMORY, round=server_round, client=client)
        elif kept == DISK and client in self._in_memory:
            self._in_memory.remove(client)
            self._tracker.log(STATE_ON_DISK, round=server_round, client=client)
