"""Waiting for a run's nodes: how many there must be, who they are, and which are left out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from flwr.serverapp import Grid

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.messages.exchange import receive
from fl2ora.messages.hello import NodeInfo, ask_hello, decode_hello

MOST_SHARES = 10**6
_POLL_SECONDS = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peer:
    """A node that answered: where messages go, and what it said of itself."""

    node: int
    info: NodeInfo

    @property
    def client(self) -> str:
        """The client's stable key."""
        return self.info.client


def excluded(text: str) -> frozenset[str]:
    """Return the clients that the key ``exclude`` names.

    >>> sorted(excluded("clinic-b + 7")), sorted(excluded(""))
    (['7', 'clinic-b'], [])
    """
    return frozenset(name.strip() for name in text.split("+") if name.strip())


def attending(grid: Grid, config: RunConfig) -> list[Peer]:
    """Wait for the nodes, ask each who it is, and leave out those that ``exclude`` names.

    ``num-clients`` counts those too, whether they are there or not.
    """
    names = excluded(config.exclude)
    expected = config.num_clients and config.num_clients - len(names)
    if config.num_clients and expected < 1:
        raise UserError(
            f"exclude: expected fewer names than the {config.num_clients} clients (num-clients), "
            f"found {len(names)}"
        )
    wanted = max(1, expected)
    while True:
        nodes = _await_nodes(grid, wanted, config.start_timeout)
        if not names:
            _refuse_more(nodes, config)
        answered = _ask(grid, nodes, config.start_timeout)
        peers = [peer for peer in answered if peer.client not in names]
        _refuse_more(peers, config)
        needed = max(1, expected) + len(answered) - len(peers)
        if not expected:  # as many as there are shares
            counts = (peer.info.num_partitions for peer in answered)
            needed = max(needed, *(count for count in counts if count <= MOST_SHARES))
        if len(answered) >= needed:
            break
        wanted = needed
    if names:
        found = ", ".join(peer.client for peer in answered if peer.client in names)
        logger.warning("exclude: left out are %s", found or "none: no node has such a name")
    return peers


def _refuse_more(found: Sequence[object], config: RunConfig) -> None:
    left_out, number = len(excluded(config.exclude)), len(found)
    expected = config.num_clients - left_out
    if not config.num_clients or number <= expected:
        return
    if left_out:
        raise UserError(
            f"num-clients: expected {expected} nodes besides the {left_out} that exclude names, "
            f"found {number}; set num-clients to {number + left_out}, or name nodes that are there"
        )
    raise UserError(
        f"num-clients: expected {expected} nodes, found {number}; set it to {number}, to 0 for as "
        "many as there are, or stop those that should not take part"
    )


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


def _ask(grid: Grid, nodes: list[int], timeout: float) -> list[Peer]:
    replies = receive(grid, [ask_hello(node) for node in nodes], timeout)
    peers = [Peer(node, decode_hello(reply, node)) for node, reply in replies if reply is not None]
    if len(peers) < len(nodes):
        raise UserError(
            f"{len(nodes) - len(peers)} of {len(nodes)} nodes did not answer the handshake within "
            f"{timeout:g} s (start-timeout)"
        )
    return peers
