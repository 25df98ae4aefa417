"""Protocols: what is trained on and what is held out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.base import Dataset, SplitName
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation, PartMean
from fl2ora.federated_data.protocols.in_distribution import InDistribution
from fl2ora.federated_data.protocols.leave_one_domain_out import LeaveOneDomainOut
from fl2ora.federated_data.shares import load_federation

DOMAINS = ("neon", "chalk", "mosaic")


class Numbered(Dataset):
    """Every image is filled with its own number: 0.. in training, 100.. in test."""

    class_names = ("cat", "dog")
    templates = ("a {}.",)

    def __init__(self, domains: tuple[str, ...] = DOMAINS) -> None:
        self.domains = domains

    def split(self, name: SplitName) -> LabelledImages:
        first = {"train": 0, "validation": 50, "test": 100}[name]
        numbers = torch.arange(first, first + 12)
        images = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        return LabelledImages(images, numbers % 2, numbers % len(self.domains))


def _numbers(data: LabelledImages) -> list[int]:
    return [int(number) for number in data.images[:, 0, 0, 0]]


def test_in_distribution_takes_both_splits_whole() -> None:
    federation = InDistribution().arrange(Numbered())
    assert _numbers(federation.train) == list(range(12))
    assert _numbers(federation.parts[0].images) == list(range(100, 112))
    assert federation.class_names == ("cat", "dog")
    assert federation.templates == ("a {}.",)
    assert federation.domains == DOMAINS


@pytest.mark.parametrize(("index", "domain"), list(enumerate(DOMAINS)))
def test_one_domain_is_tested_on_and_never_trained_on(index: int, domain: str) -> None:
    federation = LeaveOneDomainOut(domain).arrange(Numbered())
    assert _numbers(federation.train) == [n for n in range(12) if n % 3 != index]
    assert _numbers(federation.parts[0].images) == [n for n in range(100, 112) if n % 3 == index]
    assert set(federation.train.domains.tolist()) == {0, 1, 2} - {index}
    assert set(federation.parts[0].images.domains.tolist()) == {index}
    assert federation.train.labels.tolist() == [n % 2 for n in _numbers(federation.train)]
    assert federation.domains == DOMAINS


def test_a_domain_the_dataset_does_not_have_is_answered_with_those_it_has() -> None:
    with pytest.raises(ValueError, match="domain: expected one of") as caught:
        LeaveOneDomainOut("noen").arrange(Numbered())
    assert str(caught.value) == (
        "domain: expected one of the dataset's two or more domains (chalk, mosaic, neon), "
        "found 'noen'; did you mean 'neon'?"
    )


def test_the_only_domain_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match=r"two or more domains \(neon\), found 'neon'"):
        LeaveOneDomainOut("neon").arrange(Numbered(("neon",)))


SMALL = "shapes(styles='neon,chalk', train=32, validation=1, test=32)"


def test_a_federation_is_loaded_by_two_specs_and_kept() -> None:
    federation = load_federation(SMALL, "leave-one-domain-out(domain='chalk')")
    assert federation is load_federation(SMALL, "leave-one-domain-out(domain='chalk')")
    assert set(federation.train.domains.tolist()) == {0}
    assert set(federation.parts[0].images.domains.tolist()) == {1}


@pytest.mark.parametrize(
    ("dataset", "protocol", "message"),
    [
        ("shape", "in_distribution", "federated_data/datasets has no 'shape'"),
        (SMALL, "in_distributoin", "did you mean 'in_distribution'?"),
        (SMALL, "leave_one_domain_out(domain='x')", "domain='x')\": domain: expected one of"),
        ("fashion_mnist(folder='/no/such')", "in_distribution", "found no such folder"),
    ],
)
def test_what_cannot_be_loaded_is_one_message(dataset: str, protocol: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_federation(dataset, protocol)
    assert message in str(caught.value)


class Fails(InDistribution):
    """A protocol of somebody's own that goes wrong in one way."""

    def __init__(self, how: str) -> None:
        self._how = how

    def arrange(self, dataset: Dataset) -> Federation:
        found = super().arrange(dataset)
        if self._how == "bug":
            raise KeyError("nothing")
        if self._how == "needs":
            raise ValueError("expected a dataset of nine domains")
        if self._how == "nothing":
            return None  # type: ignore[return-value]
        return replace(found, means=(PartMean("mean", ("nowhere",)),))


class Unreadable(Shapes):
    """A dataset whose test images are broken."""

    def split(self, name: SplitName) -> LabelledImages:
        if name == "test":
            raise OSError("the disk is gone")
        return super().split(name)


@pytest.mark.parametrize(
    ("dataset", "how", "message"),
    [
        (SMALL, "bug", r"^test_protocols:Fails: KeyError: 'nothing' \(.*test_protocols.py:\d+\)$"),
        (SMALL, "needs", r"^protocol .*Fails.*: expected a dataset of nine domains$"),
        (SMALL, "nothing", "^protocol .*Fails.*: expected a Federation, found NoneType$"),
        (SMALL, "means", r"^protocol .*Fails.*: means: 'mean': expected names .* found nowhere$"),
        ("test_protocols:Unreadable", "bug", "^dataset 'test_pro.*Unreadable': the disk is gone$"),
    ],
)
def test_whoever_is_at_fault_is_named(dataset: str, how: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_federation(dataset, f"test_protocols:Fails(how={how!r})")
