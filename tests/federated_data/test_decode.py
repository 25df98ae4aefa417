"""Decoded files against transformers' loader and processors, and files that are no images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.image_utils import load_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.clip_tuning.preprocessor_file import CLIP_MEAN, CLIP_STD, HALF, SIGLIP_FILE
from fl2ora.experiment.image_fit import Fit
from fl2ora.federated_data.store.decode import (
    SIXTEEN_BITS,
    TRANSPARENT,
    TURNED,
    BadImageError,
    Decoded,
    decode,
    decoding,
)
from pictures import photo

SMALL = Fit(size=32, resize=32)
ODD_SIZES = [
    (375, 500),
    (333, 251),
    (225, 1001),
    (224, 224),
    (223, 640),
    (97, 31),
    (1, 7),
]


def decoded(content: bytes, fit: Fit = SMALL) -> Decoded:
    with decoding():
        return decode(content, fit)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def reason(content: bytes, fit: Fit = SMALL) -> str:
    with pytest.raises(BadImageError) as caught:
        decoded(content, fit)
    return str(caught.value)


def seen(content: bytes, made: Preprocessing) -> Tensor:
    """Return what the model sees of a file, by way of the store."""
    stored = torch.from_numpy(decoded(content, made.fit()).pixels)[None]
    return made.evaluation(stored)


CLIP_FILES = [
    {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}},
    {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
    {"size": {"shortest_edge": 33}, "crop_size": {"height": 32, "width": 32}},
    {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 2},
    {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}},
    {"do_resize": False, "crop_size": {"height": 224, "width": 224}},
    {"size": {"height": 24, "width": 24}, "crop_size": {"height": 32, "width": 32}},
    {
        "size": {"shortest_edge": 64, "longest_edge": 81},
        "crop_size": {"height": 64, "width": 64},
        "resample": 1,
    },
    {"size": {"max_height": 64, "max_width": 80}, "crop_size": {"height": 64, "width": 64}},
]


@pytest.mark.parametrize("file", CLIP_FILES, ids=str)
@pytest.mark.parametrize(("height", "width"), ODD_SIZES)
def test_what_the_model_sees_is_what_transformers_makes_of_the_file(
    file: dict[str, Any], height: int, width: int, tmp_path: Path
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(photo(height, width), "JPEG", quality=90))
    config = {**file, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    ours = seen(path.read_bytes(), Preprocessing.from_config(config, file["crop_size"]["height"]))
    theirs = CLIPImageProcessorPil(**config)(load_image(str(path)), return_tensors="pt")
    torch.testing.assert_close(ours, theirs["pixel_values"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize(("height", "width"), ODD_SIZES)
def test_squashed_images_are_transformers_too(height: int, width: int, resample: int) -> None:
    config = {
        "size": {"height": 64, "width": 64}, "resample": resample,
        "image_mean": HALF, "image_std": HALF,
    }  # fmt: skip
    picture = photo(height, width)
    ours = seen(encoded(picture), Preprocessing.from_config(config, 64, SIGLIP_FILE))
    theirs = SiglipImageProcessorPil(**config)(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"]
KINDS = {
    "JPEG": {"L", "RGB", "CMYK"},
    "PNG": {"1", "L", "LA", "P", "RGB", "RGBA"},
    "WEBP": {"RGB", "RGBA"},
    "BMP": {"1", "L", "P", "RGB"},
    "TIFF": {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"},
}
PAIRS = [(kind, mode) for kind, modes in KINDS.items() for mode in MODES if mode in modes]


@pytest.mark.parametrize(("kind", "mode"), PAIRS)
def test_every_format_and_mode_is_read_as_transformers_reads_it(
    kind: str, mode: str, tmp_path: Path
) -> None:
    path = tmp_path / f"picture.{kind.lower()}"
    path.write_bytes(encoded(photo(37, 52).convert(mode), kind))
    found = decoded(path.read_bytes())
    theirs = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32},
        do_rescale=False, do_normalize=False,
    )(load_image(str(path)), return_tensors="np")["pixel_values"][0]  # fmt: skip
    assert np.array_equal(found.pixels, theirs)
    assert (found.height, found.width, found.marks) == (37, 52, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture.{kind.lower()}"
    path.write_bytes(encoded(photo(30, 61), kind, exif=exif))
    found, upright = decoded(path.read_bytes(), Fit(20, 20)), load_image(str(path))
    assert found.marks == (TURNED if orientation > 1 else 0)
    assert (
        (found.width, found.height) == upright.size == ((61, 30) if orientation < 5 else (30, 61))
    )
    assert np.array_equal(found.pixels, decoded(encoded(upright), Fit(20, 20)).pixels)


def test_exif_that_cannot_be_read_is_passed_over() -> None:
    content = encoded(photo(30, 40), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\xffgarbage")
    assert decoded(content).marks == 0


def test_sixteen_bits_are_scaled_to_eight() -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        found = decoded(encoded(Image.fromarray(values), kind), Fit(1, 1, squash=True))
        assert found.marks == SIXTEEN_BITS
        wide = decoded(encoded(Image.fromarray(values.repeat(4, 0)), kind), Fit(4, 4)).pixels
        assert wide[:, 0].tolist() == [[0, 1, 128, 255]] * 3


def test_transparent_parts_are_marked_and_their_colours_seen() -> None:
    picture = photo(30, 30).convert("RGBA")
    assert decoded(encoded(picture)).marks == 0
    picture.putpixel((3, 3), (200, 100, 50, 0))
    found = decoded(encoded(picture), Fit(30, 30))
    assert found.marks == TRANSPARENT
    assert found.pixels[:, 3, 3].tolist() == [200, 100, 50]


def test_the_larger_square_is_the_whole_image() -> None:
    picture = photo(90, 150)
    found = decoded(encoded(picture), Fit(32, 32, larger=64))
    assert found.larger is not None
    whole = picture.resize((64, 64), Image.Resampling.BICUBIC)
    assert np.array_equal(found.larger, np.asarray(whole).transpose(2, 0, 1))
    assert decoded(encoded(picture)).larger is None


JPEG, PNG = encoded(photo(60, 80), "JPEG"), encoded(photo(60, 80))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected JPEG, PNG, WebP, BMP or TIFF, found an empty file"),
        (b"<html>404</html>", "expected JPEG, PNG, WebP, BMP or TIFF, found something else"),
        (encoded(photo(9, 9), "GIF"), "expected JPEG, PNG, WebP, BMP or TIFF, found something"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (PNG[:60] + b"\0\1\2" + PNG[63:], ""),
        (encoded(Image.new("F", (9, 9)), "TIFF"), "found one of floating-point numbers"),
        (encoded(Image.new("I", (9, 9), 70000), "TIFF"), "found values from 70000 to 70000"),
    ],
)  # fmt: skip
def test_what_is_no_image_says_why(content: bytes, said: str) -> None:
    assert said in reason(content)


def test_bombs_are_refused_by_pillow_s_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (35, 60):  # Pillow warns of the first and refuses the second
        assert "expected at most 1,000 pixels" in reason(encoded(photo(side, side)))
    assert decoded(encoded(photo(31, 32)), Fit(20, 20)).height == 31
    assert "found 100x1, too long: scaled to a shorter side of 20" in reason(
        encoded(photo(1, 100)), Fit(20, 20)
    )
