"""Data of somebody's own: every mistake is one clear message, wherever the data is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.checks import check_names
from fl2ora.federated_data.datasets import fashion_mnist
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.shares import load_federation, share_out
from miniature_fashion import write_miniature
from runs import events, run_small

MISTAKES = [
    ("'class_names', ()", "class_names: expected at least one text in a tuple or list"),
    ("'class_names', 'cat'", "class_names: expected at least one text .* found 'cat'"),
    ("'class_names', (1, 2)", r"class_names: expected at least one text .* found \(1, 2\)"),
    (
        "'class_names', ('a', 'big cat', 'b', 'Big_cat')",
        "found 'big cat' at index 1 and 'Big_cat' at index 3",
    ),
    ("'class_names', ('a', ' ')", "class_names: expected names, found ' ' at index 1"),
    ("'class_names', ('a', 'b')", "labels: expected 0 to 1, there are 2 class names, found 2 at"),
    ("'templates', ()", r"templates: expected at least one text .* found \(\)"),
    ("'templates', None", "templates: expected at least one text .* found None"),
    ("'templates', 'a photo of a {}.'", "templates: .* found 'a photo of a {}.'"),
    ("'templates', ('a {}', 'a photo')", "templates: expected exactly one {} .* found 'a photo'"),
    ("'templates', ('{} and {}',)", "templates: expected exactly one {} .* found '{} and {}'"),
    ("'domains', ('x', 'x')", "domains: .* found 'x' at index 0 and 'x' at index 1"),
    ("label=16", "train: labels: expected 0 to 15, there are 16 class names, found 16 at index 3"),
    ("label=-1", "train: labels: expected 0 to 15, .* found -1 at index 3"),
    ("domain=1", "test: domains: expected 0 to 0, there are 1 domains, found 1 at index 3"),
    ("copies=1", "test: 1 of the 40 held-out images are training images, byte by byte"),
    ("copies=40", "test: 40 of the 40 held-out images"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_in_a_dataset_is_one_message(arguments: str, message: str) -> None:
    spec = f"tiny_datasets:Flawed({arguments})"
    with pytest.raises(UserError, match=message) as caught:
        load_federation(spec, "in_distribution")
    assert str(caught.value).startswith(f"dataset {spec!r}: ")
    assert "\n" not in str(caught.value)


def test_control_characters_in_names_are_refused_and_joiners_of_scripts_are_not() -> None:
    described = Shapes(train=1, validation=1, test=1)
    described.class_names = ("a", "b\x1b[31mc")
    with pytest.raises(UserError, match=r"without control .* at index 1"):
        check_names(described)
    described.class_names = ("می\u200cخواهم", "👩\u200d🚀")
    check_names(described)


def test_a_dataset_without_mistakes_is_loaded() -> None:
    federation = load_federation("tiny_datasets:Flawed()", "in_distribution")
    assert (len(federation.train), len(federation.parts[0].images)) == (40, 40)
    assert federation.notes == ()


def test_errors_of_a_dataset_name_its_file_and_line() -> None:
    with pytest.raises(UserError, match=r"class_names: .* found None"):
        load_federation("tiny_datasets:Unfinished()", "in_distribution")
    with pytest.raises(UserError, match=r"Unfinished: KeyError: 'train' .*tiny_datasets.py:\d+"):
        load_federation("tiny_datasets:Unfinished(named=True)", "in_distribution")


@pytest.mark.parametrize("arguments", ["label=16", "copies=20", "'templates', ()"])
def test_mistakes_on_a_node_with_its_own_data_stop_the_run_at_its_start(
    tmp_path: Path, arguments: str
) -> None:
    node = {1: {"dataset": f"tiny_datasets:Flawed({arguments})", "site": "x"}}
    with pytest.raises(UserError, match="the nodes cannot train together:\n  - client x: dataset"):
        run_small(tmp_path, node_configs=node)
    assert not events(tmp_path / "runs" / "run", "round-start")


class FewCopies(Dataset):
    """Two hundred test images, one or two of which are training images."""

    class_names, templates = ("a", "b"), ("a {}",)
    notes = ("drawn by hand",)

    def split(self, name: Any) -> LabelledImages:
        first = 0 if name == "train" else 198
        images = torch.randint(
            0, 256, (400, 1, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
        )
        rows = torch.zeros(200, dtype=torch.int64)
        return LabelledImages(images[first : first + 200], rows, rows)


def test_few_copies_go_into_the_record() -> None:
    notes = load_federation(f"{__name__}:FewCopies()", "in_distribution", on_leak="report").notes
    assert notes == ("drawn by hand", "2 of the 200 held-out images are training images, too")


def test_a_run_records_what_its_data_leaves_out_and_reads_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_miniature(tmp_path)
    reads: list[str] = []
    original = fashion_mnist.read_idx

    def counting(path: Path) -> Any:
        reads.append(path.name.removesuffix(".gz"))
        return original(path)

    monkeypatch.setattr(fashion_mnist, "read_idx", counting)
    spec = f"fashion_mnist(folder='{tmp_path}', validation=40)"
    load(spec, Dataset)
    assert reads == []
    folder = run_small(tmp_path, dataset=spec, num_rounds=1, evaluate_on="nodes")
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    assert sorted(reads) == [f"{part}-{kind}" for part in ("t10k", "train") for kind in kinds]
    (event,) = events(folder, "data")
    assert (event["train"], event["test"]) == (60, 30)
    assert event["notes"] == [
        "the first 2,000 training images of Fashion-MNIST taught the embedded CLIP and are left "
        "out",
        "its last 40 training images are the validation split, which is neither trained nor "
        "tested on",
    ]


def test_a_run_draws_each_split_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Counter[str] = Counter()
    original = Shapes._draw

    def counting(self: Shapes, name: Any) -> LabelledImages:
        drawn[name] += 1
        return original(self, name)

    monkeypatch.setattr(Shapes, "_draw", counting)
    load_federation.cache_clear()
    run_small(tmp_path, num_rounds=1)
    assert drawn == {"train": 1, "test": 1}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ("[[0, 1], [2, 3]]", "expected 3 shares, found 2"),
        ("[[0], [1], [2, 2, 3]]", r"found example 2 in 2 \(0 in none, 1 in several\)"),
        ("[[0], [1], [2]]", r"found example 3 in 0 \(1 in none, 0 in several\)"),
        ("[[0], [1], [2, 3, 4]]", "share 2: expected indices from 0 to 3, found 4"),
        ("[[0], [1], [2, -1]]", "share 2: expected indices from 0 to 3, found -1"),
        ("[[0], [1.5], [2, 3]]", r"share 1: expected whole numbers of shape \(n,\), found float64"),
        ("[[[0]], [1], [2, 3]]", r"share 0: .* found int64 of shape \(1, 1\)"),
        ("'no idea'", r"Handmade: TypeError: no idea .*tiny_datasets.py:\d+"),
        ("3", "TypeError"),
    ],
)
def test_a_partitioner_that_breaks_its_promise_is_told_so(shares: str, message: str) -> None:
    whole = load_federation("tiny_datasets:Flawed()", "in_distribution")
    four = replace(whole, train=whole.train.select(torch.arange(4)))
    with pytest.raises(UserError, match=message):
        share_out(four, f"tiny_datasets:Handmade({shares})", 3, 0)
    found = share_out(four, "tiny_datasets:Handmade([[3], [1], [0, 2]])", 3, 0)
    assert [share.labels.tolist() for share in found] == [[0], [1], [0, 2]]
