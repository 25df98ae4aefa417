"""Before the first round: which nodes there are, and whether they can work together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.fingerprint import code_fingerprint, code_root, library_versions
from fl2ora.messages.receiving import receive
from fl2ora.messages.records import CONFIG, HELLO, Hello
from fl2ora.messages.replies import error_reason

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Peer:
    """A node that answered: where messages go, and what it said of itself."""

    node: int
    hello: Hello

    @property
    def client(self) -> str:
        """The client's stable key."""
        return self.hello.client


def shake_hands(grid: Grid, config: RunConfig, class_names: tuple[str, ...]) -> list[Peer]:
    """Wait for the nodes, ask each who it is, and return them sorted by client key.

    Raises:
        UserError: too few nodes within ``start-timeout``, or nodes that cannot take part; all
            problems are listed, each naming both sides.
    """
    nodes = _await_nodes(grid, max(1, config.num_clients), config.start_timeout)
    peers = _ask(grid, nodes, config.start_timeout)
    shares = max((peer.hello.num_partitions for peer in peers), default=0)
    if config.num_clients == 0 and shares > len(peers):
        peers = _ask(grid, _await_nodes(grid, shares, config.start_timeout), config.start_timeout)
    problems = [*_problems(peers, class_names), *_duplicates(peers)]
    if problems:
        raise UserError(
            "the nodes cannot train together:\n" + "\n".join(f"  - {p}" for p in problems)
        )
    return sorted(peers, key=lambda peer: natural_key(peer.client))


def natural_key(client: str) -> tuple[int, int, str]:
    """Sort clients named by numbers by value and before all others."""
    return (0, int(client), "") if client.isdecimal() else (1, 0, client)


def _await_nodes(grid: Grid, wanted: int, timeout: float) -> list[int]:
    deadline = time.monotonic() + timeout
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= wanted:
            return nodes
        if time.monotonic() >= deadline:
            raise UserError(
                f"num-clients: expected {wanted} nodes, found {len(nodes)} after {timeout:g} s "
                "(start-timeout); start more SuperNodes, or set the number of the simulation: "
                "--federation-config num-supernodes=N"
            )
        time.sleep(_POLL_SECONDS)


def _ask(grid: Grid, nodes: Iterable[int], timeout: float) -> list[Peer]:
    questions = [
        Message(RecordDict({CONFIG: ConfigRecord({})}), dst_node_id=node, message_type=HELLO)
        for node in nodes
    ]
    peers = []
    for reply in receive(grid, questions, timeout):
        node = reply.metadata.src_node_id
        if reply.has_error():
            hello = Hello(client=str(node), problem=error_reason(reply))
        else:
            hello = Hello.from_content(reply.content)
        peers.append(Peer(node, hello))
    if len(peers) < len(questions):
        raise UserError(
            f"{len(questions) - len(peers)} of {len(questions)} nodes did not answer the "
            f"handshake within {timeout:g} s (start-timeout)"
        )
    return peers


def _problems(peers: Iterable[Peer], class_names: tuple[str, ...]) -> Iterable[str]:
    versions = {name: _public(v) for name, v in library_versions().items()}
    for peer in peers:
        hello = peer.hello
        if hello.fingerprint and hello.fingerprint != code_fingerprint():
            yield (
                f"client {peer.client}: its code {hello.fingerprint} at {hello.code_root} differs "
                f"from the server's {code_fingerprint()} at {code_root()}"
            )
        theirs = hello.library_versions
        for name, version in versions.items():
            if name != "python" and name in theirs and _public(theirs[name]) != version:
                yield (
                    f"client {peer.client}: {name} {theirs[name]} differs from the server's "
                    f"{version}"
                )
        if hello.problem:
            yield f"client {peer.client}: {hello.problem}"
        elif hello.class_names != class_names:
            yield (
                f"client {peer.client}: its {len(hello.class_names)} classes "
                f"{hello.class_names[:3]}... differ from the server's {len(class_names)} "
                f"{class_names[:3]}... in names or order"
            )


def _duplicates(peers: Iterable[Peer]) -> Iterable[str]:
    for client, count in Counter(peer.client for peer in peers).items():
        if count > 1:
            yield (
                f"client key {client!r} is used by {count} nodes: give each node its own "
                "site=... or partition-id in --node-config"
            )


def _public(version: str) -> str:
    """Drop the local part: torch 2.13.0+cpu and 2.13.0+cu130 may work together."""
    return version.partition("+")[0]
