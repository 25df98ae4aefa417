"""Copies planted in every pair of splits are found: stopped, dropped or reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.checks import check_federation
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.leaks import OnLeak, leaks_among_clients, without_leaks
from fl2ora.federated_data.protocols.base import Federation, HeldOutPart, PartMean
from fl2ora.federated_data.shares import ClientData, check_division, load_federation

MODES = get_args(OnLeak)


def images(*numbers: int) -> LabelledImages:
    """Return images that hold these numbers; equal numbers are equal images."""
    values = torch.tensor(numbers, dtype=torch.int64)
    pixels = values.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return LabelledImages(pixels, torch.zeros_like(values), torch.zeros_like(values))


def held(data: LabelledImages) -> list[int]:
    return [int(number) for number in data.images[:][:, 0, 0, 0]]


def federation(train: LabelledImages, **parts: LabelledImages) -> Federation:
    found = tuple(HeldOutPart(name, data, ("a", "b"), ("{}",)) for name, data in parts.items())
    return Federation(train, found, ("a", "b"), ("{}",), ("all",))


@pytest.mark.parametrize("mode", MODES)
def test_data_without_copies_is_left_as_it_is(mode: Any) -> None:
    whole = federation(images(1, 2, 3), test=images(4, 5), other=images(6))
    found = without_leaks(whole, mode)
    assert held(found.train) == [1, 2, 3]
    assert (found.notes, found.repeated) == ((), False)


@pytest.mark.parametrize("part", ["test", "other"])
def test_a_training_image_in_any_held_out_part(part: str) -> None:
    parts = {"test": [4, 5], "other": [6]}
    parts[part].append(2)
    whole = federation(images(1, 2, 3), **{name: images(*n) for name, n in parts.items()})
    with pytest.raises(UserError, match="1 of the 4 held-out images are training images, byte by"):
        without_leaks(whole, "stop")
    dropped = without_leaks(whole, "drop")
    assert held(dropped.train) == [1, 3]
    assert [held(p.images) for p in dropped.parts] == [parts["test"], parts["other"]]
    assert dropped.notes == (
        "1 of the 4 held-out images are training images, too",
        "1 training images are left out as copies of others",
    )
    reported = without_leaks(whole, "report")
    assert held(reported.train) == [1, 2, 3]
    assert reported.notes == dropped.notes[:1]


def test_a_copy_with_another_label_is_a_copy() -> None:
    leaked = images(2)
    leaked = LabelledImages(leaked.images, torch.ones_like(leaked.labels), leaked.domains)
    with pytest.raises(UserError, match="1 of the 1 held-out images"):
        without_leaks(federation(images(1, 2), test=leaked), "stop")


def test_an_image_in_two_held_out_parts_is_reported_and_stops_nothing() -> None:
    whole = federation(images(1), test=images(4, 5, 5), other=images(5, 6))
    for mode in MODES:
        assert without_leaks(whole, mode).notes == (
            "1 images stand in more than one held-out part",
        )


def test_equal_training_images_are_dropped_or_remembered() -> None:
    whole = federation(images(1, 2, 1, 1, 3), test=images(4))
    dropped = without_leaks(whole, "drop")
    assert (held(dropped.train), dropped.repeated) == ([1, 2, 3], False)
    assert dropped.notes == ("2 training images are left out as copies of others",)
    for mode in ("stop", "report"):
        kept = without_leaks(whole, mode)  # type: ignore[arg-type]
        assert (held(kept.train), kept.repeated) == ([1, 2, 1, 1, 3], True)
        assert kept.notes == ("2 training images are copies of others",)


PAIRS = [
    ("train", "test", "1 of the 2 held-out images of clients are training images of a client"),
    ("train", "calibration", "1 of the 2 calibration images of clients are training images of"),
    ("test", "calibration", "1 of the 2 calibration images of clients are held-out images of a"),
]


@pytest.mark.parametrize("same_client", [True, False])
@pytest.mark.parametrize(("first", "second", "message"), PAIRS)
def test_a_copy_in_every_pair_of_a_clients_parts(
    first: str, second: str, message: str, same_client: bool
) -> None:
    parts: list[dict[str, list[int]]] = [
        {"train": [10 * i + 1], "test": [10 * i + 2], "calibration": [10 * i + 3]} for i in (0, 1)
    ]
    parts[0 if same_client else 1][second] = [parts[0][first][0]]
    clients = [ClientData(**{k: images(*n) for k, n in part.items()}) for part in parts]
    whole = replace(federation(images()), repeated=True)
    with pytest.raises(UserError, match=f"clients: {message}"):
        check_division(whole, clients, "stop")
    for mode in ("drop", "report"):
        (note,) = check_division(whole, clients, mode)  # type: ignore[arg-type]
        assert note.startswith(message)
    assert check_division(replace(whole, repeated=False), clients, "stop") == ()


def test_training_images_that_two_clients_share_are_no_leak() -> None:
    found = leaks_among_clients([images(1, 2), images(2)], [images(3)], [images(4)], "stop")
    assert found == ()


@given(
    train=st.lists(st.integers(0, 12), max_size=12),
    test=st.lists(st.integers(0, 12), min_size=1, max_size=8),
)
def test_after_dropping_no_training_image_is_held_out_or_there_twice(
    train: list[int], test: list[int]
) -> None:
    found = without_leaks(federation(images(*train), test=images(*test)), "drop")
    assert held(found.train) == [n for n in dict.fromkeys(train) if n not in test]
    assert without_leaks(found, "stop").train.labels.numel() == len(held(found.train))


def test_a_run_says_which_choice_there_is() -> None:
    spec = "tiny_datasets:Flawed(copies=3)"
    with pytest.raises(UserError, match=r"on-leak='drop' trains without them"):
        load_federation(spec, "in_distribution")
    assert len(load_federation(spec, "in_distribution", on_leak="drop").train) == 37
    assert len(load_federation(spec, "in_distribution", on_leak="report").train) == 40
    with pytest.raises(UserError, match="on-leak: expected stop, drop or report, found 'ignore'"):
        load_federation(spec, "in_distribution", on_leak="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "names",
    [("", "new"), ("a", "a"), ("a/b",), (" a",), ("a\n",), ("a-calibrated",), ("a", "mean")],
)
def test_parts_need_names_of_their_own(names: tuple[str, ...]) -> None:
    part = HeldOutPart("", images(4), ("a", "b"), ("{}",))
    whole = federation(images(1))
    named = tuple(replace(part, name=name) for name in names)
    with pytest.raises(UserError, match="held-out parts: expected names that differ"):
        check_federation(replace(whole, parts=named, means=(PartMean("mean", names),)))
    check_federation(replace(whole, parts=(part,)))


def test_parts_need_images_and_labels_of_their_classes() -> None:
    whole = federation(images(1), test=images())
    with pytest.raises(UserError, match="test test: expected at least one image to measure on"):
        check_federation(whole)
    wrong = LabelledImages(images(4).images, torch.tensor([2]), torch.tensor([0]))
    with pytest.raises(UserError, match=r"test test: labels: expected 0 to 1, .* found 2"):
        check_federation(federation(images(1), test=wrong))
    with pytest.raises(UserError, match="coarse_of: expected the superclass of 2 classes, found 1"):
        check_federation(replace(federation(images(1)), coarse_of=(0,)))
