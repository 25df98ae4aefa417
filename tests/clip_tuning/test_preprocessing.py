"""Preprocessing against transformers' own image processor, and the random crops and flips."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.clip_tuning.preprocessor_file import CLIP_MEAN, CLIP_STD, HALF, SIGLIP_FILE

SMALLEST_STD = min(CLIP_STD)
SIZES = [(32, 32), (32, 50), (40, 32), (64, 64), (40, 50), (51, 33), (37, 100), (20, 20), (9, 31)]


def _photo(height: int, width: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Return ``(1, C, H, W)`` uint8 with smooth parts, edges and noise, as a photo has."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = 127 + 90 * np.sin(x / 7 + rng.uniform(0, 6, (channels, 1, 1))) * np.cos(y / 5)
    edges = np.where((x > width / 3) & (y > height / 4), 60, 0)
    noise = rng.integers(-30, 30, (channels, height, width))
    return torch.from_numpy(np.clip(waves - edges + noise, 0, 255).astype(np.uint8))[None]


def _theirs(
    images: Tensor,
    config: dict[str, Any],
    kind: Any = CLIPImageProcessorPil,
    width: int | None = None,
) -> Tensor:
    """Return what transformers makes of one image, whose ``width`` may be scaled beforehand."""
    array = images[0].permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    if width is not None:
        picture = picture.resize((width, picture.height), Image.Resampling.BICUBIC)
    processor = kind(**config)
    return processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"]


def _config(size: int, resize: int | None = None) -> dict[str, Any]:
    return {
        "crop_size": {"height": size, "width": size},
        "size": {"shortest_edge": size if resize is None else resize},
        "do_resize": True,
        "do_center_crop": True,
        "do_normalize": True,
        "do_rescale": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "resample": 3,
    }


def _bytes(pixels: Tensor) -> Tensor:
    """Return ``(B, 3, S, S)`` values in 0 to 255 of what was normalised with CLIP's statistics."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (pixels * std + mean) * 255


def _assert_same_bytes(ours: Tensor, theirs: Tensor, share: float = 2e-3, most: int = 1) -> None:
    """PIL computes in fixed point: two bytes in a thousand may be off by one."""
    first, second = _bytes(ours), _bytes(theirs)
    torch.testing.assert_close(first, first.round(), rtol=0, atol=1e-3)
    difference = (first - second).abs()
    assert float(difference.max()) < most + 0.01
    assert float((difference > 0.5).float().mean()) < share


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_evaluation_equals_transformers(height: int, width: int, channels: int) -> None:
    photo = _photo(height, width, channels)
    ours = Preprocessing.from_config(_config(32), 32).evaluation(photo)
    theirs = _theirs(photo, _config(32))
    assert ours.shape == theirs.shape == (1, 3, 32, 32)
    assert ours.dtype == torch.float32
    _assert_same_bytes(ours, theirs)


def test_crop_smaller_than_resize_equals_transformers() -> None:
    photo = _photo(71, 97)
    config = _config(32, resize=40)
    ours = Preprocessing.from_config(config, 32).evaluation(photo)
    _assert_same_bytes(ours, _theirs(photo, config))


@pytest.mark.parametrize("resize", [32, 40])
def test_height_and_width_with_centre_crop_scale_both_sides(resize: int) -> None:
    photo = _photo(71, 97)
    config = {**_config(32), "size": {"height": resize, "width": resize}}
    made = Preprocessing.from_config(config, 32)
    assert made == Preprocessing(32, resize, squash=True)
    _assert_same_bytes(made.evaluation(photo), _theirs(photo, config))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rescale_factor": 0}, "rescale_factor: expected a number above 0 such as 1/255, found 0"),
        ({"resample": 6}, r"resample: expected one of 0 \(nearest\), .* 5 \(hamming\), found 6"),
        ({"resample": True}, "resample: expected one of 0"),
        (
            {"size": {"shortest_edge": 24, "longest_edge": 64}},
            "size: expected shortest_edge and longest_edge of at least crop_size 32",
        ),
        (
            {"size": {"max_height": 64, "max_width": "x"}},
            "size: expected max_height and max_width of at least crop_size 32",
        ),
        ({"size": {"height": 32, "width": 48}}, "size: expected a square, found 32x48"),
        ({"size": {"longest_edge": 32}}, "size: expected a number, height and width, or shorte"),
        ({"size": {"shortest_edge": 24}}, "size: expected at least crop_size 32, found 24"),
        ({"crop_size": {"height": 32, "width": 48}}, "crop_size: expected a square, found 32x48"),
        ({"image_mean": [0.5]}, r"image_mean: expected three values, found \[0.5\]"),
    ],
)  # fmt: skip
def test_unsupported_keys_with_centre_crop_are_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^preprocessor_config.json: {message}"):
        Preprocessing.from_config({**_config(32), **values}, 32)


OTHER_FORMS: list[dict[str, Any]] = [
    {"do_resize": False},
    {"size": {"height": 24, "width": 24}},
    {"size": {"shortest_edge": 32, "longest_edge": 40}},
    {"size": {"shortest_edge": 40, "longest_edge": 33}},
    {"size": {"max_height": 48, "max_width": 36}},
    *({"resample": number} for number in (0, 1, 4, 5)),
    *({"resample": number, "size": {"height": 45, "width": 45}} for number in (0, 1, 4, 5)),
]


@pytest.mark.parametrize("values", OTHER_FORMS, ids=str)
@pytest.mark.parametrize(("height", "width"), [*SIZES, (20, 71), (71, 20), (32, 31), (9, 9)])
def test_other_forms_of_size_and_filters_equal_transformers(
    height: int, width: int, values: dict[str, Any]
) -> None:
    photo, config = _photo(height, width), {**_config(32), **values}
    ours = Preprocessing.from_config(config, 32).evaluation(photo)
    theirs = _theirs(photo, config)
    if width >= height:
        _assert_same_bytes(ours, theirs, share=2e-2)
    else:  # Pillow may scale the height first: see below
        assert float((_bytes(ours) - _bytes(theirs)).abs().mean()) < 0.5


@pytest.mark.parametrize(
    "values", [{"resample": 2}, {"resample": 2, "size": {"height": 40, "width": 40}}], ids=str
)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_bilinear_scaling_equals_transformers(height: int, width: int, values: Any) -> None:
    photo, config = _photo(height, width), {**_config(32), **values}
    ours = Preprocessing.from_config(config, 32).evaluation(photo)
    # Of bilinear weights, many sums end in a half, which PIL rounds up or down, in each direction.
    _assert_same_bytes(ours, _theirs(photo, config), share=0.3, most=2)


@pytest.mark.parametrize(
    "values",
    [
        {"do_rescale": False, "do_normalize": False},
        {"do_rescale": False},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
        {"rescale_factor": 0.5},
    ],
    ids=str,
)
def test_rescaling_and_normalising_equal_transformers(values: dict[str, Any]) -> None:
    photo, config = _photo(32, 32), {**_config(32), **values}
    ours = Preprocessing.from_config(config, 32).evaluation(photo)
    torch.testing.assert_close(ours, _theirs(photo, config).float(), rtol=1e-6, atol=1e-5)


def test_evaluation_at_224_pixels() -> None:
    photo = _photo(240, 333)
    ours = Preprocessing.from_config(_config(224), 224).evaluation(photo)
    _assert_same_bytes(ours, _theirs(photo, _config(224)))


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    photo = _photo(32, 32)
    mean = torch.tensor(CLIP_MEAN).view(3, 1, 1)
    std = torch.tensor(CLIP_STD).view(3, 1, 1)
    expected = (photo / 255 - mean) / std
    found = Preprocessing(32, 32).evaluation(photo)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found, _theirs(photo, _config(32)), rtol=0, atol=1e-5)


def test_statistics_come_from_the_file() -> None:
    config = {**_config(32), "image_mean": [0.5, 0.25, 0.0], "image_std": [0.5, 0.5, 0.25]}
    white = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    found = Preprocessing.from_config(config, 32).evaluation(white)
    assert found[0, :, 0, 0].tolist() == [1.0, 1.5, 4.0]


def test_a_batch_equals_its_images_one_by_one() -> None:
    photos = torch.cat([_photo(40, 50, seed=seed) for seed in range(3)])
    made = Preprocessing(32, 32)
    whole = made.evaluation(photos)
    parts = torch.cat([made.evaluation(photo[None]) for photo in photos])
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-6)
    assert made.evaluation(photos[:0]).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, Preprocessing(32, 32)),
        ({"crop_size": 32, "size": 32}, Preprocessing(32, 32)),
        ({"crop_size": 32, "size": 48}, Preprocessing(32, 48)),
        ({"size": {"shortest_edge": 36}}, Preprocessing(32, 36)),
        ({"crop_size": {"height": 32, "width": 32}}, Preprocessing(32, 32)),
        (
            {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]},
            Preprocessing(32, 32, (0, 0, 0), (1, 1, 1)),
        ),
    ],
)  # fmt: skip
def test_from_config_reads_old_and_new_files(
    config: dict[str, Any], expected: Preprocessing
) -> None:
    assert Preprocessing.from_config(config, 32) == expected


def test_a_crop_of_another_size_than_the_model_s_is_refused() -> None:
    with pytest.raises(ValueError, match="crop_size 224 does not fit the model's image_size 32"):
        Preprocessing.from_config(_config(224), 32)


def _squashing(**values: Any) -> dict[str, Any]:
    """Return what SigLIP's file says."""
    return {
        "size": {"height": 32, "width": 32},
        "do_convert_rgb": None,
        "do_resize": True,
        "do_normalize": True,
        "do_rescale": True,
        "image_mean": list(HALF),
        "image_std": list(HALF),
        "resample": 3,
        "rescale_factor": 1 / 255,
        **values,
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [*SIZES, (32, 90), (240, 333)])
def test_squashing_equals_transformers(height: int, width: int, channels: int) -> None:
    """As above, up to PIL's rounding.

    Pillow scales the width first, as we do; from 13 on the height where that shrinks much more
    (python-pillow/Pillow#9549), which shows where bicubic overshoots.
    """
    photo = _photo(height, width, channels)
    ours = Preprocessing.from_config(_squashing(), 32, SIGLIP_FILE).evaluation(photo)
    theirs = _theirs(photo, _squashing(), SiglipImageProcessorPil)
    width_first = _theirs(photo, _squashing(), SiglipImageProcessorPil, width=32)
    assert ours.shape == theirs.shape == (1, 3, 32, 32)
    torch.testing.assert_close(ours, width_first, rtol=0, atol=1.5 / 255 / 0.5)
    assert float((ours - theirs).abs().mean()) < 0.5 / 255 / 0.5
    if width >= height:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1.5 / 255 / 0.5)


def test_squashing_from_a_clip_file() -> None:
    photo = _photo(71, 97)
    config = {**_config(32), "size": {"height": 32, "width": 32}, "do_center_crop": False}
    made = Preprocessing.from_config(config, 32)
    assert made == Preprocessing(32, 32, squash=True)
    found, theirs = made.evaluation(photo), _theirs(photo, config)
    _assert_same_bytes(found, theirs)
    cropped = Preprocessing(32, 32).evaluation(photo)
    assert float((found - cropped).abs().max()) > 0.5


@pytest.mark.parametrize(
    "config", [{}, {"do_center_crop": None, "image_mean": None}, _squashing()], ids=str
)
def test_defaults_of_a_siglip_file(config: dict[str, Any]) -> None:
    expected = Preprocessing(32, 32, HALF, HALF, squash=True)
    assert Preprocessing.from_config(config, 32, SIGLIP_FILE) == expected


@pytest.mark.parametrize("augmentation", ["flip", "crop_flip"])
def test_augmentation_with_squashing(augmentation: Any) -> None:
    photos = torch.cat([_photo(28, 40, seed=seed) for seed in range(8)])
    first, other = (
        Preprocessing(32, 32, squash=squash).training(photos, augmentation, _generator())
        for squash in (True, False)
    )
    assert first.shape == (8, 3, 32, 32)
    assert torch.equal(first, other) == (augmentation == "crop_flip")


@pytest.mark.parametrize(
    ("values", "image_size", "message"),
    [
        ({"do_resize": False}, 32, "do_resize: expected True where there is no centre crop"),
        ({"rescale_factor": "x"}, 32, "rescale_factor: expected a number above 0 such as 1/255"),
        ({"resample": 7}, 32, "resample: expected one of .*, found 7"),
        ({"size": {"height": 32, "width": 48}}, 32, "size: expected a square, found 32x48"),
        ({"size": {"shortest_edge": 32}}, 32, "size: expected height and width where there is no"),
        ({"size": 32}, 32, "size: expected height and width where there is no centre crop"),
        ({}, 64, "size 32 does not fit the model's image_size 64"),
        ({}, (32, 48), "image_size: expected a square, found 32x48"),
    ],
)  # fmt: skip
def test_unsupported_keys_without_centre_crop_are_refused(
    values: dict[str, Any], image_size: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_config(_squashing(**values), image_size, SIGLIP_FILE)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmentation_none_equals_evaluation_and_draws_nothing() -> None:
    made, photo, rng = Preprocessing(32, 32), _photo(40, 50), _generator()
    assert torch.equal(made.training(photo, "none", rng), made.evaluation(photo))
    assert torch.equal(rng.get_state(), _generator().get_state())


def test_flip_mirrors_or_leaves_each_image() -> None:
    photos = torch.cat([_photo(40, 50, seed=seed) for seed in range(64)])
    made = Preprocessing(32, 32)
    plain = made.evaluation(photos)
    found = made.training(photos, "flip", _generator())
    same = (found == plain).flatten(1).all(1)
    mirrored = (found == plain.flip(-1)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 16 < int(mirrored.sum()) < 48


@pytest.mark.parametrize("augmentation", ["flip", "crop_flip"])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_depends_on_its_generator_alone(augmentation: Any, channels: int) -> None:
    photos = torch.cat([_photo(28, 40, channels, seed) for seed in range(8)])
    made = Preprocessing(32, 32)
    first = made.training(photos, augmentation, _generator(1))
    assert first.shape == (8, 3, 32, 32)
    torch.rand(3)
    assert torch.equal(first, made.training(photos, augmentation, _generator(1)))
    assert not torch.equal(first, made.training(photos, augmentation, _generator(2)))
    rng = _generator(1)
    made.training(photos, augmentation, rng)
    assert not torch.equal(first, made.training(photos, augmentation, rng))


@pytest.mark.parametrize("seed", range(6))
def test_a_crop_is_pil_s_crop_and_antialiased_resize(seed: int) -> None:
    """A box of whole pixels of the image, some of them far larger than the model's input."""
    photo = _photo(150, 210, seed=seed)
    unit = Preprocessing(32, 32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    found = unit.training(photo, "crop_flip", _generator(seed))[0] * 255
    picture = Image.fromarray(photo[0].permute(1, 2, 0).numpy())
    area, ratio, x, y = torch.rand((4, 1), generator=_generator(seed), dtype=torch.float64)
    area = (0.08 + 0.92 * area) * 150 * 210
    ratio = math.log(3 / 4) + ratio * (math.log(4 / 3) - math.log(3 / 4))
    width = min(210, round(math.sqrt(area * math.exp(ratio))))
    height = min(150, round(math.sqrt(area / math.exp(ratio))))
    left, top = int(x * (210 - width + 1)), int(y * (150 - height + 1))
    crop = picture.crop((left, top, left + width, top + height))
    crop = crop.resize((32, height), Image.Resampling.BICUBIC)
    expected = np.asarray(crop.resize((32, 32), Image.Resampling.BICUBIC)).astype(np.float32)
    theirs = torch.from_numpy(expected).permute(2, 0, 1)
    difference = torch.stack([(found - theirs).abs(), (found - theirs.flip(-1)).abs()])
    difference = difference[difference.flatten(1).sum(1).argmin()]
    assert float(difference.max()) < 1.01
    assert float((difference > 0.5).float().mean()) < 5e-3


def _crops(picture: Image.Image, seed: int) -> tuple[Tensor, Tensor]:
    """Return a random crop by way of a larger square, and of the picture itself."""
    unit = Preprocessing(64, 64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    whole = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    squashed = picture.resize((128, 128), Image.Resampling.BICUBIC)
    larger = torch.from_numpy(np.array(squashed)).permute(2, 0, 1)[None]
    shapes = torch.tensor([[picture.height, picture.width]])
    return (
        unit.training(larger, "crop_flip", _generator(seed), shapes),
        unit.training(whole, "crop_flip", _generator(seed)),
    )


@pytest.mark.parametrize(("height", "width"), [(107, 143), (300, 200), (128, 128), (90, 410)])
def test_crops_from_a_larger_square_are_those_of_the_image(height: int, width: int) -> None:
    """On ramps, where scaling twice loses nothing but bytes and borders."""
    y, x = np.mgrid[0:height, 0:width]
    ramps = np.stack([255 * x / width, 255 * y / height, 127 + 0 * x], axis=-1)
    picture = Image.fromarray(ramps.round().astype(np.uint8))
    for seed in range(20):
        stored, original = _crops(picture, seed)
        difference = (stored - original)[..., 4:-4, 4:-4].abs() * 255
        assert float(difference.max()) < 4.5  # a box is rounded to whole pixels of either


def test_crops_of_an_image_that_has_the_larger_size_are_the_same() -> None:
    picture = Image.fromarray(_photo(128, 128)[0].permute(1, 2, 0).numpy())
    for seed in range(10):
        assert torch.equal(*_crops(picture, seed))


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (5, 7)])
def test_crops_of_images_of_odd_shapes_stay_in_range(shape: tuple[int, int]) -> None:
    larger = _photo(64, 64).expand(30, -1, -1, -1)
    unit = Preprocessing(32, 32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    crops = unit.training(larger, "crop_flip", _generator(), torch.tensor([shape] * 30))
    assert crops.shape == (30, 3, 32, 32)
    assert 0 <= float(crops.min()) <= float(crops.max()) <= 1


@pytest.mark.parametrize(("height", "width"), [(28, 28), (40, 100), (100, 30), (32, 32), (5, 7)])
def test_crops_of_any_shape_stay_in_range(height: int, width: int) -> None:
    photos = _photo(height, width).expand(50, -1, -1, -1)
    unit = Preprocessing(32, 32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    crops = unit.training(photos, "crop_flip", _generator())
    assert crops.shape == (50, 3, 32, 32)
    assert torch.isfinite(crops).all()
    assert 0 <= float(crops.min()) <= float(crops.max()) <= 1


def test_crop_of_a_constant_image_is_constant() -> None:
    flat = torch.full((4, 3, 20, 30), 51, dtype=torch.uint8)
    unit = Preprocessing(32, 32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    crops = unit.training(flat, "crop_flip", _generator())
    torch.testing.assert_close(crops, torch.full_like(crops, 0.2), rtol=0, atol=1e-5)


def test_crop_boxes_keep_the_limits_of_area_and_ratio() -> None:
    """On an image whose channels hold the coordinates, a crop's corners tell its box."""
    side = 128
    ramp = torch.linspace(0, 255, side).round().to(torch.uint8)
    image = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)])
    images = torch.cat([image, image[:1]])[None].expand(400, -1, -1, -1)
    unit = Preprocessing(64, 64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    crops = unit.training(images, "crop_flip", _generator())
    middle = crops[:, :, 20:44, 20:44]  # inner part: bicubic borders are not linear
    width = (middle[:, 0, :, -1] - middle[:, 0, :, 0]).mean(1) * 64 / 23
    height = (middle[:, 1, -1] - middle[:, 1, 0]).mean(1) * 64 / 23
    flipped = width < 0
    width, area = width.abs(), width.abs() * height
    assert bool((height > 0).all())
    assert 150 < int(flipped.sum()) < 250
    assert float(width.max()) < 1.03
    assert float(height.max()) < 1.03
    assert 0.07 < float(area.min()) < 0.15
    assert 0.8 < float(area.max()) < 1.05
    inside = (width < 0.97) & (height < 0.97)  # boxes that the image did not cut
    ratio = (width / height)[inside]
    assert 0.72 < float(ratio.min()) < 0.8
    assert 1.25 < float(ratio.max()) < 1.4
    centre = crops[:, :2, 31:33, 31:33].mean((2, 3))
    assert 0.45 < float(centre.mean()) < 0.55
    assert float(centre.std(0).min()) > 0.08


def test_tiny_clip_file_is_in_transformers_form(tiny_clip_folder: Path) -> None:
    processor = CLIPImageProcessorPil.from_pretrained(tiny_clip_folder)
    photo = _photo(40, 50)
    picture = Image.fromarray(photo[0].permute(1, 2, 0).numpy())
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(
        Preprocessing(32, 32).evaluation(photo), theirs, rtol=0, atol=1.5 / 255 / SMALLEST_STD
    )
