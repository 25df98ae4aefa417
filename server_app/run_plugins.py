"""Everything a run config names, constructed once; all mistakes are told together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fl2ora.calibration.calibrators.base import BASE_CLASSES, KNOWN_IN_A_RUN, Calibrator
from fl2ora.calibration.losses.base import Loss
from fl2ora.calibration.metrics.table import chosen_metrics
from fl2ora.clip_tuning.learning_rates import learning_rate_for
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.model_names import check_model
from fl2ora.clip_tuning.optimisers.base import load_optimiser
from fl2ora.clip_tuning.schedules.base import Progress, Schedule, checked_factor
from fl2ora.experiment.blame import blaming
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import ConfigError, UserError, problems_of, shown
from fl2ora.experiment.plugins import find, load
from fl2ora.experiment.spec import Spec, parse_list, parse_spec, parse_sum
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.partition.base import Partitioner
from fl2ora.federated_data.protocols.base import Protocol
from fl2ora.federated_data.shares import NO_DATA
from fl2ora.messages.evaluate import VALIDATION
from fl2ora.server_app.callbacks.averaging import Averaging
from fl2ora.server_app.callbacks.base import Callback
from fl2ora.server_app.compressing import build_compression
from fl2ora.server_app.flowers_in_ours import load_flowers
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.client_rule import ClientRule

DEFAULT_CALLBACKS = ("lora_diagnostics", "logit_scale", "traffic", "plots", "summary")


@dataclass(frozen=True)
class RunPlugins:
    """What a run is made of, besides its data.

    Attributes:
        method: what is tuned.
        strategy: ours, or Flower's in our terms.
        callbacks: those of the run config, then what the method brings.
        calibrator: fitted after the last round, or None.
    """

    method: TuningMethod
    strategy: Strategy
    callbacks: Sequence[Callback]
    calibrator: Calibrator | None


def build_plugins(config: RunConfig, problems: Iterable[str] = ()) -> RunPlugins:
    """Construct everything the run config names.

    Args:
        config: of the run.
        problems: mistakes found before, to be told together with those found here.

    Raises:
        ConfigError: whatever cannot be constructed, and what contradicts itself, all at once.
    """
    built: dict[str, Any] = {}

    def build(key: str, make: Callable[[], object]) -> Callable[[], None]:
        return lambda: built.update({key: make()})

    checks = {
        "model": lambda: check_model(config.model),
        "dataset": build("dataset", lambda: _dataset_for(config)),
        "partition": build("partition", lambda: load(config.partition, Partitioner)),
        "protocol": build("protocol", lambda: load(config.protocol, Protocol)),
        "loss": lambda: _check_loss(config),
        "metrics": lambda: _check_metrics(config.metrics),
        "optimiser": lambda: load_optimiser(config.optimiser),
        "schedule": lambda: _check_schedule(config),
        "method": build("method", lambda: _method_for(config)),
        "strategy": build("strategy", lambda: build_strategy(config)),
        "compression": lambda: build_compression(config.compression, built.get("strategy")),
        "callbacks": build("callbacks", lambda: build_callbacks(config.callbacks)),
        "calibrator": build("calibrator", lambda: _calibrator_for(config)),
    }
    found = [*problems, *problems_of(checks)]
    if found:
        raise ConfigError(found)
    with blaming(built["method"]):
        weights = built["method"].round_weights(config.num_rounds)
        brought = [] if weights is None else [Averaging(weights.tolist())]
    callbacks = [*built["callbacks"], *brought]
    return RunPlugins(built["method"], built["strategy"], callbacks, built["calibrator"])


def build_strategy(config: RunConfig) -> Strategy:
    """Return one of our strategies by name, or any Flower strategy as ``module:Class(...)``.

    Raises:
        UserError: unknown name, no strategy, arguments that do not fit, or clients whose optimiser
            it cannot work with.
    """
    spec = parse_spec(config.strategy)
    if spec.module is not None and issubclass(find(spec, object), FlowerStrategy):
        return load_flowers(config.strategy)
    strategy = load(spec, Strategy)
    with blaming(strategy):
        if strategy.personal_rule:
            load(strategy.personal_rule, ClientRule)
        strategy.accepts(config.optimiser, config.schedule, config.gradient_clip)
    return strategy


def build_callbacks(text: str) -> list[Callback]:
    """Return the callbacks that a sum of specs names; ``default`` stands for several.

    Raises:
        UserError: unknown name, no callback, arguments that do not fit, or ``parts`` that no run
            measures.
    """
    found: list[str | Spec] = []
    for spec in parse_list(text):
        groups = {"default": DEFAULT_CALLBACKS, "none": ()}
        found += groups.get(spec.name, [spec]) if spec.module is None else [spec]
    callbacks = [load(spec, Callback) for spec in found]
    for callback in callbacks:
        with blaming(callback):
            parts = callback.parts
        if isinstance(parts, str) or not {VALIDATION}.issuperset(parts):
            kind = type(callback)
            raise UserError(
                f"{kind.__module__}:{kind.__name__}: parts: expected frozenset() or "
                f"frozenset({{{VALIDATION!r}}}), found {shown(parts)}"
            )
    return callbacks


def build_run_calibrator(text: str, *, new_classes: bool = False) -> Calibrator | None:
    """Return the calibrator a run config names; None for ``none``.

    Args:
        text: spec.
        new_classes: the run also measures classes that it is not tuned on.

    Raises:
        UserError: unknown name, no calibrator, or arguments that do not fit; or one that reads what
            the run does not know.
    """
    if text == "none":
        return None
    calibrator = load(text, Calibrator)
    with blaming(calibrator):
        needs = frozenset(calibrator.needs)
    if unknown := sorted(needs - KNOWN_IN_A_RUN - BASE_CLASSES):
        raise UserError(
            f"expected one that reads what a run knows, found {text!r}, which needs "
            f"{', '.join(unknown)}"
        )
    if needs & BASE_CLASSES and not new_classes:
        raise UserError(
            f"{text!r} corrects classes that are not trained on, and a run with this protocol has "
            "none: expected another calibrator, or a protocol such as base_to_new"
        )
    return calibrator


def _dataset_for(config: RunConfig) -> Dataset | None:
    return None if config.dataset == NO_DATA else load(config.dataset, Dataset)


def _calibrator_for(config: RunConfig) -> Calibrator | None:
    calibrator = build_run_calibrator(config.calibrator, new_classes=_has_new_classes(config))
    if calibrator is not None and not config.calibration_fraction:
        raise UserError(
            f"{config.calibrator!r} is fitted to the images that calibration-fraction holds out: "
            "expected a fraction above 0, found 0"
        )
    return calibrator


def _has_new_classes(config: RunConfig) -> bool:
    """Return whether the run measures new classes; False where its protocol cannot be built.

    Where the server has no data, other datasets than the nodes' own are measured by nobody.
    """
    try:
        protocol = load(config.protocol, Protocol)
        return protocol.new_classes and not (config.dataset == NO_DATA and protocol.others)
    except UserError:  # is told under its own key
        return False


def _check_metrics(text: str) -> None:
    try:
        chosen_metrics(text)
    except ValueError as error:
        raise UserError(str(error)) from error


def _method_for(config: RunConfig) -> TuningMethod:
    method = load(config.method, TuningMethod)
    learning_rate_for(config.method, config.model, config.optimiser, config.learning_rate)
    return method


def _check_schedule(config: RunConfig) -> None:
    """Ask for the factor of each round's first step, so that a wrong one costs no training."""
    schedule = load(config.schedule, Schedule)
    with blaming(schedule):
        for number in range(1, config.num_rounds + 1):
            checked_factor(schedule, Progress(number, config.num_rounds))


def _check_loss(config: RunConfig) -> None:
    text = config.loss
    terms = [load(spec, Loss) for _, spec in parse_sum(text)]
    if all(term.is_penalty for term in terms):
        raise UserError(
            f"{text!r} holds penalties alone, which say nothing of the labels; "
            f"expected a loss with them, such as cross_entropy + {text}"
        )
    if config.clients_per_batch > 1 and any("encode_texts" in term.needs for term in terms):
        raise UserError(
            f"{text!r} encodes texts beside the classes: expected another loss, or "
            f"clients-per-batch = 1, found {config.clients_per_batch}"
        )
