"""The script that writes Fashion-MNIST with natural clients, on a miniature of it."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pandas as pd

from fl2ora.experiment.image_fit import Fit
from fl2ora.federated_data.datasets.fashion_mnist import FashionMNIST
from fl2ora.federated_data.shares import load_federation, share_out
from miniature_fashion import write_miniature

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "examples" / "fashion_clients.py"


def test_what_the_script_writes_is_read_as_it_is_and_shared_out_by_client(tmp_path: Path) -> None:
    (tmp_path / "idx").mkdir()
    write_miniature(tmp_path / "idx")
    options = ["--images", "60", "--clients", "4", "--validation", "40"]
    command = [sys.executable, SCRIPT, "--out", tmp_path / "out", "--folder", tmp_path / "idx"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert "90 images in " in done.stdout, done.stderr
    table = pd.read_csv(tmp_path / "out" / "photos.csv")
    assert table["split"].value_counts().to_dict() == {"train": 60, "test": 30}
    spec = f"folder('{tmp_path / 'out'}', table_file='{tmp_path / 'out' / 'photos.csv'}')"
    found = load_federation(spec, "in_distribution", Fit(28, 28))
    original = FashionMNIST(str(tmp_path / "idx"), train=60, validation=40).split("train")
    names = [FashionMNIST.class_names[label] for label in original.labels]
    assert [found.class_names[label] for label in found.train.labels] == names
    assert (found.train.images[:][:, :1] == original.images[:]).all()
    shares = share_out(found, "natural", 4, 0)
    assert [len(share) for share in shares] == [15] * 4
    means = [share.images[:].float().mean(dim=(1, 2, 3)).numpy() for share in shares]
    assert all(one.max() <= other.min() for one, other in pairwise(means))
