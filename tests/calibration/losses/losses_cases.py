"""Every loss file, in at least one setting, and a context that fills every need."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import fl2ora.calibration.losses
from fl2ora.calibration.losses.base import Loss, LossContext

torch.set_num_threads(1)

FOLDER = Path(fl2ora.calibration.losses.__file__).parent
NAMES = sorted(
    file.stem for file in FOLDER.glob("*.py") if file.stem != "base" and file.stem[0] != "_"
)

# More settings than the default, where a setting takes another path through the code.
SETTINGS: dict[str, list[dict[str, object]]] = {
    "acls": [{"margin": 0.5}],
    "avuc": [{}, {"threshold": 0.8}],
    "confidence_penalty": [{}, {"per_class": True}],
    "dispersion": [{"form": form} for form in ("distance", "orthogonality", "gram")],
    "dor": [
        {"sample": 3},
        {"sample": 2, "nearest": 4, "words": "gate, oak, pond, rope, sail, tin"},
    ],
    "focal": [{}, {"gamma": 0.5}, {"gamma": 0}],
    "mbls": [{"margin": 0.5}],
    "mmce": [{}, {"bandwidth": 0.1}],
    "nucfl": [{"penalty": "dca"}, {"penalty": "mdca", "weight": 2.5}],
    "soft_binned_ece": [{}, {"num_bins": 4, "norm": 1}, {"num_bins": 30, "temperature": 1e-4}],
}
CASES = [(name, kwargs) for name in NAMES for kwargs in SETTINGS.get(name, [{}])]
CASE_IDS = [
    name + "".join(f",{key}={value}" for key, value in kwargs.items()) for name, kwargs in CASES
]
WIDTH = 6  # of the features


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def loss_class(name: str) -> type[Loss]:
    found = getattr(importlib.import_module(f"fl2ora.calibration.losses.{name}"), camel(name))
    assert issubclass(found, Loss)
    return found


def make(name: str, kwargs: dict[str, object] | None = None) -> Loss:
    return loss_class(name)(**(kwargs or {}))


def random_encoder(dtype: torch.dtype) -> Callable[[Sequence[str]], tuple[Tensor, Tensor]]:
    """Return an encoder whose features depend on each word alone."""

    def encode(words: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = []
        for word in words:
            generator = torch.Generator().manual_seed(sum(word.encode()) + len(word))
            rows.append(torch.randn(2, WIDTH, dtype=torch.float64, generator=generator))
        both = torch.stack(rows).to(dtype)
        return both[:, 0], both[:, 1]

    return encode


def full_context(batch: int, classes: int, dtype: torch.dtype = torch.float64) -> LossContext:
    """Return a context with every field filled, equal at every call."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)

    return LossContext(
        zero_shot_logits=2 * draw(batch, classes),
        text_features=draw(classes, WIDTH),
        zero_shot_text_features=draw(classes, WIDTH),
        image_features=draw(batch, WIDTH),
        zero_shot_image_features=draw(batch, WIDTH),
        encode_texts=random_encoder(dtype),
        class_names=tuple(f"class {j}" for j in range(classes)),
        update_similarity=0.4,
        mixed_labels=torch.randint(classes, (batch,), generator=generator),
        mixing_weight=0.7,
    )
