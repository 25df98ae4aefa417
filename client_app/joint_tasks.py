"""What several nodes of one process do when they are asked to train at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, ParamSpec, TypeVar

from fl2ora.client_app.joint_training import Result, train_jointly
from fl2ora.client_app.local_round import LocalRound
from fl2ora.client_app.node import Node
from fl2ora.client_app.state import ClientState
from fl2ora.client_app.tasks import RECEIVED, STATE, finish, plug_ins, training_plan
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.own_copy import own_copy
from fl2ora.experiment.blame import blaming_whoever
from fl2ora.messages.train import TrainTask
from fl2ora.strategies.updates import ClientUpdate

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Client:
    """One node that trains beside others.

    Attributes:
        node: of the others' run.
        kept: what it keeps between rounds.
        task: what it was asked to do.
    """

    node: Node
    kept: ClientState
    task: TrainTask


def train(clients: Sequence[Client]) -> list[ClientUpdate | Exception]:
    """Do what ``tasks.train`` does for each of some clients, with their batches computed as one.

    Args:
        clients: at least one, on one device; ``check_joint`` has passed their method.

    Returns:
        For each its update, or what was raised while it was trained.
    """
    classifier = clients[0].node.classifier()
    begun = [_or_error(_begin, client, classifier) for client in clients]
    rounds = [each.round for each in begun if not isinstance(each, Exception)]
    results = iter(train_jointly(classifier, rounds) if rounds else [])
    return [
        each
        if isinstance(each, Exception)
        else _or_error(_finish, client, classifier, each, next(results))
        for client, each in zip(clients, begun, strict=True)
    ]


def _or_error(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """Return what a function returns or raises: one client's mistake is no other's."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return error


class _Begun(NamedTuple):
    """A client's round, and what it remembers of those before."""

    round: LocalRound
    remembered: Mapping[str, Adapter]


def _begin(client: Client, classifier: ClipClassifier) -> _Begun:
    node, task = client.node, client.task
    own = own_copy(classifier)
    own.restore(task.adapter)
    remembered = client.kept.load(task.round)
    plan = training_plan(node, task, remembered.get(STATE), remembered.get(RECEIVED))
    with blaming_whoever(*plug_ins(plan), classifier):
        local = LocalRound(
            own,
            node.data.train,
            plan,
            reference=node.reference,
            image_table=lambda: node.prefix_features("train"),
        )
    return _Begun(local, remembered)


def _finish(
    client: Client, classifier: ClipClassifier, begun: _Begun, result: Result
) -> ClientUpdate:
    plan = begun.round.plan
    with blaming_whoever(*plug_ins(plan), classifier):
        if isinstance(result, Exception):
            raise result
    update, state = result
    node, kept, task = client.node, client.kept, client.task
    return finish(node, kept, task, plan, begun.remembered, update, {STATE: state})
