"""From raw image bytes to what an image tower takes, a whole batch at a time, on any device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from fl2ora.clip_tuning.pillow_filters import scaled_as_pillow
from fl2ora.clip_tuning.preprocessor_file import (
    CLIP_FILE,
    CLIP_MEAN,
    CLIP_STD,
    FILE,
    FILTERS,
    check_without_crop,
    gain_of,
    read_square,
    resample_of,
    scaling_of,
    square,
    statistics_of,
)
from fl2ora.experiment.image_fit import BICUBIC, Fit, Scaling

Augmentation = Literal["none", "flip", "crop_flip"]

# RandomResizedCrop as CoOp and the FL2oRA code use it (Szegedy et al. 2014, arXiv 1409.4842).
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalise as a model's ``preprocessor_config.json`` says.

    Attributes:
        size: side in pixels of the square the image tower takes.
        resize: length in pixels the shorter side is scaled to before the centre crop; both sides,
            where ``squash``.
        mean: per-channel mean subtracted from values in [0, 1].
        std: per-channel standard deviation divided by.
        squash: scale both sides to ``resize`` whatever the image's shape.
        resample: PIL's number of the filter; see ``Fit``.
        gain: what values in [0, 1] are multiplied by; 1 where bytes are divided by 255.
        scaling: see ``Fit``.
        bounds: see ``Fit``.
    """

    size: int
    resize: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    squash: bool = False
    resample: int = BICUBIC
    gain: float = 1.0
    scaling: Scaling = ""
    bounds: tuple[int, int] = (0, 0)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        image_size: int | Sequence[int],
        left_out: Mapping[str, Any] = CLIP_FILE,
    ) -> Preprocessing:
        """Read a preprocessor file's content.

        Args:
            config: the content.
            image_size: what the image tower takes.
            left_out: the values of keys that the file may leave out.

        Raises:
            ValueError: the file does not give the size the image tower takes, or asks for what
                there is not.
        """
        said = {**left_out, **{key: value for key, value in config.items() if value is not None}}
        side = square("image_size", image_size)
        mean, std = statistics_of(said)
        resample, gain = resample_of(said), gain_of(said)
        if not said["do_center_crop"]:
            check_without_crop(said, side)
            return cls(side, side, mean, std, True, resample, gain)
        size = read_square("crop_size", said.get("crop_size", side))
        if size != side:
            raise ValueError(f"{FILE}: crop_size {size} does not fit the model's image_size {side}")
        if not said.get("do_resize", True):
            return cls(size, size, mean, std, False, resample, gain, "none")
        wanted = said.get("size", size)
        scaling, bounds = scaling_of(wanted, size)
        if scaling:
            return cls(size, min(bounds), mean, std, False, resample, gain, scaling, bounds)
        squash = isinstance(wanted, Mapping) and "shortest_edge" not in wanted
        resize = read_square("size", wanted)
        if resize < size and not squash:
            raise ValueError(
                f"{FILE}: size: expected at least crop_size {size}, found {resize}; images are "
                f"not padded"
            )
        return cls(size, resize, mean, std, squash, resample, gain)

    def fit(self, augmentation: Augmentation = "none") -> Fit:
        """Return how files of any size become images that this preprocessing takes.

        Random crops are cut from a square of twice the model's side: as many pixels as most
        photographs of the usual data sets have.
        """
        larger = 2 * self.size if augmentation == "crop_flip" else 0
        return Fit(
            self.size, self.resize, self.squash, self.resample, larger, self.scaling, self.bounds
        )

    def evaluation(self, images: Tensor) -> Tensor:
        """Return ``(B, 3, S, S)`` float32 for raw ``images (B, C, H, W)`` uint8."""
        return self._normalise(self._fit(_to_rgb(images)))

    def training(
        self,
        images: Tensor,
        augmentation: Augmentation,
        rng: torch.Generator,
        shapes: Tensor | None = None,
    ) -> Tensor:
        """Return ``(B, 3, S, S)`` float32 with random crops and flips drawn from ``rng`` (CPU).

        Args:
            images: ``(B, C, H, W)`` uint8.
            augmentation: which changes.
            rng: of all draws.
            shapes: ``(B, 2)`` height and width that the images had before they were scaled to one
                size, for ``crop_flip``: boxes are drawn as on those; None if they were not.
        """
        if augmentation == "none":
            return self.evaluation(images)
        pixels = _to_rgb(images)
        if augmentation == "crop_flip":
            pixels = _random_crops(pixels, self.size, self.resample, rng, shapes)
        else:
            pixels = self._fit(pixels)
        flips = (torch.rand(len(pixels), generator=rng) < 0.5).to(pixels.device)
        pixels = torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)
        return self._normalise(pixels)

    def _fit(self, pixels: Tensor) -> Tensor:
        """Scale ``pixels (B, 3, H, W)`` and cut out the centre ``(B, 3, S, S)``."""
        height, width = pixels.shape[-2:]
        pixels = _scale(pixels, self.fit().scaled(height, width), self.resample)
        # Negative where the image is smaller: black is put around it.
        top = (pixels.shape[-2] - self.size) // 2
        left = (pixels.shape[-1] - self.size) // 2
        below, right = (self.size - pixels.shape[-2] + top, self.size - pixels.shape[-1] + left)
        return pad(pixels, (-left, right, -top, below))

    def _normalise(self, pixels: Tensor) -> Tensor:
        mean, std = (_channels(values, pixels.device) for values in (self.mean, self.std))
        values = pixels if self.gain == 1 else pixels * self.gain
        return (values - mean) / std


@lru_cache(maxsize=16)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return ``(3, 1, 1)`` on a device; made for every batch, a GPU would have to wait for each."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def _to_rgb(images: Tensor) -> Tensor:
    pixels = images.to(torch.float32) / 255
    return pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels


def _scale(pixels: Tensor, target: tuple[int, int], resample: int) -> Tensor:
    """Scale ``pixels (B, 3, H, W)`` in [0, 1] with a filter of PIL's, antialiased.

    As PIL does, which CLIP was trained with: first the width, then the height, and after each what
    bicubic overshoots is cut off and values are rounded to whole bytes.
    """
    if resample not in FILTERS:
        return scaled_as_pillow(pixels, target, resample)
    for size in ((pixels.shape[-2], target[1]), target):
        if size != tuple(pixels.shape[-2:]):
            pixels = interpolate(pixels, size, mode=FILTERS[resample], antialias=True)
            pixels = (pixels.clamp(0, 1) * 255).round() / 255
    return pixels


def _random_crops(
    pixels: Tensor, size: int, resample: int, rng: torch.Generator, shapes: Tensor | None = None
) -> Tensor:
    """Cut one random box of whole pixels from each image and scale it to ``size``.

    With ``shapes (B, 2)``, boxes are drawn as on images of these heights and widths.
    """
    count, present = len(pixels), torch.tensor(pixels.shape[-2:], dtype=torch.float64)
    height, width = (present.expand(count, 2) if shapes is None else shapes.double()).T
    draws = torch.rand((4, count), generator=rng, dtype=torch.float64)
    area = CROP_AREA[0] + draws[0] * (CROP_AREA[1] - CROP_AREA[0])
    low, high = (torch.tensor(r, dtype=torch.float64).log() for r in CROP_RATIO)
    ratio = (low + draws[1] * (high - low)).exp()
    box_w = (area * height * width * ratio).sqrt().round().clamp(min=1).minimum(width)
    box_h = (area * height * width / ratio).sqrt().round().clamp(min=1).minimum(height)
    left = (draws[2] * (width - box_w + 1)).floor()
    top = (draws[3] * (height - box_h + 1)).floor()
    boxes = torch.stack([top, left, top + box_h, left + box_w], dim=1)
    if shapes is not None:  # the same boxes where the image is now, at least one pixel large
        boxes = (boxes * present.repeat(2) / torch.stack([height, width] * 2, dim=1)).round()
        boxes[:, :2] = boxes[:, :2].minimum(present - 1)
        boxes[:, 2:] = boxes[:, 2:].maximum(boxes[:, :2] + 1)
    crops = [
        _scale(image[None, :, y:below, x:right], (size, size), resample)
        for image, (y, x, below, right) in zip(pixels, boxes.to(torch.int64).tolist(), strict=True)
    ]
    return torch.cat(crops) if crops else pixels.new_zeros((0, 3, size, size))
