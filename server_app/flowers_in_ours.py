"""Flower's strategies in our round loop: ``flwr.serverapp.strategy:FedAdam(eta=0.01)``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.exception import AppExitException
from flwr.serverapp.strategy import FedAvg as FlowersFedAvg
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fl2ora.clip_tuning.adapter import Adapter, as_adapter, check_like
from fl2ora.experiment.errors import UserError, listed
from fl2ora.experiment.plugins import find, load
from fl2ora.experiment.spec import parse_spec
from fl2ora.messages.records import ARRAYS, EXAMPLES, METRICS, ROUND, TRAIN
from fl2ora.strategies.base import RoundPlan, RunInfo, Strategy
from fl2ora.strategies.updates import RESERVED_METRICS, ClientUpdate, in_order

_MU = "proximal-mu"
# Sampling and waiting are the round loop's.
_IN_OUR_LOOP = {
    "fraction_train": 1.0, "fraction_evaluate": 0.0, "min_train_nodes": 1, "min_evaluate_nodes": 0,
    "min_available_nodes": 1,
}  # fmt: skip
_MOST_LOOKS = 10  # at the nodes, in one round: who looks more often waits for some to join


def load_flowers(text: str) -> FlowersInOurs:
    """Return the Flower strategy that a spec names, ready for our loop.

    How many nodes it waits for and which share of them it asks are set to one and all, unless the
    spec or the class says otherwise.

    Raises:
        UserError: unknown class, no strategy, arguments that do not fit, or a strategy around
            another one.
    """
    spec = parse_spec(text)
    cls = find(spec, FlowerStrategy)
    if "strategy" in inspect.signature(cls).parameters:
        raise UserError(
            f"strategy: {spec.name} wraps another strategy object, which no spec can hold: "
            f"expected a class that makes the inner one itself, such as my_module:MyWrapped()"
        )
    strategy = load(spec, FlowerStrategy)
    given = inspect.signature(cls).bind(*spec.args, **spec.kwargs).arguments
    usual = inspect.signature(FlowersFedAvg).parameters
    for name, value in _IN_OUR_LOOP.items():
        if name not in given and getattr(strategy, name, None) == usual[name].default:
            setattr(strategy, name, value)
    return FlowersInOurs(strategy)


class FlowersInOurs(Strategy):
    """Presents a Flower strategy as one of ours.

    It sees the round's clients as nodes ``1, 2, ...``, and of their answers, which were checked
    before, the adapter, the number of examples and the metrics that all of them report, in the
    order of the client keys. What it remembers is its own: nothing of it can be saved, and
    ``unsaved`` names it.

    Args:
        strategy: Flower's, or a subclass; it must ask all nodes it is shown for the same.
    """

    def __init__(self, strategy: FlowerStrategy) -> None:
        self.strategy = strategy
        self._metrics: dict[str, float] = {}
        self._at_first: dict[str, object] = {}

    @property
    def spec_name(self) -> str:
        """The name of Flower's class."""
        return type(self.strategy).__name__

    def begin(self, run: RunInfo) -> None:
        """Refuse a strategy that would wait for more nodes than there are clients."""
        super().begin(run)
        self._refuse_waiting(len(run.clients), "clients in this run")
        self._at_first = {**vars(self.strategy)}

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Ask Flower's strategy what it would send; ``proximal-mu`` becomes the rule ``fedprox``.

        Raises:
            UserError: it waits for nodes, does not ask all clients for the same, or sends settings
                that no client of ours acts on.
        """
        plan = super().plan(server_round, current, clients)
        self._refuse_waiting(len(clients), "clients chosen in a round")
        nodes: Any = _Nodes(self.spec_name, len(clients))
        made = self._calling(
            self.strategy.configure_train,
            server_round,
            ArrayRecord(as_adapter(current)),
            ConfigRecord({}),
            nodes,
        )
        messages = list(made)
        self._refuse_choice([message.metadata.dst_node_id for message in messages], len(clients))
        content = messages[0].content
        if any(message.content != content for message in messages[1:]):
            raise UserError(f"strategy {self.spec_name!r} sends clients different things")
        if len(content.array_records) != 1:
            raise UserError(
                f"strategy {self.spec_name!r}: expected one ArrayRecord in a train message, found "
                f"{listed(map(str, content.array_records))}"
            )
        (arrays,) = content.array_records.values()
        sent = as_adapter(arrays.to_torch_state_dict())
        check_like(sent, current, f"strategy {self.spec_name!r}: sent adapter")
        return RoundPlan(server_round, sent, plan.clients, rule=self._rule(content))

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Show Flower's strategy the answers; the adapter is kept where it makes none of them.

        Raises:
            UserError: it cannot use them; the message is Flower's.
        """
        collected = in_order(updates)
        shared = set.intersection(*(set(update.metrics) for update in collected))
        replies = [
            self._reply(node, update, sorted(shared - {EXAMPLES}))
            for node, update in enumerate(collected, start=1)
        ]
        arrays, metrics = self._calling(self.strategy.aggregate_train, plan.round, replies)
        self._metrics = _finite(metrics or {})
        if arrays is None:
            return dict(plan.current)
        return as_adapter(arrays.to_torch_state_dict())  # which the round loop checks

    def metrics(self) -> dict[str, float]:
        """Return what Flower's strategy made of the clients' metrics."""
        return self._metrics

    def unsaved(self) -> tuple[str, ...]:
        """Return the attributes of Flower's strategy that have been set since the run began."""
        now = vars(self.strategy)
        return tuple(sorted(n for n in now if now[n] is not self._at_first.get(n)))

    def _reply(self, node: int, update: ClientUpdate, names: Sequence[str]) -> Message:
        """Return an update as a reply that holds nothing else."""
        key = str(getattr(self.strategy, "arrayrecord_key", ARRAYS))
        metrics = {name: float(update.metrics[name]) for name in names}
        content = RecordDict({key: ArrayRecord(as_adapter(update.adapter))})
        content[METRICS] = MetricRecord({**metrics, EXAMPLES: update.num_examples})
        question = Message(RecordDict(), dst_node_id=node, message_type=TRAIN)
        return Message(content, reply_to=question)

    def _rule(self, content: RecordDict) -> str:
        settings = {k: v for record in content.config_records.values() for k, v in record.items()}
        strange = sorted(settings.keys() - {ROUND, _MU})
        if strange:
            raise UserError(
                f"strategy {self.spec_name!r} sends clients the settings {listed(strange)}, which "
                f"fl2ora's clients do not act on"
            )
        mu = settings.get(_MU, 0.0)
        return f"fedprox(mu={mu!r})" if mu else ""

    def _refuse_waiting(self, there: int, what: str) -> None:
        for name in ("min_available_nodes", "min_train_nodes"):
            wanted = getattr(self.strategy, name, 0)
            if wanted > there:
                raise UserError(
                    f"strategy {self.spec_name!r} would wait for ever: {name}: expected at most "
                    f"{there}, the {what}, found {wanted}"
                )

    def _refuse_choice(self, asked: Sequence[int], there: int) -> None:
        if sorted(asked) != list(range(1, there + 1)):
            raise UserError(
                f"strategy {self.spec_name!r} asks {len(asked)} of the {there} clients chosen for "
                f"the round: expected all, since sampling is the run config's fraction-train"
            )

    def _calling(self, method: Any, *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except AppExitException as error:
            raise UserError(f"strategy {self.spec_name!r}: {error}") from error


class _Nodes:
    """What a Flower strategy sees of the grid: so many nodes, and nothing to send with."""

    def __init__(self, strategy: str, count: int) -> None:
        self._strategy = strategy
        self._nodes = list(range(1, count + 1))
        self._looks = 0

    def get_node_ids(self) -> Iterable[int]:
        self._looks += 1
        if self._looks > _MOST_LOOKS:
            raise UserError(
                f"strategy {self._strategy!r} would wait for ever: it wants more nodes than the "
                f"{len(self._nodes)} clients chosen for the round"
            )
        return list(self._nodes)

    def __getattr__(self, name: str) -> Any:
        raise UserError(
            f"strategy {self._strategy!r} uses grid.{name}: expected one that looks at node ids "
            f"only, since the round loop sends the messages"
        )


def _finite(metrics: Any) -> dict[str, float]:
    return {
        str(name): float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and math.isfinite(value) and name not in RESERVED_METRICS
    }
