"""Measuring what a node with data of its own holds out by the run's protocol."""

from __future__ import annotations

from functools import lru_cache

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.calibration.metrics.table import chosen_metrics, spec_for
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.client_app.calibrator_sums import TextFeatures, evaluate_calibrated, text_features
from fl2ora.client_app.evaluation import local_evaluate
from fl2ora.client_app.node import Node
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.other_classes import check_free_of_classes, for_other_classes
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.label_space import relabelled
from fl2ora.federated_data.protocols.base import HeldOutPart
from fl2ora.messages.evaluate import EvaluateTask
from fl2ora.messages.own_parts import PartInfo, own_key


def describe_parts(node: Node) -> tuple[PartInfo, ...]:
    """Return what the server is told of a node's own held-out parts; nothing of a share.

    Raises:
        UserError: a part has other classes than are trained on, and the method serves no others.
    """
    parts = node.own_parts
    others = [part for part in parts if not _of_trained_classes(node, part)]
    if others:
        config = node.config
        check_free_of_classes(node.classifier(), config.model, config.method, config.seed)
    return tuple(
        PartInfo(
            part.name,
            len(part.images),
            part.class_names if part in others else (),
            part.templates if part in others else (),
            part.lacking,
        )
        for part in parts
    )


def evaluate_own(node: Node, task: EvaluateTask) -> dict[str, CalibrationStats]:
    """Return the sums of each own part that is asked for and that the node has.

    Args:
        node: one with data of its own, or with a share, which has no such part.
        task: what is asked for; its adapter is restored wherever it is needed.
    """
    return {
        own_key(part.name): _measured(node, task, part)
        for part in node.own_parts
        if part.name in task.own
    }


def _measured(node: Node, task: EvaluateTask, part: HeldOutPart) -> CalibrationStats:
    """Return one part's sums, after the run's calibrator where the task names one."""
    names = task.own[part.name] or node.federation.class_names
    images = relabelled(part.images, part.class_names, names)
    config = node.config
    spec = spec_for(chosen_metrics(config.metrics), config.num_bins, len(names))
    tuned, frozen = node.classifier() if task.round else node.zero_shot_classifier(), None
    method = config.method if task.round else "zero_shot"
    tuned_on: TextFeatures | None = None
    tuned.restore(task.adapter)
    if task.own[part.name]:
        calibrator = load(task.calibrator, Calibrator) if task.calibrator else None
        if calibrator is not None and calibrator.needs:
            tuned_on = text_features(tuned, node.zero_shot_classifier())
            frozen = _for(node.zero_shot_classifier(), node, "zero_shot", names, part.templates)
        tuned = _for(tuned, node, method, names, part.templates)
        tuned.restore(task.adapter)
    prefix = node.features_of(tuned, images, f"own {part.name}")
    batch = config.eval_batch_size
    if not task.calibrator:
        return local_evaluate(tuned, images, spec, batch, prefix)
    return evaluate_calibrated(
        load(task.calibrator, Calibrator),
        dict(task.parameters),
        tuned,
        lambda: frozen or node.zero_shot_classifier(),
        images,
        spec,
        batch,
        prefix,
        tuned_on,
    )[0]


def _for(
    classifier: ClipClassifier,
    node: Node,
    method: str,
    names: tuple[str, ...],
    templates: tuple[str, ...],
) -> ClipClassifier:
    config = node.config
    return _other(classifier, config.model, method, names, templates, config.seed)


# A process keeps the last few: a tuned and an untuned one of two parts.
_other = lru_cache(maxsize=4)(for_other_classes)


def _of_trained_classes(node: Node, part: HeldOutPart) -> bool:
    federation = node.federation
    trained = federation.class_names, federation.templates
    return (part.class_names, part.templates) == trained
