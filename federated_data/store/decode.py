"""One image file's bytes become arrays of one size, as transformers' image processors make them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fl2ora.experiment.image_fit import Fit

Bytes = NDArray[np.uint8]

# Marks: what is worth saying of an image that was decoded.
TURNED, TRANSPARENT, SIXTEEN_BITS = 1, 2, 4

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF")
_SIXTEEN = 65535
_ORIENTATION = 0x0112


class BadImageError(ValueError):
    """A file that is no image we can use, with the reason."""


@dataclass(frozen=True)
class Decoded:
    """An image ready to be stored.

    Attributes:
        pixels: ``(3, R, R)``, see ``fitted``.
        larger: ``(3, L, L)`` of the whole image, whatever its shape; None where none is wanted.
        height: of the upright image, in pixels.
        width: likewise.
        marks: ``TURNED``, ``TRANSPARENT`` and ``SIXTEEN_BITS``, added up.
    """

    pixels: Bytes
    larger: Bytes | None
    height: int
    width: int
    marks: int


def decode(content: bytes, fit: Fit) -> Decoded:
    """Decode a file's bytes and scale the image; call it within ``decoding``.

    Raises:
        BadImageError: they are no image, an incomplete one, one of a kind that is not supported, or
            one with more pixels than Pillow's limit.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
            _check_size(*opened.size)
            # Pillow turns TIFF itself while it loads it.
            turned = opened.format == "TIFF" and _orientation(opened) != 1
            opened.load()
            image, marks = _upright_rgb(opened, turned)
        larger = _planes(image.resize((fit.larger,) * 2, fit.resample)) if fit.larger else None
        return Decoded(fitted(image, fit), larger, image.height, image.width, marks)
    except BadImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError(f"expected at most {_limit():,} pixels, found more") from None
    except UnidentifiedImageError:
        kind = "an empty file" if not content else "something else"
        raise BadImageError(f"expected JPEG, PNG, WebP, BMP or TIFF, found {kind}") from None
    except MemoryError:
        raise BadImageError("there is not enough memory for it") from None
    except Exception as error:  # decoders raise all kinds
        raise BadImageError(str(error) or type(error).__name__) from error


@contextmanager
def decoding() -> Iterator[None]:
    """Let Pillow refuse images beyond its limit, of which it else warns, and warn of nothing else.

    For all threads, since filters of warnings are the process's. Pillow's readers are loaded here,
    since the first of several threads to need one would leave the others without.
    """
    Image.init()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def fitted(image: Image.Image, fit: Fit) -> Bytes:
    """Return ``(3, R, R)`` of an RGB image, R being ``fit.resize``.

    What a centre crop of side ``fit.size`` cuts from it is, to the last bit, what transformers'
    processor for PIL makes of the image before it rescales values.
    """
    side = fit.resize
    height, width = fit.scaled(image.height, image.width)
    if width * height > _limit():
        raise BadImageError(
            f"found {image.width}x{image.height}, too long: scaled to a shorter side of {side} it "
            f"has more than {_limit():,} pixels"
        )
    if (width, height) != image.size:
        image = image.resize((width, height), fit.resample)
    # The centre crop comes later and rounds down: of this square it must find the same middle.
    # Outside the image there is black.
    left, top = ((length - fit.size) // 2 - (side - fit.size) // 2 for length in (width, height))
    return _planes(image.crop((left, top, left + side, top + side)))


def _upright_rgb(image: Image.Image, turned: bool) -> tuple[Image.Image, int]:
    """Return an image in RGB, turned as its EXIF orientation says, and its marks."""
    if _orientation(image) != 1:
        image, turned = ImageOps.exif_transpose(image), True
    marks = TURNED if turned else 0
    if image.mode.startswith("I"):
        return eight_bits(image), marks | SIXTEEN_BITS
    if image.mode == "F":
        raise BadImageError(
            "expected an image of 8 or 16 bits, found one of floating-point numbers"
        )
    if image.mode in ("RGBA", "LA", "PA"):
        lowest = image.getchannel("A").getextrema()[0]
        marks |= TRANSPARENT if isinstance(lowest, int) and lowest < 255 else 0
    elif "transparency" in image.info:
        marks |= TRANSPARENT
    return image.convert("RGB"), marks


def _orientation(image: Image.Image) -> int:
    """Return an image's EXIF orientation, 1 if it is upright or says nothing that can be read."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises all kinds
        return 1
    return found if found in range(2, 9) else 1


def eight_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of 16 bits in RGB; Pillow itself would cut off all above 255."""
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > _SIXTEEN):
        raise BadImageError(
            f"expected an image of 8 or 16 bits, found values from {values.min()} to {values.max()}"
        )
    grey = np.rint(values * (255 / _SIXTEEN)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _check_size(width: int, height: int) -> None:
    if width * height > _limit():
        raise BadImageError(
            f"found {width}x{height}, more than {_limit():,} pixels, "
            "Pillow's limit against decompression bombs"
        )


def _limit() -> int:
    return Image.MAX_IMAGE_PIXELS or 2**31


def _planes(image: Image.Image) -> Bytes:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
