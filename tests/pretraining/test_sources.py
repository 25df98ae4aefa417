"""Captioned folders and the random views of their pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fl2ora.experiment.errors import UserError
from fl2ora.pretraining import views
from fl2ora.pretraining.sources import METADATA, CaptionedFolder, Streams

TEMPLATES = ("an emoji of {}.", "{}.")


def write(folder: Path, lines: str, names: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    for number, name in enumerate(names):
        Image.new("RGBA", (6, 4), (250 * number, 10, 20, 255)).save(folder / name)
    (folder / METADATA).write_text(lines)
    return folder


def test_pictures_are_drawn_with_their_own_captions(tmp_path: Path) -> None:
    lines = "file_name,text\na.png,dark\na.png,night\nb.png,red\n"
    source = CaptionedFolder(write(tmp_path, lines), TEMPLATES, side=8)
    assert source.captions() == {
        template.format(text) for template in TEMPLATES for text in ("dark", "night", "red")
    }
    ((images, texts),) = source.draw(300, Streams(0, 0))
    assert images.shape == (300, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert set(texts) == source.captions()
    of_red = torch.tensor(["red" in text for text in texts])
    reddish = images[:, 0].float().mean((1, 2)) - images[:, 1].float().mean((1, 2))
    assert reddish[of_red].mean() > reddish[~of_red].mean() + 60
    assert 100 < int(of_red.sum()) < 200  # pictures are as likely, however many lines they have


def test_a_batch_follows_seed_and_number_alone(tmp_path: Path) -> None:
    source = CaptionedFolder(write(tmp_path, "file_name,text\na.png,x\nb.png,y\n"), TEMPLATES, 8)
    drawn = [source.draw(20, Streams(seed, step))[0] for seed, step in ((0, 3), (0, 3), (0, 4))]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1] == drawn[1][1]
    assert not torch.equal(drawn[0][0], drawn[2][0])


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("file,text\na.png,x\n", "expected the columns file_name, text, found no file_name"),
        ("file_name,text\n", "expected a line for each picture, found none"),
        ("file_name,text\na.png,\n", "line 2: expected a file and a text"),
        ("file_name,text\n../a.png,x\n", "line 2: expected a file in the folder, found '../a.png'"),
        ("file_name,text\nc.png,x\n", "c.png: expected a picture, found"),
        ("file_name,text\nmetadata.csv,x\n", "metadata.csv: expected a picture, found"),
    ],
)
def test_a_folder_that_is_not_right_is_refused(tmp_path: Path, lines: str, found: str) -> None:
    with pytest.raises(UserError, match=found):
        CaptionedFolder(write(tmp_path, lines), TEMPLATES, 8)


def test_a_folder_without_captions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metadata\.csv: cannot be read"):
        CaptionedFolder(tmp_path, TEMPLATES, 8)


def test_what_is_opaque_stays_and_what_is_transparent_takes_one_colour() -> None:
    images = torch.zeros(400, 4, 2, 2, dtype=torch.uint8)
    images[:, 0], images[:, 3, 0] = 255, 255  # red above, transparent below
    found = views.on_backgrounds(images, torch.Generator().manual_seed(0))
    red = torch.tensor([1.0, 0.0, 0.0])[:, None].expand(400, 3, 2)
    assert torch.equal(found[:, :, 0], red)
    assert torch.equal(found[:, :, 1, 0], found[:, :, 1, 1])
    white = (found[:, :, 1, 0] == 1).all(1).float().mean()
    assert 0.4 < float(white) < 0.6


def test_views_without_change_are_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that is random at its middle, turning and recolouring do nothing."""
    monkeypatch.setattr(views, "SCALES", (1.0, 1.0))
    monkeypatch.setattr(views, "GREY_SHARE", -1.0)
    images = torch.rand(3, 3, 5, 5)
    monkeypatch.setattr(torch, "rand", lambda size, generator: torch.full(size, 0.5))
    found = views.varied(images, torch.Generator())
    grey = images.mean(1, keepdim=True)
    expected = grey + (images - grey) * 0.9  # the middle of 0.3 and 1.5
    np.testing.assert_allclose(found.numpy() / 255, expected.numpy(), atol=0.003)


def test_views_of_a_plain_picture_are_plain() -> None:
    images = torch.full((50, 3, 7, 7), 0.5)
    found = views.varied(images, torch.Generator().manual_seed(0))
    assert torch.equal(found, found[:, :, :1, :1].expand_as(found))
    assert len(found[:, :, 0, 0].unique(dim=0)) > 40
