"""The procedural image world: determinism, balance, disjoint splits, clear errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fl2ora.experiment.plugins import load
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.datasets.shapes import HELD_BACK_STYLES, SEEN_STYLES, Shapes
from fl2ora.federated_data.datasets.shapes_drawing import STYLES, draw_shapes
from fl2ora.federated_data.datasets.shapes_outlines import (
    EXTENT,
    RESOLUTION,
    SHAPE_NAMES,
    _signed_distance,
    distance_table,
    sample_distance,
    shape_polygons,
)


def test_styles_are_parted_into_seen_and_held_back() -> None:
    assert set(SEEN_STYLES) | set(HELD_BACK_STYLES) == set(STYLES)
    assert not set(SEEN_STYLES) & set(HELD_BACK_STYLES)
    assert len(STYLES) >= 8
    assert len(HELD_BACK_STYLES) >= 2
    assert len(set(SHAPE_NAMES)) == 16


def test_a_spec_string_finds_it() -> None:
    dataset = load("shapes(styles='neon,chalk', train=32)", Dataset)
    assert isinstance(dataset, Shapes)
    assert dataset.domains == ("neon", "chalk")
    assert len(dataset.split("train")) == 32


def test_images_are_rgb_bytes_with_balanced_classes_and_styles() -> None:
    dataset = Shapes(styles="all", train=16 * len(STYLES) * 2, validation=16, test=16)
    train = dataset.split("train")
    assert train.images.shape == (16 * len(STYLES) * 2, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    pairs = train.labels * len(STYLES) + train.domains
    assert torch.bincount(pairs).tolist() == [2] * (16 * len(STYLES))


def test_classes_are_balanced_to_one_image_when_counts_do_not_divide() -> None:
    counts = torch.bincount(Shapes(styles="neon", train=50).split("train").labels, minlength=16)
    assert counts.max() - counts.min() <= 1


def test_equal_arguments_give_equal_images_and_other_seeds_give_others() -> None:
    first = Shapes(styles="seen", train=64, seed=3).split("train")
    same = Shapes(styles="seen", train=64, seed=3).split("train")
    other = Shapes(styles="seen", train=64, seed=4).split("train")
    assert torch.equal(first.images[:], same.images[:])
    assert torch.equal(first.labels, same.labels)
    assert torch.equal(first.domains, same.domains)
    assert not torch.equal(first.images[:], other.images[:])


def test_drawing_does_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    Shapes(train=32).split("train")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_split_is_drawn_once() -> None:
    dataset = Shapes(train=16)
    assert dataset.split("train") is dataset.split("train")


def test_splits_share_no_image() -> None:
    dataset = Shapes(styles="all", train=400, validation=400, test=400)
    rows = {
        name: {image.numpy().tobytes() for image in dataset.split(name).images}
        for name in ("train", "validation", "test")
    }
    assert all(len(images) == 400 for images in rows.values())
    for one, other in itertools.combinations(rows.values(), 2):
        assert not one & other


@pytest.mark.parametrize("style", sorted(STYLES))
def test_every_style_shows_the_shape(style: str) -> None:
    """The same random numbers with another shape must change the picture around its middle."""
    labels = torch.arange(16)
    images = draw_shapes(style, labels, torch.Generator().manual_seed(0)).float()
    others = draw_shapes(style, labels.roll(1), torch.Generator().manual_seed(0)).float()
    changed = ((images - others).abs().amax(dim=1) > 8).float().mean(dim=(1, 2))
    assert images.std(dim=(1, 2, 3)).min() > 1
    assert changed.min() > 0.005


def test_distances_of_known_outlines() -> None:
    table = distance_table()
    middle = RESOLUTION // 2  # the nearest entry lies half a step from the origin
    step = 2 * EXTENT / (RESOLUTION - 1)
    assert table.shape == (16, RESOLUTION, RESOLUTION)
    circle, square, ring = (SHAPE_NAMES.index(name) for name in ("circle", "square", "ring"))
    assert table[circle, middle, middle] == pytest.approx(-0.92, abs=step)
    assert table[square, middle, middle] == pytest.approx(-0.8, abs=step)
    assert table[ring, middle, middle] == pytest.approx(0.52, abs=step)  # the hole is outside
    assert table[square, 0, 0] == pytest.approx((EXTENT - 0.8) * 2**0.5, abs=1e-5)


def test_distances_to_a_square_with_a_square_hole() -> None:
    """Against the closed form of a box: each polygon is closed by an edge of its own."""
    square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    points = np.random.default_rng(0).uniform(-2, 2, (500, 2))

    def box(half: float) -> NDArray[np.float64]:
        beyond = np.abs(points) - half
        outside = np.hypot(*np.maximum(beyond, 0).T)
        distance: NDArray[np.float64] = outside + np.minimum(beyond.max(axis=1), 0)
        return distance

    expected = np.maximum(box(1.0), -box(0.4))
    found = _signed_distance([square, 0.4 * square], points)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_shapes_fit_their_table_and_have_an_inside() -> None:
    for index, name in enumerate(SHAPE_NAMES):
        corners = np.concatenate(shape_polygons(name))
        assert np.abs(corners).max() < 1.2, name
        assert 0.02 < float((distance_table()[index] < 0).float().mean()) < 0.2, name


def test_lookup_interpolates_and_stays_inside_the_table() -> None:
    labels = torch.tensor([SHAPE_NAMES.index("square")])
    x = torch.tensor([[[0.0, 0.5, 100.0]]])
    found = sample_distance(labels, x, torch.zeros_like(x))
    assert found[0, 0].tolist() == pytest.approx([-0.8, -0.3, EXTENT - 0.8], abs=0.04)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"styles": "neonn"}, "styles: .*found 'neonn'; did you mean 'neon'"),
        ({"styles": "neon,chulk"}, "styles: .*found 'chulk'; did you mean 'chalk'"),
        ({"styles": "heldback"}, "styles: .*did you mean 'held-back'"),
        ({"styles": "neon,neon"}, "styles: .*'neon' more than once"),
        ({"styles": ""}, "styles: expected .*found ''"),
        ({"styles": 3}, "styles: expected .*found 3"),
        ({"train": 0}, "train: expected a whole number >= 1, found 0"),
        ({"validation": 1.5}, "validation: expected a whole number >= 1, found 1.5"),
        ({"test": True}, "test: expected a whole number >= 1, found True"),
        ({"seed": -1}, "seed: expected a whole number >= 0, found -1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shapes(**arguments)  # type: ignore[arg-type]


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match=r"split: .*found 'tset'; did you mean 'test'"):
        Shapes().split("tset")  # type: ignore[arg-type]
