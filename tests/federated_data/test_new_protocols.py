"""Base-to-new, in-domain, cross-dataset and few-shot: what is trained on and what is held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available, load
from fl2ora.experiment.spec import parse_spec, split_outside
from fl2ora.federated_data.datasets.base import Dataset, SplitName
from fl2ora.federated_data.few import few_of_each
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import PartMean, Protocol
from fl2ora.federated_data.protocols.base_to_new import BaseToNew
from fl2ora.federated_data.protocols.cross_dataset import CrossDataset
from fl2ora.federated_data.protocols.few_shot import FewShot
from fl2ora.federated_data.protocols.in_domain import InDomain
from fl2ora.federated_data.shares import divide, load_federation


class Numbered(Dataset):
    """Every image is filled with its own number: 0.. in training, 100.. in test."""

    templates = ("a {}.",)

    def __init__(self, classes: int = 5, domains: int = 3, coarse: bool = False) -> None:
        self.class_names = tuple(f"thing {number}" for number in range(classes))
        self.domains = tuple(f"style {number}" for number in range(domains))
        self.coarse_of = tuple(number % 2 for number in range(classes)) if coarse else None

    def split(self, name: SplitName) -> LabelledImages:
        first = {"train": 0, "validation": 80, "test": 100}[name]
        numbers = torch.arange(first, first + 60)
        images = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        return LabelledImages(images, numbers % len(self.class_names), numbers % len(self.domains))


def numbers(data: LabelledImages) -> list[int]:
    return [int(number) for number in data.images[:][:, 0, 0, 0]]


def test_each_domain_is_a_part_and_all_are_trained_on() -> None:
    found = InDomain().arrange(Numbered())
    assert numbers(found.train) == list(range(60))
    assert [part.name for part in found.parts] == ["style 0", "style 1", "style 2"]
    for index, part in enumerate(found.parts):
        assert numbers(part.images) == [n for n in range(100, 160) if n % 3 == index]
        assert part.class_names == found.class_names
    assert found.means == (PartMean("mean", ("style 0", "style 1", "style 2")),)
    with pytest.raises(ValueError, match="in_domain: expected a dataset of two or more domains"):
        InDomain().arrange(Numbered(domains=1))


@pytest.mark.parametrize(("classes", "base"), [(4, 2), (5, 3), (16, 8), (47, 24)])
def test_the_first_half_of_the_classes_is_trained_on(classes: int, base: int) -> None:
    """The larger one where they are odd, as CoOp's ceil(n / 2)."""
    dataset = Numbered(classes, coarse=True)
    found = BaseToNew().arrange(dataset)
    assert found.class_names == dataset.class_names[:base]
    assert found.coarse_of == tuple(number % 2 for number in range(base))
    assert numbers(found.train) == [n for n in range(60) if n % classes < base]
    assert found.train.labels.tolist() == [n % classes for n in numbers(found.train)]
    old, new = found.parts
    assert (old.name, old.class_names) == ("base", dataset.class_names[:base])
    assert (new.name, new.class_names) == ("new", dataset.class_names[base:])
    assert numbers(old.images) == [n for n in range(100, 160) if n % classes < base]
    assert numbers(new.images) == [n for n in range(100, 160) if n % classes >= base]
    assert new.images.labels.tolist() == [n % classes - base for n in numbers(new.images)]
    assert found.means == (PartMean("harmonic-mean", ("base", "new"), harmonic=True),)


def test_fewer_than_two_classes_a_half_are_refused() -> None:
    with pytest.raises(ValueError, match="base_to_new: expected a dataset of at least 4 classes"):
        BaseToNew().arrange(Numbered(3))


def test_other_datasets_are_parts_with_their_own_classes() -> None:
    spec = f"{__name__}:Numbered(classes=7)"
    found = CrossDataset(f"{spec}; shapes(styles='neon', test=16, train=1) ;{spec}").arrange(
        Numbered()
    )
    assert [part.name for part in found.parts] == ["source", "Numbered", "shapes", "Numbered 2"]
    assert [len(part.class_names) for part in found.parts] == [5, 7, 16, 7]
    assert found.parts[2].templates == ("a picture of a {}.",)
    assert numbers(found.train) == list(range(60))
    assert found.means == (PartMean("target-mean", ("Numbered", "shapes", "Numbered 2")),)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("", "targets: expected specs of datasets with ; between them"),
        (" ; ", "targets: expected specs of datasets with ; between them"),
        ("shape", "did you mean 'shapes'?"),
        ("shapes(style='neon')", "did you mean 'styles'?"),
        ("shapes; shapes(", "the brackets do not hold a list|is not of the form"),
    ],
)
def test_a_wrong_target_is_named(targets: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(f"cross_dataset(targets={targets!r})", Protocol)


def test_a_target_that_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(UserError, match="class_names"):
        load_federation(
            "shapes(train=4, test=4)",
            "cross_dataset(targets='tiny_datasets:Flawed(\"class_names\", ())')",
        )


def test_semicolons_in_quotes_and_brackets_do_not_part() -> None:
    assert split_outside("a(x='1;2'); b([3;4])", ";") == ["a(x='1;2')", " b([3;4])"]


@given(
    labels=st.lists(st.integers(0, 5), max_size=60),
    shots=st.integers(1, 8),
    seed=st.integers(0, 2**31),
)
def test_so_many_of_each_class_are_drawn_or_all_there_are(
    labels: list[int], shots: int, seed: int
) -> None:
    tensor = torch.tensor(labels, dtype=torch.int64)
    chosen = few_of_each(tensor, shots, np.random.default_rng(seed))
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    counts = np.bincount(tensor[chosen].numpy(), minlength=6)
    assert counts.tolist() == [min(shots, labels.count(label)) for label in range(6)]
    again = few_of_each(tensor, shots, np.random.default_rng(seed))
    assert torch.equal(chosen, again)


def test_another_order_of_labels_draws_the_same_images() -> None:
    labels = torch.tensor([0, 1, 2] * 9)
    other = torch.tensor([2, 0, 1])[labels]
    first, second = (few_of_each(x, 4, np.random.default_rng(5)) for x in (labels, other))
    assert torch.equal(first, second)


def test_every_image_of_a_class_may_be_drawn() -> None:
    drawn = {
        int(n)
        for seed in range(60)
        for n in few_of_each(torch.zeros(10, dtype=torch.int64), 3, np.random.default_rng(seed))
    }
    assert drawn == set(range(10))


def test_few_shots_of_all_or_of_another_protocols_classes() -> None:
    found = FewShot(shots=4).arrange(Numbered())
    assert np.bincount(found.train.labels.numpy()).tolist() == [4] * 5
    assert found.notes == ("20 training images, at most 4 of a class",)
    assert numbers(found.parts[0].images) == list(range(100, 160))
    both = FewShot(shots=4, then="base_to_new").arrange(Numbered())
    assert np.bincount(both.train.labels.numpy()).tolist() == [4] * 3
    assert [part.name for part in both.parts] == ["base", "new"]
    assert numbers(both.train) != numbers(FewShot(4, then="base_to_new", seed=1).arrange(
        Numbered()).train)  # fmt: skip
    (note,) = FewShot(shots=14).arrange(Numbered()).notes
    assert note == "60 training images, at most 14 of a class; 5 classes have fewer"


def test_shots_of_each_client_leave_what_it_holds_out_alone() -> None:
    found = FewShot(shots=2, per="client").arrange(Numbered())
    assert (found.shots, len(found.train)) == (2, 60)
    few, whole = (divide(found.train, 0.2, 0, "c", 0.1, shots) for shots in (found.shots, None))
    assert np.bincount(few.train.labels.numpy()).tolist() == [2] * 5
    assert set(numbers(few.train)) < set(numbers(whole.train))
    assert numbers(few.test) == numbers(whole.test)
    assert numbers(few.calibration) == numbers(whole.calibration)


def test_what_new_classes_and_datasets_there_are_is_known_beforehand() -> None:
    known = {name: load(name, Protocol).new_classes for name in ("base_to_new", "in_domain")}
    known |= {"few": load("few_shot(then='base_to_new')", Protocol).new_classes}
    assert known == {"base_to_new": True, "in_domain": False, "few": True}
    cross = load("few_shot(then=\"cross_dataset(targets='shapes')\")", Protocol)
    assert len(cross.others) == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("few_shot(shots=0)", "shots: expected a whole number >= 1, found 0"),
        ("few_shot(per='domain')", "per: expected one of"),
        ("few_shot(then='base_to_newt')", "did you mean 'base_to_new'?"),
        ("few_shot(then='few_shot')", "found few_shot inside few_shot"),
        ("few_shot(seed=-1)", "seed: expected a whole number >= 0"),
    ],
)
def test_a_wrong_argument_is_named(spec: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(spec, Protocol)
    assert message in str(caught.value)


def test_the_docs_have_a_row_for_every_protocol() -> None:
    from documented import ROOT

    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## Protocols")[2]
    rows = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert sorted(parse_spec(row).name for row in rows) == available(Protocol)
    for row in rows:
        loaded: Any = load(row, Protocol)
        assert isinstance(loaded, Protocol)
