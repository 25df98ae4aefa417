"""What a model's ``preprocessor_config.json`` says, key by key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fl2ora.experiment.image_fit import BICUBIC, Scaling

# OpenAI's CLIP, for preprocessor files that leave the statistics out.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
# What preprocessor files of either kind of model mean where they say nothing.
CLIP_FILE = {"do_center_crop": True, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
SIGLIP_FILE = {"do_center_crop": False, "image_mean": HALF, "image_std": HALF}
# PIL's numbers of the filters torch has, and of those that stand in ``pillow_filters``.
FILTERS = {2: "bilinear", 3: "bicubic"}
_NAMES = {0: "nearest", 1: "lanczos", **FILTERS, 4: "box", 5: "hamming"}
FILE = "preprocessor_config.json"


def resample_of(config: Mapping[str, Any]) -> int:
    """Read the filter that images are scaled with.

    Raises:
        ValueError: images are scaled with a filter there is not.
    """
    found = config.get("resample", BICUBIC)
    if type(found) is not int or found not in _NAMES:
        known = ", ".join(f"{number} ({name})" for number, name in _NAMES.items())
        raise ValueError(f"{FILE}: resample: expected one of {known}, found {found}")
    return int(found)


def gain_of(config: Mapping[str, Any]) -> float:
    """Read what bytes are multiplied by, as a multiple of 1/255.

    Raises:
        ValueError: it is no number above 0.
    """
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    if not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise ValueError(
            f"{FILE}: rescale_factor: expected a number above 0 such as 1/255, found {factor}"
        )
    return 1.0 if abs(factor - 1 / 255) < 1e-6 else 255.0 * factor


def statistics_of(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read what is subtracted from values and what they are divided by.

    Raises:
        ValueError: there are not three of each.
    """
    mean, std = (_channels(key, config[key]) for key in ("image_mean", "image_std"))
    return (mean, std) if config.get("do_normalize", True) else ((0.0,) * 3, (1.0,) * 3)


def check_without_crop(config: Mapping[str, Any], side: int) -> None:
    """Refuse a file without a centre crop that asks for more than squashing to ``side``.

    Raises:
        ValueError: names the key, what was expected and what was found.
    """
    if not config.get("do_resize", True):
        raise ValueError(
            f"{FILE}: do_resize: expected True where there is no centre crop, found "
            f"{config['do_resize']}: images of other sizes than {side}x{side} would not fit"
        )
    size = config.get("size", {"height": side, "width": side})
    if not isinstance(size, Mapping) or not {"height", "width"} <= size.keys():
        raise ValueError(
            f"{FILE}: size: expected height and width where there is no centre crop, found {size}"
        )
    found = read_square("size", size)
    if found != side:
        raise ValueError(f"{FILE}: size {found} does not fit the model's image_size {side}")


def scaling_of(size: Any, crop: int) -> tuple[Scaling, tuple[int, int]]:
    """Read a size with two limits; see ``Fit``. Empty where it is of another form.

    Raises:
        ValueError: they are no whole numbers of at least ``crop``.
    """
    forms: dict[Scaling, tuple[str, str]] = {
        "bounded": ("shortest_edge", "longest_edge"),
        "within": ("max_height", "max_width"),
    }
    for scaling, keys in forms.items():
        if isinstance(size, Mapping) and size.keys() == set(keys):
            first, second = (size[key] for key in keys)
            if any(type(side) is not int or side < crop for side in (first, second)):
                raise ValueError(
                    f"{FILE}: size: expected {' and '.join(keys)} of at least crop_size {crop}, "
                    f"found {size}"
                )
            return scaling, (first, second)
    return "", (0, 0)


def square(what: str, value: int | Sequence[int]) -> int:
    """Read a size that may be a number or both sides.

    Raises:
        ValueError: the sides differ.
    """
    sides = [value] if isinstance(value, int) else list(value)
    if len(set(sides)) != 1:
        raise ValueError(f"{what}: expected a square, found {'x'.join(map(str, sides))}")
    return int(sides[0])


def read_square(key: str, value: Any) -> int:
    """Read a size that transformers writes as a number, as both sides or as the shortest edge.

    Raises:
        ValueError: it is none of these, or no square.
    """
    what = f"{FILE}: {key}"
    if isinstance(value, Mapping):
        if value.keys() == {"shortest_edge"}:
            value = value["shortest_edge"]
        elif {"height", "width"} <= value.keys():
            value = (value["height"], value["width"])
    if isinstance(value, int) or (isinstance(value, Sequence) and not isinstance(value, str)):
        return square(what, value)
    raise ValueError(
        f"{what}: expected a number, height and width, or shortest_edge, found {value}"
    )


def _channels(key: str, values: Any) -> tuple[float, ...]:
    """Read a value for each of three channels.

    Raises:
        ValueError: there are not three.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 3:
        raise ValueError(f"{FILE}: {key}: expected three values, found {values}")
    return tuple(values)
