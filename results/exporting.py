"""A run's result as a folder that other libraries load: a whole CLIP, or a peft adapter."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor
from transformers import CLIPModel, SiglipModel

from fl2ora.calibration.calibrators.files import save_calibrator
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import load_clip, save_clip
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import what_is_at
from fl2ora.experiment.plugins import load
from fl2ora.experiment.spec import parse_spec
from fl2ora.reporting.model_card import CARD, PEFT_FILE, merged_card, peft_card
from fl2ora.reporting.whole_files import whole_folder
from fl2ora.results.loading import CALIBRATOR, HERE, Source
from fl2ora.results.predictor import Predictor

Format = Literal["merged", "peft"]
TOLERANCE = 1e-5
"""Of the cosines of images and classes, before and after."""
_PROBES = 8
_INSTEAD = (
    "'fl2ora predict' and 'fl2ora evaluate' use the run's folder as it is, and its adapter/ holds "
    "the tensors"
)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        difference: largest one of cosines from those of the run's classifier.
        calibrator: sentence on it.
    """

    folder: Path
    difference: float
    calibrator: str


def export(source: Source, out: Path, kind: Format, calibrator: str | None = None) -> Exported:
    """Write a run's result, load it again, and compare its logits.

    Args:
        source: a run; an adapter alone has no record to make a card of.
        out: new folder.
        kind: ``merged``, as ``CLIPModel.from_pretrained`` loads it, or ``peft``.
        calibrator: see ``Source.calibrator``.

    Raises:
        UserError: there is something at ``out``; or no such folder can give the method's logits.
    """
    if source.run is None or source.config is None:
        raise UserError(
            f"{source.adapter}: expected the folder of a run, found an adapter alone, of which "
            "there is no record"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: expected a folder that is new, found {what_is_at(out)}")
    if source.run.resolve() in out.resolve().parents:
        raise UserError(f"{out}: expected a folder outside of the run's, {source.run}")
    predictor = source.predictor("cpu", calibrator)
    expected = _Probe.of(predictor.classifier)
    write = _write_merged if kind == "merged" else _write_peft
    with whole_folder(out.absolute()) as part:
        difference = write(source, predictor, expected, part)
        said = _write_calibrator(predictor, part, kind)
        card = merged_card if kind == "merged" else peft_card
        (part / CARD).write_text(
            card(source.run, source.config, out.absolute().name, said), encoding="utf-8"
        )
    return Exported(out, difference, said)


def _write_merged(source: Source, predictor: Predictor, expected: _Probe, part: Path) -> float:
    saved = source.saved
    smallest = float("inf")
    for merge in (_in_place, _by_peft):
        model = merge(source, predictor.classifier)
        if model is None:
            continue
        shutil.rmtree(part)
        save_clip(saved.model, model, part)
        here = replace(saved, model=str(part), method="zero_shot")
        again = build_classifier(here.model, here.method, here.class_names, here.templates, 0)
        difference = expected.difference(again)
        smallest = min(smallest, difference)
        if difference <= TOLERANCE:
            load("zero_shot", TuningMethod).save(again, part)
            replace(here, model=HERE).save(part)
            return difference
    found = "" if smallest == float("inf") else f" (cosines differ by up to {smallest:.2g})"
    raise UserError(
        f"format merged: method {saved.method!r} computes with more than CLIP's own weights, so "
        f"that no CLIP alone gives its logits{found}; {_INSTEAD}"
    )


def _in_place(source: Source, classifier: ClipClassifier) -> CLIPModel | SiglipModel | None:
    """Return the classifier's CLIP, which is used up, with low-rank factors merged in."""
    clip = classifier.clip
    model = clip.merge_and_unload() if isinstance(clip, PeftModel) else clip
    return model if _is_plain(model, source.saved.model) else None


def _by_peft(source: Source, _: ClipClassifier) -> CLIPModel | SiglipModel | None:
    """Return CLIP with the adapter in peft's format merged in, where there is one."""
    if not (source.adapter / PEFT_FILE).exists():
        return None
    base = load_clip(source.saved.model).model
    model = PeftModel.from_pretrained(base, str(source.adapter)).merge_and_unload()
    return model if _is_plain(model, source.saved.model) else None


def _is_plain(model: object, name: str) -> bool:
    """Return whether a model has the very tensors of the CLIP of that name."""
    if not isinstance(model, CLIPModel | SiglipModel):
        return False
    base = load_clip(name).model.state_dict()
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    return shapes == {key: value.shape for key, value in base.items()}


def _write_peft(source: Source, _: Predictor, expected: _Probe, part: Path) -> float:
    saved = source.saved
    if not (source.adapter / PEFT_FILE).exists():
        raise UserError(
            f"format peft: expected a method that peft knows, such as lora, found "
            f"{saved.method!r}; {_INSTEAD}"
        )
    shutil.copytree(source.adapter, part, dirs_exist_ok=True)
    again = build_classifier(saved.model, "zero_shot", saved.class_names, saved.templates, 0)
    again.clip = PeftModel.from_pretrained(load_clip(saved.model).model, str(part)).eval()
    difference = expected.difference(again)
    if difference > TOLERANCE:
        raise UserError(
            f"format peft: method {saved.method!r} tunes more than what peft loads (cosines differ "
            f"by up to {difference:.2g}); try --format merged, or: {_INSTEAD}"
        )
    return difference


def _write_calibrator(predictor: Predictor, part: Path, kind: Format) -> str:
    """Write the fitted calibrator beside the model, and return a sentence on it."""
    fitted = predictor.calibrator
    if fitted is None:
        return "Confidence is the softmax's: there is no calibrator.\n"
    reason = ""
    if parse_spec(fitted.spec).module is not None:
        reason = "it is none of fl2ora's own"
    elif kind == "merged" and fitted.calibrator.needs:
        reason = "it reads the untuned CLIP too"
    if reason:
        return f"The run's calibrator, `{fitted.spec}`, is left out: {reason}.\n"
    save_calibrator(part / CALIBRATOR, fitted.spec, fitted.parameters, fitted.num_classes)
    return (
        f"`{CALIBRATOR}/` holds the calibrator, `{fitted.spec}`, fitted to held-out images of the "
        "clients; without it, confidence is that of the row above 'calibrated'.\n"
    )


@dataclass(frozen=True)
class _Probe:
    """Logits ``(_PROBES, K)`` of noise, and what cosines were multiplied by to be them."""

    logits: Tensor
    scale: float

    @classmethod
    def of(cls, classifier: ClipClassifier) -> _Probe:
        """Let a classifier score the noise."""
        return cls(_logits(classifier), float(classifier.clip.logit_scale.detach().exp()))

    def difference(self, classifier: ClipClassifier) -> float:
        """Return the largest difference of another classifier's logits, as one of cosines."""
        return float((_logits(classifier) - self.logits).abs().max()) / self.scale


@torch.inference_mode()
def _logits(classifier: ClipClassifier) -> Tensor:
    side = classifier.preprocessing.size
    noise = torch.randn(_PROBES, 3, side, side, generator=torch.Generator().manual_seed(0))
    found: Tensor = classifier.eval()(noise)
    return found
