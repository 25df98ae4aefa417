"""Where metrics come from: the names of sources in every record, table and file."""

from __future__ import annotations

import re
from collections.abc import Iterable

SERVER_TEST = "server-test"
CLIENTS_TEST = "clients-test"
NODES_TEST = "nodes-test"
"""Of test images that nodes with data of their own bring, where clients-test are held out of what
clients would else train on."""
PERSONAL_TEST = "clients-test-personal"
CLIENTS_VALIDATION = "clients-validation"
CALIBRATED = "-calibrated"
"""Ends a source's name where the run's calibrator was applied."""


def part_source(part: str, whose: str = SERVER_TEST) -> str:
    """Return the source of a held-out part, a central one; one without a name is the only one.

    >>> part_source(""), part_source("new"), part_source("new", NODES_TEST)
    ('server-test', 'server-test/new', 'nodes-test/new')
    """
    return f"{whose}/{part}" if part else whose


def part_of(source: str) -> str:
    """Return the part's name; empty where it has none.

    >>> part_of("server-test/new"), part_of("server-test"), part_of("server-test-calibrated")
    ('new', '', '')
    """
    for whose in (SERVER_TEST, NODES_TEST):
        if source.startswith(whose):
            return source.removeprefix(whose).removesuffix(CALIBRATED).removeprefix("/")
    return ""


def file_ending(source: str) -> str:
    """Return what tells a part's files from those of others; empty where it has no name.

    >>> file_ending("server-test/Real world"), file_ending("server-test")
    ('-Real_world', '')
    """
    part = re.sub(r"[^\w.+-]", "_", part_of(source))[:80]
    return f"-{part}" if part else ""


def central_sources(sources: Iterable[str]) -> list[str]:
    """Return the central held-out parts among sources, without calibrated ones, in their order.

    >>> central_sources(["server-test/a", "clients-test", "server-test/b-calibrated"])
    ['server-test/a']
    """
    return [
        source
        for source in dict.fromkeys(sources)
        if (source == SERVER_TEST or source.startswith(f"{SERVER_TEST}/"))
        and not source.endswith(CALIBRATED)
    ]


SPREAD = ("-mean", "-sd", "-worst")
"""End the names of rows that say how clients differ."""


def own_sources(sources: Iterable[str]) -> list[str]:
    """Return the nodes' own parts among sources, and means of them, in their order.

    >>> own_sources(["clients-test", "nodes-test/a", "nodes-test/a-sd", "nodes-test/a-calibrated"])
    ['nodes-test/a']
    """
    known = set(sources := list(sources))
    return [
        source
        for source in dict.fromkeys(sources)
        if (source == NODES_TEST or source.startswith(f"{NODES_TEST}/"))
        and not source.endswith(CALIBRATED)
        and not any(source.endswith(e) and source.removesuffix(e) in known for e in SPREAD)
    ]


def main_source(sources: Iterable[str]) -> str:
    """Return the source that stands for the run.

    The first central part, else the clients, else the first part of the nodes' own.

    >>> main_source(["clients-test", "server-test/base", "server-test/new"])
    'server-test/base'
    >>> main_source(["training", "clients-test", "nodes-test"])
    'clients-test'
    >>> main_source(["training", "nodes-test"])
    'nodes-test'
    """
    known = list(sources)
    clients = [CLIENTS_TEST] if CLIENTS_TEST in known else []
    return next(iter([*central_sources(known), *clients, *own_sources(known)]), CLIENTS_TEST)


def title_of(source: str) -> str:
    """Return the heading of a part's or of the pooled clients' table.

    >>> title_of("server-test/new")
    'Central held-out part new (server-test/new)'
    """
    if source == CLIENTS_TEST:
        return f"Clients' held-out images, pooled ({source})"
    part = part_of(source)
    if source.startswith(NODES_TEST):
        return f"Nodes' own test images{f', part {part}' if part else ''}, pooled ({source})"
    return (
        f"Central held-out part {part} ({source})" if part else f"Central held-out set ({source})"
    )
