"""The nodes of a run as the round loop sees them: client keys in, checked answers out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.config import RunConfig
from fl2ora.federated_data.salted import Salted, SaltedImages
from fl2ora.messages.calibrate import CalibrateTask, decode_sums, encode_calibrate
from fl2ora.messages.digests import ask_digests, decode_digests, with_left_out
from fl2ora.messages.evaluate import VALIDATION, EvaluateTask, decode_measured, encode_evaluate
from fl2ora.messages.exchange import collect
from fl2ora.messages.hello import NodeInfo
from fl2ora.messages.label_space import with_classes
from fl2ora.messages.lineage import Lineage
from fl2ora.messages.own_parts import own_key
from fl2ora.messages.train import kept_in
from fl2ora.reporting.comings import MEASURED
from fl2ora.reporting.events import Tracker
from fl2ora.server_app.arrivals import Peer
from fl2ora.server_app.attendance import Attendance
from fl2ora.server_app.client_weights import most_images
from fl2ora.server_app.handshake import problems_of
from fl2ora.server_app.kept_state import KeptState
from fl2ora.server_app.known_start import Starts
from fl2ora.server_app.training import TrainingRound
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.updates import ClientUpdate

T = TypeVar("T")


class Clients:
    """Asks the nodes; everything that cannot be used of an answer is a drop, on the record.

    Args:
        grid: where the nodes are.
        peers: the nodes, sorted by client key.
        config: of the run.
        tracker: told of every reply and every drop.
        class_names: of the run; nodes that have them in another order are told theirs. None: all
            have them in this one.
        lineage: says which of what the nodes remember counts, whenever they are asked.

    Attributes:
        bytes_down: of tensors sent to each client that was last asked to train.
        bytes_up: of tensors in each usable reply.
    """

    def __init__(
        self,
        grid: Grid,
        peers: Sequence[Peer],
        config: RunConfig,
        tracker: Tracker,
        class_names: Sequence[str] | None = None,
        lineage: Callable[[], Lineage] = Lineage,
    ) -> None:
        self._attendance = Attendance(grid, peers, config, tracker, problems_of)
        self._grid = grid
        self._config = config
        self._tracker = tracker
        self._class_names = tuple(class_names or ())
        self._other_order = {
            peer.client
            for peer in peers
            if self._class_names and peer.info.class_names != self._class_names
        }
        self._lineage = lineage
        self._salt = b""
        self._left_out: dict[str, Salted] = {}
        self._measured: tuple[str, ...] | None = None
        self._kept_state = KeptState(tracker)
        self._starts = Starts()
        self.bytes_down: Sequence[int] = ()
        self.bytes_up: Sequence[int] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """All clients, sorted."""
        return tuple(self._attendance.nodes)

    @property
    def infos(self) -> Mapping[str, NodeInfo]:
        """What each client last said of itself."""
        return self._attendance.infos

    def await_some(
        self,
        clients: Sequence[str],
        least: int,
        server_round: int,
        asked_to_end: Callable[[], object],
    ) -> int:
        """Wait for clients whose nodes are offline; see ``Attendance``."""
        return self._attendance.await_some(clients, least, server_round, asked_to_end)

    def begin(self, adapter: Adapter) -> None:
        """Take note of the adapter the run begins with, which need not be sent to all."""
        self._starts.begin(adapter)

    @property
    def ranks(self) -> dict[str, int]:
        """The LoRA rank of the clients whose node sets one."""
        return {key: info.rank for key, info in self.infos.items() if info.rank}

    def digests(self, clients: Sequence[str], salt: bytes) -> dict[str, SaltedImages | None]:
        """Return the salted digests of clients' images, None of those that keep them."""
        nodes = self._present(0, clients)

        def decode(reply: Message, client: str) -> SaltedImages | None:
            return decode_digests(reply, self.infos[client])

        return dict(self._ask(0, ask_digests(nodes, salt), nodes, decode, "digests: "))

    def leave_out(self, copies: Mapping[str, Salted], images: Mapping[str, SaltedImages],
                  salt: bytes) -> None:  # fmt: skip
        """Let clients train and calibrate without copies of what others hold out, from now on.

        Args:
            copies: digests of those, by client.
            images: what each of these holds.
            salt: of all digests.
        """
        self._salt = salt
        for client, left_out in copies.items():
            self._left_out[client] = left_out
            info, held = self.infos[client], images[client]
            train, calibration = (
                int(np.isin(kind, left_out).sum()) for kind in (held.train, held.calibration)
            )
            fewer = replace(
                info,
                num_train=info.num_train - train,
                num_calibration=info.num_calibration - calibration,
            )
            self._attendance.reduce(client, fewer)

    def train(self, plan: RoundPlan, strategy: Strategy) -> Iterator[ClientUpdate]:
        """Let the plan's clients train, and yield the usable updates as they come.

        A reply is decoded and checked once, against what that client was sent and what it said of
        itself. With ``max-client-weight``, a client with many images counts as one with fewer; see
        ``most_images``.
        """
        nodes = self._present(plan.round, plan.clients)
        share = self._config.max_client_weight
        sizes = {client: self.infos[client].num_train for client in plan.clients}
        most = most_images(sizes.values(), share) if share < 1 else None
        asked = TrainingRound(self._config, plan, strategy, sizes)
        self.bytes_down, self.bytes_up = asked.bytes_down, asked.bytes_up

        def decode(reply: Message, client: str) -> ClientUpdate:
            update = asked.update(reply, client)
            self._kept_state.note(plan.round, client, kept_in(reply))
            return update

        start = self._starts.known(nodes, self.infos)
        messages = asked.messages(nodes, self._lineage(), start)
        for client, update in self._ask(plan.round, messages, nodes, decode):
            self._tracker.log(
                "client",
                round=plan.round,
                client=client,
                **{**update.metrics, "num-examples": update.num_examples},
            )
            counted = update.num_examples if most is None else min(update.num_examples, most)
            yield replace(update, num_examples=counted)

    def evaluate(
        self,
        task: EvaluateTask,
        spec: StatsSpec,
        own_specs: Mapping[str, StatsSpec] | None = None,
        more: Callable[[Message, str], None] | None = None,
    ) -> dict[str, dict[str, CalibrationStats]]:
        """Let every node measure; return each part's sums by client, in the clients' order.

        Args:
            task: what is measured.
            spec: sizes of the sums.
            own_specs: of those of each part in ``task.own``, which only the nodes have that said
                so; see ``own_key``.
            more: takes what else is in a client's reply, or refuses it.
        """
        nodes = self._present(task.round)

        def decode(reply: Message, client: str) -> dict[str, CalibrationStats]:
            info = self.infos[client]
            images = {
                part: info.num_calibration if part == VALIDATION else info.num_test
                for part in task.parts
            }
            found = decode_measured(reply, images, spec)
            for part in info.parts:
                if part.name in task.own:
                    expected = {own_key(part.name): part.images}
                    found |= decode_measured(reply, expected, (own_specs or {})[part.name])
            if more is not None:
                more(reply, client)
            return found

        start = self._starts.known(nodes, self.infos)
        messages = encode_evaluate(replace(task, lineage=self._lineage()), nodes, start)
        answers = dict(self._ask(task.round, messages, nodes, decode, "evaluation: "))
        measured = tuple(key for key in self.keys if key in answers)
        if measured != self._measured and not task.calibrator:
            self._tracker.log(MEASURED, round=task.round, clients=measured)
            self._measured = measured
        return {
            part: {key: answers[key][part] for key in self.keys if part in answers.get(key, {})}
            for part in (*task.parts, *map(own_key, task.own))
        }

    def calibration_sums(
        self,
        task: CalibrateTask,
        expected: Mapping[str, Tensor],
        refusal: Callable[[dict[str, Tensor]], str] | None = None,
    ) -> dict[str, dict[str, Tensor]]:
        """Let every node sum what a calibrator asks for; in the clients' order.

        Args:
            task: what is asked for.
            expected: statistics of no images.
            refusal: returns why no images have such sums, or nothing; see
                ``Calibrator.check_sums``.
        """
        rounds = self._config.num_rounds
        nodes = self._present(rounds)

        def decode(reply: Message, client: str) -> dict[str, Tensor]:
            return decode_sums(reply, expected, self.infos[client].num_calibration, refusal)

        messages = encode_calibrate(task, nodes, self._starts.known(nodes, self.infos))
        answers = dict(self._ask(rounds, messages, nodes, decode, "calibration: "))
        return {key: answers[key] for key in self.keys if key in answers}

    def _present(self, server_round: int, clients: Sequence[str] | None = None) -> dict[int, str]:
        """Return the clients that are there, all or of some, by node."""
        self._attendance.look(server_round)
        keys = self.keys if clients is None else clients
        away, nodes = self._attendance.away, self._attendance.nodes
        return {nodes[client]: client for client in keys if client not in away}

    def _ask(
        self,
        server_round: int,
        messages: Iterable[Message],
        nodes: Mapping[int, str],
        decode: Callable[[Message, str], T],
        purpose: str = "",
    ) -> Iterator[tuple[str, T]]:
        def drop(client: str, reason: str) -> None:
            reason = purpose + reason
            self._tracker.log("drop", round=server_round, client=client, reason=reason)
            if client in self.infos:
                self._attendance.doubt(client)

        timeout = self._config.round_timeout
        other = {node for node, client in nodes.items() if client in self._other_order}
        messages = with_classes(messages, self._class_names, other)
        copies = {n: self._left_out[c] for n, c in nodes.items() if c in self._left_out}
        messages = with_left_out(messages, self._salt, copies)
        return collect(self._grid, messages, nodes, decode, drop, timeout)
