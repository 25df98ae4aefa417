"""Captioned folders and the random views of their pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.fashion_mnist import FashionMNIST
from fl2ora.federated_data.datasets.shapes import SEEN_STYLES
from fl2ora.federated_data.datasets.shapes_outlines import SHAPE_NAMES
from fl2ora.pretraining import views
from fl2ora.pretraining.pictures import read_picture
from fl2ora.pretraining.sources import METADATA, CaptionedFolder, Clothes, Drawings, Streams

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
    images, texts = source.draw(300, Streams(0, 0))
    assert images.shape == (300, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert set(texts) == source.captions()
    of_red = torch.tensor(["red" in text for text in texts])
    reddish = images[:, 0].float().mean((1, 2)) - images[:, 1].float().mean((1, 2))
    assert reddish[of_red].mean() > reddish[~of_red].mean() + 60
    assert 100 < int(of_red.sum()) < 200  # pictures are as likely, however many lines they have


def test_clothes_are_mirrored_by_halves_and_moved_by_up_to_two_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = torch.zeros((60_000, 1, 9, 9), dtype=torch.uint8)
    left[:, :, 4, 2] = 255  # mirrored it stands at column 6
    labels = torch.zeros(60_000, dtype=torch.int64)
    monkeypatch.setattr("fl2ora.pretraining.sources.read_pair", lambda *_: (left, labels))
    source = Clothes(tmp_path)
    moves = set()
    for step in range(40):
        images, texts = source.draw(50, Streams(0, step))
        assert set(texts) <= source.captions()
        _, _, rows, columns = images.nonzero(as_tuple=True)
        assert len(set(rows.tolist())) == 1  # a batch moves as one
        low, high = columns.min().item(), columns.max().item()
        assert high - low == 4
        assert set(columns.tolist()) == {low, high}
        assert 10 < (columns == low).sum().item() < 40
        moves.add((rows[0].item() - 4, low - 2))
    assert {max(abs(x), abs(y)) for x, y in moves} == {0, 1, 2}


def test_clothes_are_called_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(60_000) % 10
    images = (20 * labels).to(torch.uint8)[:, None, None, None].expand(-1, 1, 3, 3)
    monkeypatch.setattr("fl2ora.pretraining.sources.read_pair", lambda *_: (images, labels))
    drawn, texts = Clothes(tmp_path).draw(200, Streams(0, 0))
    for image, text in zip(drawn, texts, strict=True):
        assert FashionMNIST.class_names[int(image[0, 0, 0]) // 20] in text


def test_drawings_are_called_by_their_shape_and_style(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(style: str, labels: Tensor, generator: torch.Generator) -> Tensor:
        image = torch.stack([labels, torch.full_like(labels, SEEN_STYLES.index(style))], 1)
        return image[:, :, None, None]

    monkeypatch.setattr("fl2ora.pretraining.sources.draw_shapes", draw)
    images, texts = Drawings().draw(400, Streams(0, 0))
    named = 0
    for (shape, style), text in zip(images.flatten(1).tolist(), texts, strict=True):
        assert SHAPE_NAMES[shape] in text
        told = text.removeprefix("a ").replace(SHAPE_NAMES[shape], "").strip(" ,.")
        if told in SEEN_STYLES:
            assert told == SEEN_STYLES[style]
            named += 1
    assert named > 20  # a tenth of the captions


def test_a_line_that_stands_there_twice_is_drawn_twice_as_often(tmp_path: Path) -> None:
    lines = "file_name,text\na.png,x\na.png,y\na.png,x\n"
    source = CaptionedFolder(write(tmp_path, lines), ["{}"], side=4)
    _, texts = source.draw(900, Streams(0, 0))
    assert 550 < texts.count("x") < 650


def test_a_batch_follows_seed_and_number_alone(tmp_path: Path) -> None:
    source = CaptionedFolder(write(tmp_path, "file_name,text\na.png,x\nb.png,y\n"), TEMPLATES, 8)
    drawn = [source.draw(20, Streams(seed, step)) for seed, step in ((0, 3), (0, 3), (0, 4))]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1] == drawn[1][1]
    assert not torch.equal(drawn[0][0], drawn[2][0])


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("file;text\na.png;x\n", "the columns file_name, text, found no file_name in 'file;text'"),
        ("file_name,text\n", "expected a line for each picture, found none"),
        ("file_name,text\na.png,\n", "line 2: expected a file and a text"),
        ("file_name,text\n../a.png,x\n", "line 2: expected a file in the folder, found '../a.png'"),
        ("file_name,text\nc.png,x\n", "c.png: expected a picture, found"),
        ("file_name,text\na\0.png,x\n", "line 2: expected a path without control characters"),
        ("file_name,text\na.png,x, y\n", "line 2: expected 2 cells, found 3"),
        ("file_name,text,text\na.png,x,y\n", "found 2 times text"),
        ("file_name,text\nmetadata.csv,x\n", "metadata.csv: expected a picture, found"),
    ],
)
def test_a_folder_that_is_not_right_is_refused(tmp_path: Path, lines: str, found: str) -> None:
    with pytest.raises(UserError, match=found):
        CaptionedFolder(write(tmp_path, lines), TEMPLATES, 8)


def test_quotes_other_columns_spaces_and_a_mark_of_the_byte_order_are_read(tmp_path: Path) -> None:
    lines = '\ufeff"file_name",size,"text"\na.png,1,"x, y"\n\nb.png,2, {z} \n'
    source = CaptionedFolder(write(tmp_path, lines), ["{x} {}", "{0}{}"], 8)
    assert source.captions() == {"{x} x, y", "{x} {z}", "{0}x, y", "{0}{z}"}
    assert set(source.draw(50, Streams(0))[1]) == source.captions()


def picture(folder: Path, image: Image.Image, **options: object) -> list[list[list[int]]]:
    image.save(folder / "x.png", **options)
    found: list[list[list[int]]] = read_picture(folder / "x.png", 2).permute(1, 2, 0).tolist()
    return found


def test_grey_of_sixteen_bits_keeps_its_shades(tmp_path: Path) -> None:
    shades = np.array([[0, 65535], [257 * 100, 257 * 7]], np.uint16)
    expected = [[[v] * 3 + [255] for v in row] for row in ([0, 255], [100, 7])]
    assert picture(tmp_path, Image.fromarray(shades)) == expected


def test_palettes_and_what_is_to_be_turned_are_read(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.putdata([0, 1, 0, 1])
    red, green = [200, 0, 0, 255], [0, 100, 0, 255]
    assert picture(tmp_path, image) == [[red, green], [red, green]]
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned clockwise by a quarter
    assert picture(tmp_path, image, exif=turned) == [[red, red], [green, green]]


def test_a_picture_of_floating_point_numbers_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif: expected a picture, found one of floating"):
        read_picture(tmp_path / "x.tif", 2)


def test_pictures_with_too_many_pixels_or_a_broken_head_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (6, 4)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:8] + b"\0\0\0\1" + content[12:])
    with pytest.raises(UserError, match=r"x\.png: expected a picture, found"):
        read_picture(path, 2)
    path.write_bytes(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match=r"x\.png: expected a picture, found Image size"):
        read_picture(path, 2)


def test_a_folder_without_captions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metadata\.csv: expected .*, found: No such file"):
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


def test_a_turn_and_a_scale_move_a_point_to_where_geometry_puts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen through a window twice as wide, turned by 15 degrees, x goes to R(-15) x / 2."""
    monkeypatch.setattr(views, "SCALES", (2.0, 2.0))
    monkeypatch.setattr(views, "LARGEST_MOVE", 0.0)
    monkeypatch.setattr(torch, "rand", lambda size, generator: torch.ones(size))
    images = torch.zeros(1, 3, 101, 101)
    images[:, :, 48:53, 88:93] = 1.0  # 40 pixels to the right of the middle
    found = views.varied(images, torch.Generator())[0, 0].float()
    rows, columns = (found > found.median()).nonzero().float().mean(0).tolist()
    expected = (50 - 20 * np.sin(np.pi / 12), 50 + 20 * np.cos(np.pi / 12))
    np.testing.assert_allclose((rows, columns), expected, atol=0.4)


def test_a_move_is_a_share_of_half_a_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen through a window that has moved right and down, what was in the middle is left above."""
    monkeypatch.setattr(views, "SCALES", (1.0, 1.0))
    monkeypatch.setattr(views, "LARGEST_TURN", 0.0)
    monkeypatch.setattr(torch, "rand", lambda size, generator: torch.ones(size))
    images = torch.zeros(1, 3, 101, 101)
    images[:, :, 48:53, 48:53] = 1.0
    found = views.varied(images, torch.Generator())[0, 0].float()
    rows, columns = (found > found.median()).nonzero().float().mean(0).tolist()
    np.testing.assert_allclose((rows, columns), 50 - 0.15 * 50.5, atol=0.5)


def test_a_fifth_of_the_views_have_one_tint() -> None:
    images = torch.zeros(500, 3, 3, 3)
    images[:, 0, :, 0] = images[:, 1, :, 1] = images[:, 2, :, 2] = 0.5
    spread = views.varied(images, torch.Generator().manual_seed(0)).float().std((2, 3)).mean(1)
    assert 0.15 < float((spread < 3).float().mean()) < 0.27
