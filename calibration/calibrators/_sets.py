"""Calibrators that answer with a set of classes."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from fl2ora.calibration.calibrators.base import Calibrator, Parameters


class SetCalibrator(Calibrator):
    """Gives, beside probabilities, a set of classes for each image."""

    @property
    @abstractmethod
    def calibrates(self) -> bool:
        """Whether its probabilities are others than the softmax's."""

    @property
    @abstractmethod
    def coverage(self) -> float:
        """Share of images whose set is to hold the label."""

    @abstractmethod
    def sets(self, logits: Tensor, parameters: Parameters) -> Tensor:
        """Return ``(N, K)`` bool of ``logits (N, K)``: True where a class is in the image's set."""
