"""The store of decoded images: each is decoded once, whatever happens meanwhile."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import indent

import numpy as np
import pytest
import torch

from command_line import Command
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.image_fit import Fit
from fl2ora.federated_data.images import ImageRows, Pool
from fl2ora.federated_data.store import image_store, stored
from fl2ora.federated_data.store.contents import file_digests
from fl2ora.federated_data.store.decode import Decoded, decode
from fl2ora.federated_data.store.location import cache_folder
from fl2ora.federated_data.store.sources import FileSource
from fl2ora.federated_data.store.stored import Stored, stored_images
from pictures import photo, save_photo

FIT = Fit(size=16, resize=16)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FL2ORA_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the contents that are decoded from now on."""
    seen: list[bytes] = []

    def counted(content: bytes, fit: Fit) -> Decoded:
        seen.append(content)
        return decode(content, fit)

    monkeypatch.setattr(stored, "decode", counted)
    return seen


def photos(folder: Path, count: int = 6) -> list[Path]:
    return [save_photo(folder / f"{n}.png", 20 + n, 30, seed=n) for n in range(count)]


def found(paths: list[Path], fit: Fit = FIT, on_bad: stored.OnBadImage = "stop") -> Stored:
    return stored_images(FileSource(paths), fit, on_bad, "train")


def expected(paths: list[Path], fit: Fit = FIT) -> torch.Tensor:
    return torch.stack([torch.from_numpy(decode(p.read_bytes(), fit).pixels) for p in paths])


def the_store(cache: Path) -> Path:
    (folder,) = (path for path in (cache / "images").iterdir() if path.is_dir())
    return folder


def test_images_are_decoded_once(tmp_path: Path, calls: list[bytes]) -> None:
    paths = photos(tmp_path)
    first, second = found(paths), found(paths[::-1])
    assert len(calls) == 6
    assert first.images.shape == (6, 3, 16, 16)
    assert torch.equal(first.images[:], expected(paths))
    assert torch.equal(second.images[:], expected(paths[::-1]))
    assert first.kept.tolist() == list(range(6))
    assert first.remarks == ()


def test_an_unchanged_file_is_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = photos(tmp_path)
    found(paths)
    monkeypatch.setattr(FileSource, "read", lambda *_: pytest.fail("read"))
    assert torch.equal(found(paths).images[:], expected(paths))


def test_only_what_is_new_or_changed_is_decoded(tmp_path: Path, calls: list[bytes]) -> None:
    paths = photos(tmp_path)
    found(paths)
    copy, changed = tmp_path / "copy.png", paths[2]
    shutil.copy(paths[0], copy)
    save_photo(changed, 20, 30, seed=99)
    os.utime(changed, ns=(1, 1))
    new = save_photo(tmp_path / "new.png", seed=50)
    calls.clear()
    whole = [*paths, copy, new]
    assert torch.equal(found(whole).images[:], expected(whole))
    assert sorted(calls) == sorted([changed.read_bytes(), new.read_bytes()])


def test_copies_lie_in_the_store_once(tmp_path: Path, cache: Path) -> None:
    (path,) = photos(tmp_path, 1)
    copies = [shutil.copy(path, tmp_path / f"copy{n}.png") for n in range(5)]
    images = found([path, *copies]).images
    assert len(images) == 6
    assert len(images.pool.pixels) == 1
    assert (the_store(cache) / "pixels").stat().st_size == 3 * 16 * 16


def test_other_sizes_have_another_store(tmp_path: Path, cache: Path, calls: list[bytes]) -> None:
    paths = photos(tmp_path, 2)
    for fit in (FIT, Fit(8, 8), Fit(16, 16, squash=True), Fit(16, 16, resample=2), Fit(8, 16)):
        assert torch.equal(found(paths, fit).images[:], expected(paths, fit))
    assert len(calls) == 10
    assert len([path for path in (cache / "images").iterdir() if path.is_dir()]) == 5


def test_the_larger_squares_lie_beside(tmp_path: Path) -> None:
    paths = photos(tmp_path, 3)
    fit = Fit(16, 16, larger=24)
    images = found(paths, fit).images
    crops, shapes = images.for_crops(torch.tensor([2, 0]))
    larger = [decode(paths[n].read_bytes(), fit).larger for n in (2, 0)]
    assert torch.equal(crops, torch.from_numpy(np.stack(larger)))  # type: ignore[arg-type]
    assert shapes is not None
    assert shapes.tolist() == [[22, 30], [20, 30]]
    assert torch.equal(images[:], expected(paths))


def test_digests_are_those_of_the_pixels(tmp_path: Path) -> None:
    paths = photos(tmp_path, 3)
    bitmap = tmp_path / "0.bmp"  # another file of the same image
    photo(20, 30, 0).save(bitmap)
    images = found([*paths, bitmap]).images
    in_memory = ImageRows(Pool(images[:]), torch.arange(4))
    assert images.digests().tolist() == in_memory.digests().tolist()
    assert len(set(images.digests().tolist())) == 3
    assert images.digests(torch.tensor([3]))[0] == images.digests()[0]


def test_an_interrupted_build_goes_on_where_it_ended(
    tmp_path: Path, calls: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = photos(tmp_path)
    counted = stored.decode

    def interrupted(content: bytes, fit: Fit) -> Decoded:
        if content == paths[4].read_bytes():
            raise KeyboardInterrupt
        return counted(content, fit)

    monkeypatch.setattr(stored, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found(paths)
    monkeypatch.setattr(stored, "decode", counted)
    calls.clear()
    assert torch.equal(found(paths).images[:], expected(paths))
    assert sorted(calls) == sorted(path.read_bytes() for path in paths[4:])  # by threads


KILLED = """
import os, sys
from fl2ora.experiment.image_fit import Fit
from fl2ora.federated_data.store import image_store, stored
from fl2ora.federated_data.store.sources import FileSource
image_store._AT_ONCE = 2
decode = stored.decode
def killed(content, fit):
    if content == open(sys.argv[5], "rb").read():
        os.kill(os.getpid(), 9)
    return decode(content, fit)
stored.decode = killed
stored.in_order = lambda work, rows: map(work, rows)
stored.stored_images(FileSource(sys.argv[1:]), Fit(16, 16), "stop", "train")
"""


def test_a_killed_build_goes_on_behind_the_last_images_that_are_there_in_full(
    tmp_path: Path, cache: Path, calls: list[bytes]
) -> None:
    paths = photos(tmp_path)
    done = Command(tmp_path, *map(str, paths), code=KILLED).wait()
    assert done.returncode == -9
    assert (the_store(cache) / "index").stat().st_size == 4 * image_store._KIND.itemsize
    assert torch.equal(found(paths).images[:], expected(paths))
    assert sorted(calls) == sorted(path.read_bytes() for path in paths[4:])  # by threads


@pytest.mark.parametrize("name", ["index", "pixels"])
@pytest.mark.parametrize("change", ["cut", "gone", "longer"])
def test_torn_files_of_the_store_are_mended(
    name: str, change: str, tmp_path: Path, cache: Path
) -> None:
    paths = photos(tmp_path)
    found(paths[:4])
    file = the_store(cache) / name
    content = file.read_bytes()
    torn = {"cut": content[:-5], "gone": b"", "longer": content + b"x" * 100}[change]
    file.write_bytes(torn)
    for _ in range(2):
        assert torch.equal(found(paths).images[:], expected(paths))
    assert len(np.fromfile(the_store(cache) / "index", image_store._KIND)) == 6
    assert (the_store(cache) / "pixels").stat().st_size == 6 * 3 * 16 * 16


TOGETHER = """
import sys
from fl2ora.experiment.image_fit import Fit
from fl2ora.federated_data.store.sources import FileSource
from fl2ora.federated_data.store.stored import stored_images
images = stored_images(FileSource(sys.argv[1:]), Fit(16, 16), "stop", "train").images
print(len(images), int(images[:].sum()))
"""


def test_processes_that_build_at_the_same_time_share_the_work(tmp_path: Path, cache: Path) -> None:
    paths = photos(tmp_path, 30)
    both = [Command(tmp_path, *map(str, paths), code=TOGETHER) for _ in range(2)]
    ends = [command.wait() for command in both]
    assert [done.returncode for done in ends] == [0, 0]
    assert {done.stdout.strip() for done in ends} == {f"30 {int(expected(paths).sum())}"}
    assert (the_store(cache) / "pixels").stat().st_size == 30 * 3 * 16 * 16


def test_a_disk_that_fills_up_is_one_line_and_leaves_the_store_whole(
    tmp_path: Path, cache: Path, calls: list[bytes]
) -> None:
    paths = photos(tmp_path)
    found(paths[:2])
    code = (
        f"from fl2ora.experiment.errors import UserError\ntry:\n{indent(TOGETHER, '    ')}"
        "except UserError as error:\n    print(error)"
    )
    done = Command(tmp_path, *map(str, paths), code=code, largest_file=4000).wait()
    assert done.stdout.startswith(
        f"the store of images in {the_store(cache)} cannot be "
        "written to: File too large; FL2ORA_CACHE_DIR names another folder for it"
    )
    assert torch.equal(found(paths[:2]).images[:], expected(paths[:2]))
    assert torch.equal(found(paths).images[:], expected(paths))


def test_a_disk_that_is_too_small_is_found_before_anything_is_decoded(
    tmp_path: Path, calls: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(
        UserError, match=r"needs 4.87e-06 GB for 6 more images, found 1e-06 GB; FL2"
    ):
        found(photos(tmp_path))
    assert not calls


def test_a_folder_that_cannot_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FL2ORA_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(
        UserError, match=r"/file/images/.* cannot be written to: Not a directory; FL"
    ):
        found(photos(tmp_path, 1))


def test_images_that_cannot_be_decoded_stop_or_are_left_out(
    tmp_path: Path, calls: list[bytes]
) -> None:
    paths = photos(tmp_path)
    paths[1].write_bytes(b"hello")
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    paths[5].unlink()
    with pytest.raises(UserError, match=r"/1.png: expected JPEG, PNG, WebP, BMP or TIFF, f"):
        found(paths)
    for _ in range(2):
        skipped = found(paths, on_bad="skip")
        assert skipped.kept.tolist() == [0, 2, 4]
        assert torch.equal(skipped.images[:], expected([paths[0], paths[2], paths[4]]))
        assert skipped.remarks == (
            "train: 3 of 6 images cannot be decoded and are left out, the first: "
            f"{paths[1]}: expected JPEG, PNG, WebP, BMP or TIFF, found something else",
        )
    with pytest.raises(UserError, match=r"5.png: cannot be read: No such file or directory"):
        found([paths[0], paths[5]])
    with pytest.raises(
        UserError, match=r"train: none of 2 images can be decoded: .*/1.png: expect"
    ):
        found([paths[1], paths[3]], on_bad="skip")


def test_a_pipe_among_the_images_is_not_waited_for(tmp_path: Path, calls: list[bytes]) -> None:
    paths = photos(tmp_path)
    paths[2].unlink()
    os.mkfifo(paths[2])
    with pytest.raises(UserError, match=r"/2.png: cannot be read: not a file"):
        found(paths)


def test_what_is_worth_saying_is_counted(tmp_path: Path) -> None:
    paths = photos(tmp_path, 3)
    clear = photo(20, 20).convert("RGBA")
    clear.putalpha(0)
    clear.save(paths[1])
    assert found(paths).remarks == (
        "train: 1 of 3 images are transparent in parts, whose hidden colours are seen",
    )


def test_no_names_are_kept(tmp_path: Path, cache: Path) -> None:
    found([save_photo(tmp_path / "secret" / "patient.png")])
    for path in cache.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"secret" not in content
            assert b"patient" not in content


def test_no_images_are_fine() -> None:
    empty = found([])
    assert empty.images.shape == (0, 3, 16, 16)
    assert empty.images[:].shape == (0, 3, 16, 16)


def test_digests_of_files_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = photos(tmp_path, 3)
    gone = tmp_path / "gone.png"
    first = file_digests([*paths, gone])
    assert len(set(first.tolist())) == 4
    assert first[3] == b""
    reads: list[int] = []
    monkeypatch.setattr(FileSource, "read", lambda _, row: reads.append(row) or b"")
    assert file_digests([*paths, gone])[:3].tolist() == first[:3].tolist()
    assert reads == [3]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"FL2ORA_CACHE_DIR": "/data/x"}, "/data/x"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/fl2ora"),
        ({"HOME": "/home/me"}, "/home/me/.cache/fl2ora"),
        ({"HOME": "/home/me", "FL2ORA_CACHE_DIR": "~/here"}, "/home/me/here"),
    ],
)
def test_where_the_store_lies(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FL2ORA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    assert str(cache_folder()) == folder


def test_a_cache_folder_that_cannot_be_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL2ORA_CACHE_DIR", "a\tb")
    with pytest.raises(UserError, match=r"^FL2ORA_CACHE_DIR: expected a path without control"):
        cache_folder()


LARGE = """
import sys, psutil, torch
from fl2ora.experiment.image_fit import Fit
from fl2ora.federated_data.images import ImageRows, LabelledImages
from fl2ora.federated_data.store.contents import store_folder
from fl2ora.federated_data.store.image_store import _KIND, ImageStore
count = int(sys.argv[1])
store = ImageStore(store_folder(), Fit())
store.folder.mkdir(parents=True)
for name, size in ("index", _KIND.itemsize), ("pixels", 3 * 224 * 224):
    with open(store.folder / name, "wb") as file:
        file.truncate(count * size)
before = psutil.Process().memory_info().rss
rows = torch.arange(count)
images = LabelledImages(ImageRows(store.pool(), rows), rows % 10, rows * 0)
shares = [images.select(rows[client::100]) for client in range(100)]
seen = sum(int(share.images[:2].sum()) + len(share) for share in shares)
assert seen == count
print((psutil.Process().memory_info().rss - before) // 2**20)
"""


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """200,000 images of 224 pixels are 30 GB; a hundred clients look at two each."""
    done = Command(tmp_path, "200000", code=LARGE).wait()
    # The pages that were looked at, 30 MB, may be counted; labels, domains and rows are some MB.
    assert int(done.stdout) < 120


@pytest.fixture
def open_files() -> Callable[[], int]:
    return lambda: len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts files as Linux lists them")
def test_no_file_stays_open(tmp_path: Path, open_files: Callable[[], int]) -> None:
    paths = photos(tmp_path)
    found(paths[:2])
    before = open_files()
    for count in (3, 4, 5, 6):
        found(paths[:count])
    assert open_files() <= before
