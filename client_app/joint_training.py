"""Local training of several clients at once: their batches are one on the way through CLIP.

Each client keeps its own parameters, optimiser, rule and random streams. Their parameters are
stacked (``torch.func.vmap``), so that what is frozen is multiplied once with the images of all, and
what is tuned by one batched product. The small steps of a small model, and of a GPU that waits for
its next kernel, become fewer and larger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fl2ora.client_app.batches import Batch
from fl2ora.client_app.determinism import repeatable
from fl2ora.client_app.joint_layers import Streams, joint_layers
from fl2ora.client_app.local_round import LocalRound
from fl2ora.client_app.objective import Evaluated
from fl2ora.client_app.precision import forward_in, products_in
from fl2ora.client_app.training import in_training
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.forward_pass import ForwardPass
from fl2ora.experiment.seeds import derive_seed
from fl2ora.strategies.updates import ClientUpdate

Result = tuple[ClientUpdate, Adapter] | Exception


def train_jointly(classifier: ClipClassifier, rounds: Sequence[LocalRound]) -> list[Result]:
    """Train each client as ``local_train`` would, to rounding.

    Batches of a step that have equal shapes are computed together; the others by themselves.
    On the CPU dropout draws what it draws for a client alone; on other devices not.

    Args:
        classifier: the one that ``own_copy`` copied; its own parameters stay as they are.
        rounds: at least one, each begun with an ``own_copy`` that was restored to what the client
            was sent; their plans are of equal precision and determinism.

    Returns:
        For each client what ``local_train`` returns, or what was raised in its training.
    """
    plan, device = rounds[0].plan, classifier.clip.device
    with torch.no_grad():
        classifier.encode_classes()  # what is kept of them is never computed under vmap
    members = [_Member(each, device) for each in rounds]
    joint = _JointPass(classifier, plan.precision)
    with (
        in_training(classifier, plan.seed),
        repeatable(device, wanted=plan.deterministic),
        products_in(plan.precision),
        joint_layers(classifier.clip, joint.streams),
    ):
        while groups := _of_equal_shapes(member for member in members if member.advance()):
            for group in groups:
                _take(joint, group)
    return [member.result() for member in members]


class _Member:
    """A client in training.

    Attributes:
        round: of the client.
        batch: that it is at.
        dropout: what its dropout draws from.
        error: what was raised in its training, which ends it.
    """

    def __init__(self, round_: LocalRound, device: torch.device) -> None:
        self.round = round_
        self.batch: Batch
        self.dropout = torch.Generator(device)
        self.dropout.manual_seed(derive_seed(round_.plan.seed, "dropout"))
        self.error: Exception | None = None
        self._batches = iter(round_.batches)

    def advance(self) -> bool:
        """Go to the next batch, if there is one."""
        if self.error is not None:
            return False
        with _failing(self):
            for batch in self._batches:
                self.batch = batch
                return True
        return False

    def result(self) -> Result:
        """Return what came of it."""
        if self.error is None:
            with _failing(self):
                return self.round.finish()
        assert self.error is not None
        return self.error


def _of_equal_shapes(members: Iterable[_Member]) -> list[list[_Member]]:
    groups: dict[tuple[object, ...], list[_Member]] = {}
    for member in members:
        batch = member.batch
        prefix = None if batch.prefix is None else batch.prefix.shape
        groups.setdefault((batch.pixels.shape, prefix), []).append(member)
    return list(groups.values())


def _take(joint: _JointPass, members: Sequence[_Member]) -> None:
    """Compute the batches of some clients together, and let each take its step."""
    evaluated: dict[_Member, Evaluated] = {}
    with _failing(*members):  # for want of memory, or by a method that vmap cannot take
        for member, passed in zip(members, joint(members), strict=True):
            member.round.stepper.clear()
            with _failing(member):
                evaluated[member] = member.round.evaluate(member.batch, passed)
        # Each objective depends on the parameters of its own client alone.
        totals = [each.total for each in evaluated.values() if each.total.requires_grad]
        if totals:
            torch.stack(totals).sum().backward()
    for member, each in evaluated.items():
        if member.error is None:
            with _failing(member):
                member.round.stepper.take_up(each, member.batch)


@contextmanager
def _failing(*members: _Member) -> Iterator[None]:
    """Let what is raised inside end the training of these clients alone."""
    try:
        yield
    except Exception as error:
        for member in members:
            member.error = member.error or error


class _JointPass:
    """The forward pass of several clients' batches with the parameters of each.

    Args:
        classifier: the original of all clients' own copies.
        precision: see ``TrainingPlan``.

    Attributes:
        streams: what dropout draws from.
    """

    def __init__(self, classifier: ClipClassifier, precision: str) -> None:
        self.streams = Streams()
        self._pass = _Pass(classifier)
        parameters = {id(p): name for name, p in self._pass.named_parameters()}
        self._names = {name: parameters[id(p)] for name, p in classifier.tuned.items()}
        self._precision = precision

    def __call__(self, members: Sequence[_Member]) -> list[ForwardPass]:
        """Return the pass of each member's batch; all are of one shape."""
        batches = [member.batch for member in members]
        own = [member.round.classifier.tuned for member in members]
        tuned = {
            path: torch.stack([each[name] for each in own]) for name, path in self._names.items()
        }
        pixels = torch.stack([batch.pixels for batch in batches])
        known = [batch.prefix for batch in batches if batch.prefix is not None]
        prefix = torch.stack(known) if known else None
        each = torch.arange(len(members), device=pixels.device)
        self.streams.generators = [member.dropout for member in members]
        with forward_in(self._precision, pixels.device):
            found = vmap(self._one, in_dims=(0, 0, 0 if known else None, 0))(
                tuned, pixels, prefix, each
            )
        return [
            ForwardPass(batch.pixels, *parts, zero_shot=member.round.objective.known(batch))
            for member, batch, parts in zip(members, batches, zip(*found, strict=True), strict=True)
        ]

    def _one(
        self, tuned: dict[str, Tensor], pixels: Tensor, prefix: Tensor | None, each: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        self.streams.each = each
        found: tuple[Tensor, Tensor, Tensor] = functional_call(self._pass, tuned, (pixels, prefix))
        return found


class _Pass(nn.Module):
    """A classifier's forward pass as plain tensors."""

    def __init__(self, classifier: ClipClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor, prefix: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        passed = self.classifier.run(pixels, prefix)
        return passed.images, passed.classes, passed.logits
