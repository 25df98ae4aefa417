"""A run's classifier, ready for images: logits, then what its calibrator makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._sets import SetCalibrator
from fl2ora.calibration.calibrators.base import CalibrationContext
from fl2ora.calibration.calibrators.files import FittedCalibrator
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.image_source import Images
from fl2ora.clip_tuning.prediction import class_features, predict
from fl2ora.experiment.blame import blaming
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.image_fit import Fit


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of N images.

    Attributes:
        probabilities: ``(N, K)`` float64, calibrated if there is a calibrator.
        predicted: ``(N,)`` int64, index of the predicted class.
        confidence: ``(N,)`` float64, the probability that this class is right.
        sets: ``(N, K)`` bool, the classes of a calibrator that answers with sets; else None.
    """

    probabilities: Tensor
    predicted: Tensor
    confidence: Tensor
    sets: Tensor | None = None

    def top(self, count: int) -> tuple[Tensor, Tensor]:
        """Return ``(N, k)`` classes and their probabilities, the predicted class always first.

        A calibrator of the top confidence alone may leave another class with more probability than
        the predicted one.

        Args:
            count: how many; all there are, if fewer.
        """
        order = self.probabilities.argsort(dim=1, descending=True, stable=True)
        others = order[order != self.predicted[:, None]].view(len(order), order.shape[1] - 1)
        classes = torch.cat([self.predicted[:, None], others], dim=1)[:, :count]
        values = self.probabilities.gather(1, classes)
        values[:, 0] = self.confidence
        return classes, values


class Predictor:
    """The classifier of a finished run.

    Args:
        classifier: holds the run's adapter.
        calibrator: fitted to its logits; None: confidence is the softmax's.
        zero_shot: makes the untuned classifier of the same classes; called if the calibrator reads
            its logits.

    Attributes:
        classifier: see above.
        calibrator: see above.

    Raises:
        UserError: the calibrator was fitted to another number of classes.
    """

    def __init__(
        self,
        classifier: ClipClassifier,
        calibrator: FittedCalibrator | None,
        zero_shot: Callable[[], ClipClassifier],
    ) -> None:
        self.classifier, self.calibrator = classifier, calibrator
        self._make_zero_shot = zero_shot
        found = len(classifier.class_names)
        if calibrator is not None and calibrator.num_classes != found:
            raise UserError(
                f"calibrator {calibrator.spec!r}: expected one fitted to the {found} classes of "
                f"the classifier, found one fitted to {calibrator.num_classes}"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names, which ``Predictions.predicted`` counts."""
        return self.classifier.class_names

    @property
    def fit(self) -> Fit:
        """How files of any size become images for the classifier."""
        return self.classifier.preprocessing.fit()

    def logits(self, images: Images, batch_size: int = 256) -> Tensor:
        """Return float32 logits ``(N, K)`` of raw ``images (N, C, H, W)`` uint8."""
        return predict(self.classifier, images, batch_size)

    def predict(self, images: Images, batch_size: int = 256) -> Predictions:
        """Return classes and confidences of raw ``images (N, C, H, W)`` uint8.

        Args:
            images: such as ``read_images`` returns.
            batch_size: images encoded at once.
        """
        logits = self.logits(images, batch_size)
        fitted = self.calibrator
        if fitted is None:
            probabilities = logits.double().softmax(dim=1)
            confidence, predicted = probabilities.max(dim=1)
            return Predictions(probabilities, predicted, confidence)
        context = self._context(images, batch_size) if fitted.calibrator.needs else None
        calibrator = fitted.calibrator
        with blaming(calibrator):
            sets = (
                calibrator.sets(logits, fitted.parameters)
                if isinstance(calibrator, SetCalibrator)
                else None
            )
            return Predictions(
                fitted(logits, context).exp(),
                fitted.predictions(logits, context),
                fitted.confidence(logits, context),
                sets,
            )

    @cached_property
    def zero_shot(self) -> ClipClassifier:
        """The untuned classifier of the same classes."""
        return self._make_zero_shot()

    def _context(self, images: Images, batch_size: int) -> CalibrationContext:
        zero_shot_logits = predict(self.zero_shot, images, batch_size)
        return CalibrationContext.of_tuned_classes(zero_shot_logits, *self._texts)

    @cached_property
    def _texts(self) -> tuple[Tensor, Tensor]:
        """Class features of the tuned classifier and of the untuned one."""
        return class_features(self.classifier), class_features(self.zero_shot)
