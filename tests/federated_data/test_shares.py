"""What each client holds: shares of the federation, divided into training and test."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.federated_data.shares import divide, share_out


def _images(count: int, classes: int = 5) -> LabelledImages:
    """Return images whose domain is their own number, so that each can be told."""
    numbers = torch.arange(count)
    pixels = (numbers % 256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return LabelledImages(pixels, numbers % classes, numbers)


def _federation(count: int) -> Federation:
    names = tuple("abcde")
    return Federation(_images(count), (), names, ("a {}",), ("all",))


def _numbers(data: LabelledImages) -> list[int]:
    return data.domains.tolist()


@given(
    count=st.integers(0, 60),
    fraction=st.floats(0, 0.9),
    seed=st.integers(0, 2**31),
    client=st.text(max_size=5),
)
@example(count=0, fraction=0.5, seed=0, client="c")
@example(count=1, fraction=0.9, seed=0, client="c")
@example(count=2, fraction=0.9, seed=0, client="c")
def test_every_image_is_in_one_part_and_one_stays_to_train(
    count: int, fraction: float, seed: int, client: str
) -> None:
    parts = divide(_images(count), fraction, seed, client)
    assert sorted(_numbers(parts.train) + _numbers(parts.test)) == list(range(count))
    assert len(parts.train) >= min(1, count)
    assert abs(len(parts.test) - count * fraction) <= 0.5 or len(parts.train) == 1 or count == 0
    assert _numbers(parts.train) == sorted(_numbers(parts.train))
    assert _numbers(parts.test) == sorted(_numbers(parts.test))


@given(
    count=st.integers(0, 60),
    fractions=st.tuples(st.floats(0, 0.6), st.floats(0, 0.6)),
    seed=st.integers(0, 2**31),
)
def test_calibration_images_are_in_no_other_part_and_leave_the_test_images_alone(
    count: int, fractions: tuple[float, float], seed: int
) -> None:
    whole, (test, calibration) = _images(count), fractions
    parts = divide(whole, test, seed, "c", calibration)
    every = [_numbers(part) for part in (parts.train, parts.test, parts.calibration)]
    assert sorted([*every[0], *every[1], *every[2]]) == list(range(count))
    assert len(parts.train) >= min(1, count)
    assert every[1] == _numbers(divide(whole, test, seed, "c").test)
    assert abs(len(every[2]) - count * calibration) <= 0.5 or len(parts.train) <= 1


def test_the_shots_of_a_client_depend_on_seed_and_client() -> None:
    def drawn(seed: int, client: str) -> list[int]:
        return _numbers(divide(_images(100), 0.0, seed, client, shots=3).train)

    assert drawn(0, "a") == drawn(0, "a")
    assert drawn(0, "a") != drawn(1, "a")
    assert drawn(0, "a") != drawn(0, "b")


def test_nothing_is_held_out_when_nothing_is_asked_for() -> None:
    parts = divide(_images(10), 0.0, 0, "c")
    assert _numbers(parts.train) == list(range(10))
    assert len(parts.test) == 0


def test_a_fifth_of_ten_is_two() -> None:
    parts = divide(_images(10), 0.2, 0, "c")
    assert (len(parts.train), len(parts.test)) == (8, 2)


def test_rows_stay_together() -> None:
    whole = _images(30)
    for part in divide(whole, 0.5, 0, "c").train, divide(whole, 0.5, 0, "c").test:
        assert part.labels.tolist() == [n % 5 for n in _numbers(part)]
        assert part.images[:, 0, 0, 0].tolist() == _numbers(part)


def test_the_division_depends_on_seed_and_client_alone() -> None:
    whole = _images(40)
    base = _numbers(divide(whole, 0.5, 3, "client-1").test)
    torch.rand(1)
    assert base == _numbers(divide(whole, 0.5, 3, "client-1").test)
    assert base != _numbers(divide(whole, 0.5, 4, "client-1").test)
    assert base != _numbers(divide(whole, 0.5, 3, "client-2").test)


@pytest.mark.parametrize("partition", ["iid", "dirichlet(beta=0.5, minimum=3)"])
def test_shares_depend_on_the_seed_alone(partition: str) -> None:
    federation = _federation(100)

    def shares(seed: int) -> list[list[int]]:
        return [_numbers(share) for share in share_out(federation, partition, 4, seed)]

    base = shares(0)
    assert sorted(number for share in base for number in share) == list(range(100))
    assert base == shares(0)
    assert base != shares(1)
    for share in share_out(federation, partition, 4, 0):
        assert share.labels.tolist() == [n % 5 for n in _numbers(share)]


def test_one_client_has_everything() -> None:
    (share,) = share_out(_federation(30), "dirichlet(beta=0.1)", 1, 0)
    assert _numbers(share) == list(range(30))


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        ("dirichlet(minimum=10)", "partition 'dirichlet(minimum=10)': 4 clients with at least 10"),
        ("dirichlet(beta=-1.0)", "beta: expected a finite number above 0"),
        ("dirichlett", "did you mean 'dirichlet'?"),
    ],
)
def test_a_partition_that_cannot_be_made_says_why(partition: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        share_out(_federation(39), partition, 4, 0)
    assert message in str(caught.value)
