"""What a node does when it is asked: describe itself, train, measure, and sum for a calibrator."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.calibration.conformal.set_sums import SetSums
from fl2ora.calibration.losses._weighted_sum import WeightedSum
from fl2ora.calibration.losses.base import Loss
from fl2ora.calibration.metrics.table import chosen_metrics, spec_for
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.client_app.calibrator_sums import calibration_sums, evaluate_calibrated
from fl2ora.client_app.compressing import compressed
from fl2ora.client_app.evaluation import local_evaluate
from fl2ora.client_app.node import Node
from fl2ora.client_app.own_parts import describe_parts, evaluate_own
from fl2ora.client_app.state import ClientState
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.digests import run_digests
from fl2ora.clip_tuning.learning_rates import learning_rate_for
from fl2ora.clip_tuning.prediction import predict
from fl2ora.clip_tuning.schedules.base import Schedule
from fl2ora.experiment.blame import blaming_whoever
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.experiment.seeds import derive_seed
from fl2ora.experiment.spec import parse_sum
from fl2ora.federated_data.salted import SaltedImages, salted_images
from fl2ora.messages.calibrate import CalibrateTask
from fl2ora.messages.evaluate import PERSONAL, TEST, VALIDATION, EvaluateTask, Measured
from fl2ora.messages.hello import NodeInfo
from fl2ora.messages.train import TrainTask
from fl2ora.strategies.client_rule import ClientRule
from fl2ora.strategies.updates import ClientUpdate

STATE, RECEIVED, _PERSONAL = "client-rule", "received", "personal"
_HELD_BACK = "held-back"


def describe(node: Node) -> NodeInfo:
    """Return what the server is told before the first round.

    Raises:
        UserError: the node cannot take part.
    """
    data, config, federation = node.data, node.config, node.federation
    digests = run_digests(config.model, config.method, federation.class_names, federation.templates)
    node.check_views()
    return NodeInfo(
        node.key,
        source="own" if node.partition is None else "partition",
        partition=-1 if node.partition is None else node.partition,
        num_partitions=node.num_partitions,
        num_train=len(data.train),
        num_test=len(data.test),
        num_calibration=len(data.calibration),
        device=str(node.device),
        digests=tuple(digests.items()),
        class_names=federation.class_names,
        templates=federation.templates,
        rank=node.rank,
        parts=describe_parts(node),
        start=_start_digest(node),
    )


def _start_digest(node: Node) -> str:
    """Return a digest of the adapter a run begins with; empty where this node cannot make it yet.

    A run may have other classes than the node's own, which alone it knows when it is asked.
    """
    try:
        return node.classifier().initial_digest
    except UserError:
        return ""


def digests(node: Node, salt: bytes) -> SaltedImages | None:
    """Return salted digests of this node's images; None if it does not give them away."""
    if not node.share_digests:
        return None
    return salted_images(node.data, [part.images for part in node.own_parts], salt)


def train(node: Node, kept: ClientState, task: TrainTask) -> ClientUpdate:
    """Train the received adapter; what stays on the node is kept only if all went well."""
    classifier = node.classifier()
    classifier.restore(task.adapter)
    remembered = kept.load(task.round)
    plan = training_plan(node, task, remembered.get(STATE), remembered.get(RECEIVED))
    with (
        blaming_whoever(*plug_ins(plan), classifier),
        classifier.as_client(remembered.get(_PERSONAL, {})),
    ):
        update, state = local_train(
            classifier,
            node.data.train,
            plan,
            reference=node.reference,
            image_table=lambda: node.prefix_features("train"),
        )
        personal = classifier.export_personal()
    new = {_PERSONAL: personal, STATE: state}
    return finish(node, kept, task, plan, remembered, update, new)


def finish(
    node: Node,
    kept: ClientState,
    task: TrainTask,
    plan: TrainingPlan,
    remembered: Mapping[str, Adapter],
    update: ClientUpdate,
    new: Mapping[str, Adapter],
) -> ClientUpdate:
    """Keep what came of a round on the node, and return what is sent.

    Args:
        node: that trained.
        kept: where it keeps things.
        task: what it was asked to do.
        plan: how it trained.
        remembered: of earlier rounds, by name; what is not replaced is kept on.
        update: what training came to.
        new: what is to be remembered of it, by name.
    """
    held_back: Adapter = {}
    if task.compression:
        seed = derive_seed(node.config.seed, "compression", node.key, task.round)
        before = remembered.get(_HELD_BACK, {})
        update, held_back = compressed(update, task.adapter, task.compression, before, seed)
    received = task.adapter if "update_similarity" in plan.loss.needs else {}
    found = {**new, RECEIVED: received, _HELD_BACK: held_back}
    # Last, because a deployment keeps whatever was changed before an error.
    kept.keep(task.round, {**remembered, **{name: part for name, part in found.items() if part}})
    return update


def plug_ins(plan: TrainingPlan) -> list[object]:
    """Return what of a plan may be somebody's own code."""
    terms = plan.loss.pairs if isinstance(plan.loss, WeightedSum) else [(1.0, plan.loss)]
    return [*(loss for _, loss in terms), plan.rule, load(plan.schedule, Schedule)]


def evaluate(node: Node, kept: ClientState, task: EvaluateTask) -> Measured:
    """Return the sums of each part that is asked for; in round 0 those of zero-shot CLIP."""
    classifier = node.classifier() if task.round else node.zero_shot_classifier()
    classifier.restore(task.adapter)
    metrics = chosen_metrics(node.config.metrics)
    spec = spec_for(metrics, node.config.num_bins, len(node.federation.class_names))
    batch = node.config.eval_batch_size
    sets: SetSums | None = None

    def measured(part: str) -> CalibrationStats:
        nonlocal sets
        name = "calibration" if part == VALIDATION else "test"
        data = getattr(node.data, name)
        prefix = node.prefix_features(name, zero_shot=not task.round)
        if task.calibrator and part == TEST:
            stats, sets = evaluate_calibrated(
                load(task.calibrator, Calibrator),
                dict(task.parameters),
                classifier,
                node.zero_shot_classifier,
                data,
                spec,
                batch,
                prefix,
            )
            return stats
        return local_evaluate(classifier, data, spec, batch, prefix)

    found = {part: measured(part) for part in task.parts if part != PERSONAL}
    if PERSONAL in task.parts:
        remembered = kept.load(task.round + 1)
        if task.rule:
            state = remembered.get(STATE, {})
            classifier.restore(load(task.rule, ClientRule).personal(task.adapter, state))
        with classifier.as_client(remembered.get(_PERSONAL, {})):
            found[PERSONAL] = measured(PERSONAL)
    return Measured(found | evaluate_own(node, task), sets)


def calibrate(node: Node, task: CalibrateTask) -> dict[str, Tensor]:
    """Return what a calibrator asks for of this node's calibration images."""
    data, batch = node.data.calibration, node.config.eval_batch_size
    classifier = node.classifier()
    classifier.restore(task.adapter)
    return calibration_sums(
        load(task.calibrator, Calibrator),
        dict(task.parameters),
        predict(classifier, data.images, batch, node.prefix_features("calibration")),
        data.labels,
        lambda: predict(
            node.zero_shot_classifier(),
            data.images,
            batch,
            node.prefix_features("calibration", zero_shot=True),
        ),
    )


def build_loss(text: str) -> Loss:
    """Return the loss a run config's ``loss`` describes, such as ``cross_entropy + 10*dca``."""
    terms = [(weight, load(spec, Loss)) for weight, spec in parse_sum(text)]
    return terms[0][1] if len(terms) == 1 and terms[0][0] == 1 else WeightedSum(terms)


def training_plan(
    node: Node, task: TrainTask, state: Adapter | None = None, received: Adapter | None = None
) -> TrainingPlan:
    """Return how a node trains in a round.

    Args:
        node: whose configuration and seed.
        task: what it was asked to do.
        state: what its client rule kept, if anything.
        received: the adapter it got before, if it kept it.
    """
    config = node.config
    return TrainingPlan(
        loss=build_loss(config.loss),
        rule=load(task.rule, ClientRule) if task.rule else ClientRule(),
        epochs=config.local_epochs,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        learning_rate=learning_rate_for(
            config.method, config.model, config.optimiser, config.learning_rate
        ),
        optimiser=config.optimiser,
        schedule=config.schedule,
        gradient_clip=config.gradient_clip,
        augmentation=config.augmentation,
        precision=config.precision,
        deterministic=config.deterministic,
        cuda_graphs=config.cuda_graphs,
        round=task.round,
        num_rounds=task.num_rounds,
        seed=derive_seed(config.seed, "client", node.key, task.round),
        client=node.key,
        aux=task.aux,
        state=state or {},
        previous=received or {},
    )
