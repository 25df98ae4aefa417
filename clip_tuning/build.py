"""From the names in a run config to a classifier on a device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache

import torch

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip, load_clip
from fl2ora.clip_tuning.digests import adapter_digest
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.towers import recompute_activations
from fl2ora.experiment.blame import blaming
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.experiment.seeds import derive_seed


def build_classifier(
    model: str,
    method: str,
    class_names: Sequence[str],
    templates: Sequence[str],
    seed: int,
    *,
    gradient_checkpointing: bool = False,
) -> ClipClassifier:
    """Load a CLIP and attach a tuning method; equal arguments give equal initial parameters.

    Args:
        model: see ``load_clip``.
        method: spec string of a tuning method.
        class_names: of all classes.
        templates: with ``{}`` where a class name goes.
        seed: of the run.
        gradient_checkpointing: recompute the blocks' activations in backward, while training.

    Raises:
        UserError: unknown names or arguments, or a model that cannot be loaded or tuned so.
    """
    tuning = load(method, TuningMethod)
    clip = load_clip(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initial-adapter"))
        with blaming(tuning):
            classifier = _attached(tuning, clip, class_names, templates, method)
    if gradient_checkpointing:
        recompute_activations(classifier.clip)
    return classifier


def _attached(
    tuning: TuningMethod,
    clip: Clip,
    class_names: Sequence[str],
    templates: Sequence[str],
    method: str,
) -> ClipClassifier:
    try:
        classifier: object = tuning.attach(clip, class_names, templates)
    except ValueError as error:
        raise UserError(f"method {method!r} on model {clip.name!r}: {error}") from error
    if not isinstance(classifier, ClipClassifier):
        kind = type(classifier).__name__
        raise TypeError(f"attach: expected a ClipClassifier, found {kind}")
    return classifier.eval()


def tuned_classifier(
    model: str,
    method: str,
    class_names: Sequence[str],
    templates: Sequence[str],
    seed: int,
    device: torch.device,
    *,
    gradient_checkpointing: bool = False,
    fresh: bool = False,
) -> ClipClassifier:
    """Return the process's tuned classifier, which server and nodes in one process share.

    Only the last one asked for is kept. Whoever uses it restores an adapter first: it holds
    whatever was restored or trained last. See ``build_classifier`` for the arguments and errors.

    Args:
        model: see there.
        method: see there.
        class_names: see there.
        templates: see there.
        seed: see there.
        device: where it is.
        gradient_checkpointing: see there.
        fresh: hold the initial parameters, as a run does that starts.
    """
    key = model, method, tuple(class_names), tuple(templates), seed, device, gradient_checkpointing
    classifier = _tuned(*key)
    if fresh and not classifier.untouched:
        _tuned.cache_clear()
        classifier = _tuned(*key)
    return classifier


def zero_shot_classifier(
    model: str, class_names: Sequence[str], templates: Sequence[str], device: torch.device
) -> ClipClassifier:
    """Return the process's zero-shot classifier.

    It has a CLIP of its own. The tuned one's would do only for methods that leave every weight and
    every layer of it as they are, which cannot be known of all.
    """
    return _zero_shot(model, tuple(class_names), tuple(templates), device)


@lru_cache(maxsize=1)
def _tuned(
    model: str,
    method: str,
    class_names: tuple[str, ...],
    templates: tuple[str, ...],
    seed: int,
    device: torch.device,
    gradient_checkpointing: bool,
) -> ClipClassifier:
    classifier = build_classifier(
        model, method, class_names, templates, seed, gradient_checkpointing=gradient_checkpointing
    ).to(device)
    classifier.untouched = True
    classifier.initial = classifier.export()
    classifier.initial_digest = adapter_digest(classifier.initial)
    return classifier


@lru_cache(maxsize=1)
def _zero_shot(
    model: str, class_names: tuple[str, ...], templates: tuple[str, ...], device: torch.device
) -> ClipClassifier:
    return build_classifier(model, "zero_shot", class_names, templates, 0).to(device)


def resolve_device(wanted: str) -> torch.device:
    """Return the device a run config's ``device`` stands for on this machine.

    Raises:
        UserError: CUDA or MPS was asked for and this machine has none.
    """
    if torch.cuda.is_available():
        # Read when cuBLAS is first used: without it the order of its sums is anyone's. Elsewhere
        # the environment is left alone, as other threads, Ray's among them, may be reading it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"device {wanted!r} was asked for, but torch sees no CUDA device here (in Flower's "
            f"simulation, clients see a GPU only if they are given a share of one: see the README)"
        )
    count = torch.cuda.device_count() if wanted.startswith("cuda:") else 0
    if wanted.startswith("cuda:") and int(wanted[5:]) >= count:
        raise UserError(
            f"device {wanted!r} was asked for, but torch sees {count} here, counted from cuda:0"
        )
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' was asked for, but torch sees no Apple GPU here")
    return torch.device(wanted)
