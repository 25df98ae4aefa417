"""``fl2ora data``: what it prints and writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fl2ora.commands.data import data
from fl2ora.experiment.errors import UserError

DATASET = "dataset=shapes(styles='neon,chalk', train=60, validation=10, test=20)"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no cell of the table be broken, however wide the terminal of the tests is."""
    monkeypatch.setenv("COLUMNS", "1000")


def test_what_clients_would_hold_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data(None, [DATASET, "partition=iid"], clients=3, output=tmp_path / "new" / "report")
    said = capsys.readouterr().out
    assert "60 images to share among the clients, 20 held out (server-test)" in said
    assert "2 domains: neon, chalk" in said
    assert "images of a client: 20 to 20, median 20" in said
    table = pd.read_csv(tmp_path / "new" / "report" / "clients.csv")
    assert table["images"].sum() == 60
    assert set(table["client"]) == {0, 1, 2}
    assert set(table["part"]) == {"train", "test", "calibration"}
    written = {path.name for path in (tmp_path / "new" / "report").iterdir()}
    assert written == {"clients.csv", "clients.png", "clients.svg", "images.png", "images.svg"}


def test_of_many_clients_the_largest_and_the_smallest_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data(None, [DATASET, "partition=dirichlet(minimum=1)"], clients=25, output=tmp_path)
    said = capsys.readouterr().out
    assert "25 clients, the 10 with the most and the 10 with the fewest images" in said
    sizes = pd.read_csv(tmp_path / "clients.csv").groupby("client")["images"].sum()
    shown = [int(line.split("│")[2]) for line in said.splitlines() if line.startswith("│")]
    ranked = sorted(sizes, reverse=True)
    assert shown == ranked[:10] + ranked[-10:]


def test_all_mistakes_are_told_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    wrong = ["dataset=shape", "partition=dirichlett", "num-round=3"]
    with pytest.raises(UserError) as caught:
        data(None, wrong, clients=3, output=tmp_path / "report")
    assert all(word in str(caught.value) for word in ("shapes", "dirichlet", "num-rounds"))
    assert not (tmp_path / "report").exists()


def test_a_partition_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 10 examples each need 500"):
        data(None, [DATASET, "partition=dirichlet"], clients=50, output=tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_folder_with_a_line_break_in_its_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a path without control characters"):
        data(None, [DATASET], clients=2, output=tmp_path / "a\nb")
    assert not list(tmp_path.iterdir())


def test_a_server_without_data_has_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dataset: expected images to look at, found 'none'"):
        data(None, ["dataset=none"], clients=3, output=tmp_path / "report")


def test_parts_and_copies_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(None, [DATASET, "partition=iid", "protocol=base_to_new"], clients=2, output=tmp_path)
    said = capsys.readouterr().out
    assert "16 held out (server-test/base), 4 held out (server-test/new)" in said
    settings = ["dataset=tiny_datasets:Twice()", "partition=iid", "on-leak=report"]
    data(None, settings, clients=2, output=tmp_path)
    said = capsys.readouterr().out
    assert "40 training images are copies of others" in said
    assert "of the 16 held-out images of clients are training images of a client" in said


def copies(folder: Path) -> None:
    """Write two classes, and of one test image a training image saved again at another size."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name in ("cat", "犬"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                small = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
                picture = Image.fromarray(small).resize((60, 60), Image.Resampling.BICUBIC)
                picture.save(folder / split / name / f"{number}.png")
    with Image.open(folder / "test" / "cat" / "0.png") as picture:
        picture.resize((90, 90)).save(folder / "train" / "cat" / "copy.jpg", quality=80)


def test_what_looks_alike_is_found_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies(tmp_path / "photos")
    settings = [f"dataset=folder('{tmp_path / 'photos'}')", "partition=iid"]
    settings += ["local-test-fraction=0", "calibration-fraction=0"]
    data(None, settings, clients=2, output=tmp_path / "report")
    assert "Near" not in capsys.readouterr().out
    assert not (tmp_path / "report" / "near.csv").exists()
    data(None, settings, clients=2, output=tmp_path / "report", near=4)
    said = capsys.readouterr().out
    assert "1 of 8 images of server-test look like training images" in said
    (row,) = pd.read_csv(tmp_path / "report" / "near.csv").to_dict("records")
    assert (row["held"], row["held_class"], row["trained_class"]) == ("server-test", "cat", "cat")
    assert row["bits"] <= 4
    assert (tmp_path / "report" / "near.png").stat().st_size > 1500
    copies(tmp_path / "clean")
    (tmp_path / "clean" / "train" / "cat" / "copy.jpg").unlink()
    settings[0] = f"dataset=folder('{tmp_path / 'clean'}')"
    data(None, settings, clients=2, output=tmp_path / "report", near=4)
    assert "0 of 8 images of server-test" in capsys.readouterr().out
    assert not (tmp_path / "report" / "near.png").exists()  # of the earlier look


def test_without_the_library_of_hashes_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl2ora.federated_data.near.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--near: needs the library imagehash: pip install"):
        data(None, [DATASET], clients=2, output=tmp_path / "report", near=4)
    assert not (tmp_path / "report").exists()
