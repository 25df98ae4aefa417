"""What a strategy is: validate a run, plan its rounds, make one adapter of the clients' updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.factors import carries_residual
from fl2ora.experiment.errors import UserError
from fl2ora.strategies._local_sgd import check_optimiser
from fl2ora.strategies.updates import ClientUpdate


@dataclass(frozen=True)
class LocalWork:
    """What a client does in a round, by the run config and the number of images it said it has.

    Attributes:
        steps: of its optimiser.
        learning_rate: at its first step.
        momentum: of its optimiser; 0 if it has none.
    """

    steps: int
    learning_rate: float
    momentum: float = 0.0


@dataclass(frozen=True)
class RunInfo:
    """What a strategy is told once, before the first round.

    Attributes:
        clients: keys of all clients of the run, also of those not chosen in a round, in order.
        initial: the global adapter of round 0.
        ranks: LoRA rank of the clients whose node sets one.
        work: of a client in a round; None where it is not known, as under Flower's own loop.
        spent: what ``initial`` has cost any one client in privacy already; see ``Strategy.spent``.
    """

    clients: tuple[str, ...]
    initial: Adapter
    ranks: Mapping[str, int] = field(default_factory=dict)
    work: Callable[[str, int], LocalWork] | None = None
    spent: float = 0.0


@dataclass(frozen=True)
class RoundPlan:
    """What is sent to the clients of one round.

    Attributes:
        round: counted from 1.
        current: the global adapter.
        clients: keys of those asked.
        rule: spec of the ``ClientRule``; empty: plain local training.
        aux: further tensors for every client's rule.
        starts: what a client starts from; None: all start from ``current``.
    """

    round: int
    current: Adapter
    clients: tuple[str, ...]
    rule: str = ""
    aux: Adapter = field(default_factory=dict)
    starts: Callable[[str], Adapter] | None = None

    def start_of(self, client: str) -> Adapter:
        """Return the adapter that a client is sent; pure, and cheap to call again."""
        return self.current if self.starts is None else self.starts(client)


class Strategy(ABC):
    """How client updates become the next global adapter.

    A subclass implements ``aggregate``; one that sends more than the adapter, such as the spec of
    a client half, also ``plan``. What it remembers between rounds goes through ``state`` and
    ``load_state``.

    Attributes:
        needs_plain_sgd: the client half assumes SGD without momentum and with one learning rate
            within a round.
        needs_residual: it moves a residual that travels with the adapter; see ``lora_residual``.
        personal_rule: spec of the client half whose ``personal`` is each client's own model, which
            is then measured too; empty: there is none.
        least_updates: the fewest usable updates that it can aggregate; with fewer, the round loop
            keeps the adapter.
        allows_feedback: what ``Compression`` leaves out of a client's change may be added to its
            next one; not where what a value of the adapter means differs from round to round, or
            where a client's change is anew all that sets it apart.
        run: set by ``begin``.
    """

    needs_plain_sgd: bool = False
    needs_residual: bool = False
    personal_rule: str = ""
    least_updates: int = 1
    allows_feedback: bool = True
    run: RunInfo

    def _work_of(self, plan: RoundPlan, client: str) -> LocalWork | None:
        """Return what a client does in a round, where that is known."""
        run: RunInfo | None = getattr(self, "run", None)
        return None if run is None or run.work is None else run.work(client, plan.round)

    @property
    def spec_name(self) -> str:
        """The name a run config calls this strategy by, if it is one of the files here."""
        return type(self).__module__.rpartition(".")[2]

    def accepts(self, optimiser: str, schedule: str, gradient_clip: float = 0.0) -> None:
        """Refuse what clients train with, if the client half does not fit; before any training.

        Args:
            optimiser: spec, such as ``sgd(momentum=0.9)``.
            schedule: spec of the learning rate's schedule, such as ``constant``.
            gradient_clip: largest norm of a step's gradient; 0: no limit.

        Raises:
            UserError: names the key, what was expected and what was found.
        """
        if self.needs_plain_sgd:
            check_optimiser(self.spec_name, optimiser, schedule, momentum=False)

    def begin(self, run: RunInfo) -> None:
        """Look at the run and keep it as ``self.run``; called once, before the first round.

        Raises:
            UserError: the strategy cannot work with this adapter or these clients; names what it
                needs and what was found.
        """
        if carries_residual(run.initial) and not self.needs_residual:
            raise UserError(
                f"strategy {self.spec_name!r} does not move the residual of method = "
                f"'lora_residual(...)': expected method = 'lora(...)', or one of the strategies "
                f"fedex_lora and flora"
            )
        if len(run.clients) < self.least_updates:
            raise UserError(
                f"strategy {self.spec_name!r} needs the updates of at least {self.least_updates} "
                f"clients, found a run of {len(run.clients)}"
            )
        self.run = run

    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        """Return what the clients of a round are sent.

        Args:
            server_round: counted from 1.
            current: the global adapter.
            clients: keys of those chosen.

        Raises:
            UserError: fewer clients are asked than must answer.
        """
        if len(clients) < self.least_updates:
            raise UserError(
                f"strategy {self.spec_name!r} needs the updates of at least {self.least_updates} "
                f"clients, found {len(clients)} asked in round {server_round}: raise "
                f"fraction-train or min-train-clients"
            )
        return RoundPlan(server_round, current, tuple(clients))

    def check_update(self, plan: RoundPlan, update: ClientUpdate) -> None:  # noqa: B027
        """Refuse an update this strategy cannot use; its names, shapes and values are sound.

        Raises:
            ValueError: the reason; the update is dropped and the run goes on.
        """

    @abstractmethod
    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Return the next global adapter.

        Args:
            plan: what the clients were sent.
            updates: at least one usable update, in the order of arrival; a stream, to be read once.
        """

    def metrics(self) -> dict[str, float]:
        """Return further metrics of the round just aggregated: finite numbers for the record."""
        return {}

    def spent(self) -> float | None:
        """Return what privacy the adapters released so far have cost the client that paid most.

        It is mu of the one Gaussian release that costs as much, of a client's change against none
        (Dong et al. 2019, arXiv 1905.02383); infinite without noise. None: nothing is promised.
        """
        return None

    def state(self) -> Adapter:
        """Return what the strategy remembers between rounds."""
        return {}

    def unsaved(self) -> tuple[str, ...]:
        """Return names of what it remembers beside ``state``, which a resume would lose."""
        return ()

    def lost_rounds(self, asked: Sequence[Sequence[str]]) -> None:  # noqa: B027
        """Take note of rounds that were begun and then lost when the server ended.

        They are run again, but nodes have seen their adapters. Called after ``load_state``.

        Args:
            asked: the clients of each.
        """

    def load_state(self, state: Adapter) -> None:
        """Take up what ``state`` returned.

        Raises:
            UserError: it is another strategy's.
        """
        if state:
            raise UserError(
                f"strategy {self.spec_name!r} remembers nothing between rounds, found the state of "
                f"another: {', '.join(sorted(state)[:3])}"
            )
