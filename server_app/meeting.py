"""Before a run begins: load the server's data and meet the nodes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from flwr.serverapp import Grid

from fl2ora.clip_tuning.build import resolve_device, tuned_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import image_fit
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.federated_data.shares import NO_DATA, check_division, load_federation
from fl2ora.messages.hello import NodeInfo
from fl2ora.messages.lineage import Lineage
from fl2ora.reporting.events import Tracker
from fl2ora.reporting.sources import NODES_TEST, part_source
from fl2ora.server_app.clients import Clients
from fl2ora.server_app.compressing import check_compressed
from fl2ora.server_app.fitness import check_engine, check_fitness
from fl2ora.server_app.handshake import shake_hands
from fl2ora.server_app.held_out import shares_of
from fl2ora.server_app.leaks_between import compare_nodes
from fl2ora.server_app.part_models import check_part_classes, classes_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Met:
    """What a run has to work with.

    Attributes:
        clients: the nodes.
        federation: the server's data, in the classes of the run.
        classifier: of these classes, on its device, with the run's initial adapter.
    """

    clients: Clients
    federation: Federation
    classifier: ClipClassifier


def meet(grid: Grid, config: RunConfig, tracker: Tracker, lineage: Callable[[], Lineage]) -> Met:
    """Load the server's data, if it has any, and meet the nodes.

    Args:
        grid: where the nodes are.
        config: of the run.
        tracker: told of the data, the nodes and copies across held-out parts.
        lineage: see ``Clients``.

    Raises:
        UserError: a mistake in the data or the nodes, or settings that do not fit them.
    """
    check_engine(config, getattr(grid, "clients_per_batch", 1))
    data, classifier = None, None
    if config.dataset != NO_DATA:
        data = _loaded(config, tracker)
        classifier = _classifier_for(config, data)  # refused before anyone is waited for
        check_part_classes(classifier, config, data.parts)
    peers, federation = shake_hands(grid, config, data)
    clients = Clients(grid, peers, config, tracker, federation.class_names, lineage)
    tracker.log("nodes", nodes=[_described(info) for info in clients.infos.values()])
    _say_what_lacks(clients)
    if config.min_train_clients > len(clients.keys):
        raise UserError(
            f"min-train-clients: expected at most {len(clients.keys)}, the clients of this run, "
            f"found {config.min_train_clients}"
        )
    if federation.repeated:
        shares = list(shares_of(config, federation, clients.infos).values())
        for note in check_division(federation, shares, config.on_leak):
            tracker.log("leak", note=note)
            logger.warning("Data: %s", note)
    for note in compare_nodes(clients, config, federation):
        tracker.log("leak", note=note)
        logger.warning("Data: %s", note)
    wanted = federation.class_names, federation.templates
    if classifier is None or classes_of(classifier) != wanted:
        classifier = _classifier_for(config, federation)
    return Met(clients, federation, classifier)


def _loaded(config: RunConfig, tracker: Tracker) -> Federation:
    fit = image_fit(config.model, config.augmentation)
    data = load_federation(config.dataset, config.protocol, fit, config.on_leak)
    parts = {part_source(part.name): len(part.images) for part in data.parts}
    held_out = {"test": sum(parts.values()), "parts": parts}
    tracker.log("data", train=len(data.train), **held_out, notes=data.notes)
    for note in data.notes:
        logger.warning("Data: %s", note)
    return data


def _classifier_for(config: RunConfig, federation: Federation) -> ClipClassifier:
    classifier = tuned_classifier(
        config.model,
        config.method,
        federation.class_names,
        federation.templates,
        config.seed,
        resolve_device(config.device),
        fresh=True,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    check_fitness(config, classifier)
    check_compressed(config, classifier)
    return classifier


def _say_what_lacks(clients: Clients) -> None:
    for info in clients.infos.values():
        for part in info.parts:
            if part.lacking:
                source = part_source(part.name, NODES_TEST)
                logger.warning(
                    "Data: client %s: none for %s: %s", info.client, source, part.lacking
                )


def _described(info: NodeInfo) -> dict[str, object]:
    parts = {part_source(part.name, NODES_TEST): part.images for part in info.parts}
    return {
        "client": info.client,
        "source": info.source,
        "train": info.num_train,
        "test": info.num_test,
        "device": info.device,
        **({"parts": parts} if parts else {}),
    }
