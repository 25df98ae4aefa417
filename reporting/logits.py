"""Logits of held-out images kept with a run, so that calibrators can be fitted afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl2ora.calibration.calibrators.base import CalibrationContext
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.whole_files import whole_file

LOGITS_FILE = "logits.safetensors"
_FEATURES = "features"


@dataclass(frozen=True)
class Scored:
    """Held-out images as the final model and the zero-shot model score them.

    Attributes:
        logits: ``(N, K)`` of the final model.
        labels: ``(N,)`` int64.
        zero_shot: ``(N, K)`` of the zero-shot model.
    """

    logits: Tensor
    labels: Tensor
    zero_shot: Tensor


@dataclass(frozen=True)
class SavedLogits:
    """What calibrators need of a finished run.

    Attributes:
        server_test: the central test set.
        test: each client's test images by client key; empty where they lie on the nodes.
        calibration: each client's calibration images by client key; likewise.
        text_features: ``(K, D)`` unit text features of the final model.
        zero_shot_text_features: ``(K, D)`` of the zero-shot model.
    """

    server_test: Scored
    test: Mapping[str, Scored]
    calibration: Mapping[str, Scored]
    text_features: Tensor
    zero_shot_text_features: Tensor

    def context(self, part: Scored) -> CalibrationContext:
        """Return what calibrators may want beside a part's logits."""
        return CalibrationContext.of_tuned_classes(
            part.zero_shot, self.text_features, self.zero_shot_text_features
        )

    def save(self, folder: Path) -> None:
        """Write ``logits.safetensors``."""
        parts = {"server-test": self.server_test}
        parts |= {f"test:{client}": part for client, part in self.test.items()}
        parts |= {f"calibration:{client}": part for client, part in self.calibration.items()}
        tensors = {
            f"{name}/{field}": getattr(part, field).contiguous()
            for name, part in parts.items()
            for field in ("logits", "labels", "zero_shot")
        }
        tensors[f"{_FEATURES}/text"] = self.text_features.contiguous()
        tensors[f"{_FEATURES}/zero_shot"] = self.zero_shot_text_features.contiguous()
        with whole_file(folder / LOGITS_FILE) as part:
            save_file({name: tensor.clone() for name, tensor in tensors.items()}, part)

    @classmethod
    def load(cls, folder: Path) -> SavedLogits:
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        path = folder / LOGITS_FILE
        try:
            tensors = load_file(path)
            names = {key.rpartition("/")[0] for key in tensors} - {_FEATURES}
            parts = {
                name: Scored(*(tensors[f"{name}/{f}"] for f in ("logits", "labels", "zero_shot")))
                for name in names
            }
            features = (tensors[f"{_FEATURES}/text"], tensors[f"{_FEATURES}/zero_shot"])
            _check(parts["server-test"], parts, features)
            return cls(
                parts["server-test"],
                _of_clients(parts, "test:"),
                _of_clients(parts, "calibration:"),
                *features,
            )
        except (OSError, SafetensorError, UserError) as error:
            raise UserError(f"{path}: expected the logits of a finished run: {error}") from None
        except KeyError as error:
            raise UserError(
                f"{path}: expected the logits of a finished run, {error} is missing"
            ) from None


def _check(central: Scored, parts: Mapping[str, Scored], features: tuple[Tensor, Tensor]) -> None:
    """Refuse tensors that do not fit each other.

    Raises:
        UserError: names the tensor, what was expected and what was found.
    """
    classes = central.logits.shape[-1] if central.logits.ndim == 2 else 0
    if classes < 2 or not len(central.logits):
        found = tuple(central.logits.shape)
        raise UserError(f"server-test/logits: expected (N, K), N >= 1, K >= 2, found {found}")
    for name, part in parts.items():
        rows = len(part.labels) if part.labels.ndim == 1 else 0
        for field in ("logits", "zero_shot"):
            _check_floats(f"{name}/{field}", getattr(part, field), (rows, classes))
        whole = part.labels.ndim == 1 and part.labels.dtype == torch.int64
        if not whole or (rows and not 0 <= part.labels.min() <= part.labels.max() < classes):
            raise UserError(f"{name}/labels: expected (N,) int64, each from 0 to {classes - 1}")
    for name, tensor in zip(("text", "zero_shot"), features, strict=True):
        size = features[0].shape[-1] if features[0].ndim else 0
        _check_floats(f"{_FEATURES}/{name}", tensor, (classes, size))


def _check_floats(name: str, tensor: Tensor, shape: tuple[int, int]) -> None:
    if tuple(tensor.shape) != shape or not tensor.is_floating_point() or tensor.isnan().any():
        kind = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        kind += " with NaN" if tensor.is_floating_point() and tensor.isnan().any() else ""
        raise UserError(f"{name}: expected floats of shape {shape}, found {kind}")


def _of_clients(parts: Mapping[str, Scored], prefix: str) -> dict[str, Scored]:
    names = sorted(name for name in parts if name.startswith(prefix))
    return {name.removeprefix(prefix): parts[name] for name in names}
