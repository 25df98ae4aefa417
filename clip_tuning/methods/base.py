"""The contract of a tuning method: what of CLIP is trained, and under which names it travels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter, load_adapter, save_adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip

_FILE = "adapter.safetensors"


@dataclass(frozen=True)
class Rates:
    """Learning rates to start from, of SGD with momentum 0.9; see ``learning_rate_for``.

    Attributes:
        embedded: for the embedded model, by the tables in docs/tuning.md.
        published: for every other model.
        source: where ``published`` comes from.
    """

    embedded: float
    published: float
    source: str


NOTHING_TRAINED = Rates(1.0, 1.0, "nothing is trained by gradients, so any value will do")


class TuningMethod(ABC):
    """One way to tune CLIP; constructor arguments are what a spec string may set.

    Attributes:
        learning_rates: those of a run that sets none. None: such a run is refused.
        start: the folder whose adapter it begins with, if it does.
    """

    learning_rates: Rates | None = None
    start: Path | None = None

    @abstractmethod
    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Return a classifier whose ``tuned`` parameters are this method's.

        New parameters draw from torch's global random stream, which the caller seeds. ``clip`` may
        be changed in place and belongs to the classifier from then on.

        Raises:
            ValueError: the method cannot run on this model or with these prompts; says why.
        """

    def round_weights(self, rounds: int) -> Tensor | None:
        """Return how much the global adapter after each round counts in a run's result.

        Args:
            rounds: how many the run has.

        Returns:
            ``(rounds,)`` weights of at least 0, not all 0: the result is the mean with them. None:
            the result is the last global adapter.
        """
        return None

    def save(self, classifier: ClipClassifier, folder: Path) -> None:
        """Write what was tuned to ``folder``; by default as ``adapter.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_adapter(classifier.export(), folder / _FILE)

    def load(self, folder: Path) -> Adapter:
        """Return what ``save`` wrote, for a classifier of the same method, model and classes.

        Raises:
            AdapterError: there is no such file, or it is damaged.
        """
        return load_adapter(folder / _FILE)
