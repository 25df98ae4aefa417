"""One model as a classifier of the training classes, and of those of every held-out part."""

from __future__ import annotations

from collections.abc import Iterable

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.other_classes import check_free_of_classes, for_other_classes
from fl2ora.experiment.config import RunConfig
from fl2ora.federated_data.protocols.base import HeldOutPart

ZERO_SHOT = "zero_shot"
Classes = tuple[tuple[str, ...], tuple[str, ...]]


def classes_of(part: HeldOutPart | ClipClassifier) -> Classes:
    """Return class names and templates, which tell classifiers apart."""
    return part.class_names, part.templates


def check_part_classes(
    classifier: ClipClassifier, config: RunConfig, parts: Iterable[HeldOutPart]
) -> None:
    """Refuse a method whose tensors belong to the training classes where a part has others.

    Raises:
        UserError: see ``check_free_of_classes``.
    """
    if any(part.class_names != classifier.class_names for part in parts):
        check_free_of_classes(classifier, config.model, config.method, config.seed)


class PartModels:
    """A classifier for each list of classes; all hold the same adapter.

    Args:
        main: of the training classes.
        method: spec of what is tuned, or ``zero_shot``.
        config: of the run.
        parts: whose classes may differ, if the method serves any; see ``check_part_classes``.
    """

    def __init__(
        self, main: ClipClassifier, method: str, config: RunConfig, parts: Iterable[HeldOutPart]
    ) -> None:
        self.main = main
        others = {classes_of(part) for part in parts} - {classes_of(main)}
        self._of = {classes_of(main): main} | {
            classes: for_other_classes(main, config.model, method, *classes, config.seed)
            for classes in sorted(others)
        }

    def restore(self, adapter: Adapter) -> None:
        """Put an adapter into all of them; see ``TunedModule.restore``."""
        for classifier in self._of.values():
            classifier.restore(adapter)

    def of(self, classes: Classes) -> ClipClassifier:
        """Return the classifier of these class names and templates."""
        return self._of[classes]
