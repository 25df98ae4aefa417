"""Clients that came, went or changed while a run went on, as its record has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COMINGS = ("client-lost", "client-back", "client-changed", "node-late", "node-refused")
"""Events of one client's coming and going."""

MEASURED = "measured-clients"
"""Event: which clients' images were measured on the nodes, whenever that has changed."""

STATE_IN_MEMORY, STATE_ON_DISK = "state-in-memory", "state-on-disk"
"""Events: a client keeps what it must remember in memory alone; it no longer does."""

_NAMED = 10


def said_of_client(event: Mapping[str, Any]) -> str:
    """Return what one of ``COMINGS`` says, in words.

    >>> said_of_client({"event": "client-lost", "client": "b", "round": 3})
    'client b: its node went offline'
    >>> said_of_client({"event": "client-changed", "client": "b", "counts": {"num_train": [5, 7]}})
    'client b: its data changed: num_train 5 -> 7'
    """
    said = {
        "client-lost": "its node went offline",
        "client-back": "is back",
        "node-late": "came after the run began, and takes no part in it",
    }
    kind = event["event"]
    if kind == "client-changed":
        counts = (f"{name} {old} -> {new}" for name, (old, new) in event["counts"].items())
        return f"client {event['client']}: its data changed: {', '.join(counts)}"
    if kind == "node-refused":
        return f"client {event['client']}: its node is not let back: {event['reason']}"
    return f"client {event['client']}: {said[kind]}"


def changes_of_clients(events: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """Return the rounds that measured other clients than the measured round before, and which.

    >>> events = [
    ...     {"event": "measured-clients", "round": 0, "clients": ["a", "b"]},
    ...     {"event": "measured-clients", "round": 3, "clients": ["a"]},
    ... ]
    >>> changes_of_clients(events)
    {3: 'without b'}
    """
    before: Sequence[str] | None = None
    found = {}
    for event in events:
        if event["event"] != MEASURED:
            continue
        now = event["clients"]
        if before is not None:
            lost = [client for client in before if client not in set(now)]
            new = [client for client in now if client not in set(before)]
            words = [f"without {_named(lost)}"] if lost else []
            words += [f"with {_named(new)}"] if new else []
            if words:
                found[int(event["round"])] = ", ".join(words)
        before = now
    return found


def in_memory_alone(events: Iterable[Mapping[str, Any]], last: int) -> list[str]:
    """Return the clients that kept their state in memory alone up to a round.

    >>> events = [{"event": "state-in-memory", "round": 2, "client": "b"}]
    >>> in_memory_alone(events, 1), in_memory_alone(events, 2)
    ([], ['b'])
    """
    found: dict[str, None] = {}
    for event in events:
        if event["event"] == STATE_IN_MEMORY and event["round"] <= last:
            found[str(event["client"])] = None
        elif event["event"] == STATE_ON_DISK and event["round"] <= last:
            found.pop(str(event["client"]), None)
    return list(found)


def _named(clients: Sequence[str]) -> str:
    more = f" and {len(clients) - _NAMED} more" if len(clients) > _NAMED else ""
    return ", ".join(clients[:_NAMED]) + more
