"""Which node each client is on while a run goes on: nodes leave, come back, and change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from flwr.serverapp import Grid

from fl2ora.experiment.config import RunConfig
from fl2ora.messages.hello import NodeInfo, ask_hello, decode_hello
from fl2ora.reporting.events import Tracker
from fl2ora.server_app.arrivals import Peer, excluded

_SAME = ("source", "partition", "num_partitions", "rank", "class_names", "templates", "digests")
_COUNTS = ("num_train", "num_test", "num_calibration")
_POLL_SECONDS = 1.0


class Attendance:
    """The clients of a run, fixed when it begins, and the nodes they are on at the moment.

    A client whose node is offline is ``away``: it is sent nothing until it is back, by the same
    node or by a new one that says the same of itself. Nobody waits for that: nodes that are new, or
    whose last reply could not be used, are asked who they are beside the round that goes on. What
    happens is an event: ``client-lost``, ``client-back``, ``client-changed`` (other numbers of
    images), ``node-refused`` and ``node-late`` (a client that the run did not begin with).

    Args:
        grid: where the nodes are.
        peers: those the run begins with, sorted by client key.
        config: of the run.
        tracker: told of what happens.
        problems_of: says what keeps a node from working with this server, see ``handshake``.

    Attributes:
        infos: what each client last said of itself, less the images that were left out.
        nodes: which node each client is on, or was last.
        away: clients whose node is offline, and the round in which that was seen.
    """

    def __init__(
        self,
        grid: Grid,
        peers: Sequence[Peer],
        config: RunConfig,
        tracker: Tracker,
        problems_of: Callable[[Sequence[Peer]], Iterable[tuple[str, str]]],
    ) -> None:
        self.infos: dict[str, NodeInfo] = {peer.client: peer.info for peer in peers}
        self.nodes: dict[str, int] = {peer.client: peer.node for peer in peers}
        self._said = dict(self.infos)  # as they came
        self.away: dict[str, int] = {}
        self._grid, self._config, self._tracker = grid, config, tracker
        self._problems_of = problems_of
        self._doubtful: set[int] = set()  # nodes to be asked who they are
        self._asked: dict[str, int] = {}  # nodes by the message that asks
        self._known = set(self.nodes.values())  # nodes that were asked once
        self._standby: dict[int, Peer] = {}  # answered, while their client is on another node

    def doubt(self, client: str) -> None:
        """Have a client asked anew who it is, since its reply could not be used."""
        self._doubtful.add(self.nodes[client])

    def reduce(self, client: str, info: NodeInfo) -> None:
        """Have a client count as one with fewer images, since some were left out of what it has."""
        self.infos[client] = info

    def look(self, server_round: int) -> None:
        """See who is there, ask nodes that are new, and take in who has answered since."""
        online = set(self._grid.get_node_ids())
        # A node that was offline may come back with other data or code: it is new then.
        self._known &= online
        for client, node in self.nodes.items():
            if node not in online:
                self._leave(server_round, client)
        self._take_in(server_round, online)
        new = sorted((online - self._known) | (self._doubtful & online))
        self._known.update(new)
        self._doubtful.clear()
        if new:
            identifiers = self._grid.push_messages([ask_hello(node) for node in new])
            self._asked |= {i: node for i, node in zip(identifiers, new, strict=False) if i}

    def await_some(
        self,
        clients: Sequence[str],
        least: int,
        server_round: int,
        asked_to_end: Callable[[], object] = lambda: False,
    ) -> int:
        """Wait until ``least`` of ``clients`` are there, or for ``start-timeout`` seconds.

        Returns:
            How many are there.
        """
        deadline = time.monotonic() + self._config.start_timeout
        said = False
        while True:
            self.look(server_round)
            there = sum(client not in self.away for client in clients)
            enough = there >= min(least, len(clients))
            if enough or time.monotonic() >= deadline or asked_to_end():
                return there
            if not said:
                self._tracker.log("waiting", round=server_round, online=there, expected=least)
                said = True
            time.sleep(_POLL_SECONDS)

    def _leave(self, server_round: int, client: str) -> None:
        if client not in self.away:
            self.away[client] = server_round
            self._tracker.log("client-lost", round=server_round, client=client)

    def _take_in(self, server_round: int, online: set[int]) -> None:
        """Take in the nodes that have answered; those whose client is elsewhere stand by."""
        for reply in self._grid.pull_messages({*self._asked}) if self._asked else ():
            node = self._asked.pop(reply.metadata.reply_to_message_id, None)
            if node is None:
                continue
            if reply.has_error():
                self._known.discard(node)  # to be asked again
            else:
                self._standby[node] = Peer(node, decode_hello(reply, node))
        for node, peer in list(self._standby.items()):
            holder = self.nodes.get(peer.client, node)
            if holder != node and holder in online:
                continue  # a node that crashed is taken for online for a minute
            del self._standby[node]
            if node in online:
                self._admit(server_round, peer)

    def _admit(self, server_round: int, peer: Peer) -> None:
        """Let a node be the client it says it is, unless it is none of this run's or differs."""
        client, log = peer.client, self._tracker.log
        if client not in self.infos:
            if client not in excluded(self._config.exclude):
                log("node-late", round=server_round, client=client)
            return
        before, info = self._said[client], peer.info
        reasons = [text for _, text in self._problems_of([peer])]
        reasons += [f"its {n} differ" for n in _SAME if getattr(before, n) != getattr(info, n)]
        counts = {n: (getattr(before, n), getattr(info, n)) for n in _COUNTS}
        counts = {name: pair for name, pair in counts.items() if pair[0] != pair[1]}
        if counts and (info.source != "own" or self.infos[client] != before):
            reasons.append("it has other images than those the run's division was checked with")
        if reasons:
            log("node-refused", round=server_round, client=client, reason="; ".join(reasons))
            if self.nodes[client] == peer.node:
                self.away.setdefault(client, server_round)
            return
        if counts:
            log("client-changed", round=server_round, client=client, counts=counts)
            self.infos[client] = self._said[client] = info
        self.infos[client] = replace(self.infos[client], start=info.start)
        self.nodes[client] = peer.node
        if self.away.pop(client, None) is not None:
            log("client-back", round=server_round, client=client)
