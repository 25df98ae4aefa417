"""Constructing what a run config names, and checking all of it at once before anything runs."""

from __future__ import annotations

from collections.abc import Callable

from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.calibration.losses.base import Loss
from fl2ora.calibration.metrics.table import chosen_metrics
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import ConfigError, UserError
from fl2ora.experiment.plugins import load
from fl2ora.experiment.spec import parse_spec, parse_sum
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.partition.base import Partitioner
from fl2ora.federated_data.protocols.base import Protocol
from fl2ora.strategies.base import Strategy

# Flower's strategies wait for two nodes unless told otherwise; sampling is the round loop's.
_FLOWER_DEFAULTS = {
    "fraction_evaluate": 0.0, "min_train_nodes": 1, "min_evaluate_nodes": 0,
    "min_available_nodes": 1,
}  # fmt: skip


def build_strategy(text: str) -> FlowerStrategy:
    """Return one of our strategies by name, or any Flower strategy as ``module:Class(...)``.

    Raises:
        UserError: unknown name, no strategy, or arguments that do not fit.
    """
    spec = parse_spec(text)
    if spec.module is None:
        return load(spec, Strategy)
    strategy = load(spec, FlowerStrategy)
    for name, value in _FLOWER_DEFAULTS.items():
        if hasattr(strategy, name) and name not in spec.kwargs:
            setattr(strategy, name, value)
    return strategy


def _check_loss(text: str) -> None:
    terms = [load(spec, Loss) for _, spec in parse_sum(text)]
    if all(term.is_penalty for term in terms):
        raise UserError(
            f"{text!r} holds penalties alone, which say nothing of the labels; "
            f"expected a loss with them, such as cross_entropy + {text}"
        )


def _strategy_for(config: RunConfig) -> FlowerStrategy:
    strategy = build_strategy(config.strategy)
    if config.momentum and isinstance(strategy, Strategy) and strategy.needs_plain_sgd:
        raise UserError(
            f"{strategy.spec_name} needs clients without momentum: set momentum=0.0, "
            f"found {config.momentum:g}"
        )
    return strategy


def build_run_calibrator(text: str) -> Calibrator | None:
    """Return the calibrator a run config names; None for ``none``.

    Raises:
        UserError: unknown name, no calibrator, or arguments that do not fit.
    """
    return None if text == "none" else load(text, Calibrator)


def _check_metrics(text: str) -> None:
    try:
        chosen_metrics(text)
    except ValueError as error:
        raise UserError(str(error)) from error


def check_views(config: RunConfig, classifier: ClipClassifier) -> None:
    """Refuse fixed views where nothing of them could be kept.

    Raises:
        UserError: the method tunes the image tower from its first block on, or the loss mixes
            images.
    """
    if not config.fixed_views:
        return
    terms = [load(spec, Loss) for _, spec in parse_sum(config.loss)]
    for key, found, fits in (
        ("method", config.method, classifier.frozen_images is not None),
        ("loss", config.loss, not any(term.mixes for term in terms)),
    ):
        if not fits:
            raise UserError(
                f"fixed-views: expected 0 with {key} = {found!r}, which changes what would be "
                f"kept of a view, found {config.fixed_views}"
            )


def check_plugins(config: RunConfig) -> None:
    """Construct everything the run config names, and throw it away.

    Raises:
        ConfigError: whatever cannot be constructed, all at once.
    """
    checks: dict[str, Callable[[], object]] = {
        "dataset": lambda: load(config.dataset, Dataset),
        "partition": lambda: load(config.partition, Partitioner),
        "protocol": lambda: load(config.protocol, Protocol),
        "method": lambda: load(config.method, TuningMethod),
        "loss": lambda: _check_loss(config.loss),
        "strategy": lambda: _strategy_for(config),
        "calibrator": lambda: build_run_calibrator(config.calibrator),
        "metrics": lambda: _check_metrics(config.metrics),
    }
    problems = []
    for key, check in checks.items():
        try:
            check()
        except UserError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise ConfigError(problems)
