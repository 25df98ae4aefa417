"""How fast images are loaded, against a DataLoader that decodes files, and how many start.

    python -m benchmarks.loading
    python -m benchmarks.loading --start 1000000

The first generates JPEGs of the size of ImageNet's and prints images per second, images per second
of a processor (which other programs on the machine disturb less) and memory of both ways, and how
far random crops from the store's larger squares are from crops of the files. The second generates
so many empty files and a sparse store (no real pixels) as if they had been decoded, and prints how
long a process needs until it may train, and its memory.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import torch
import typer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.experiment.image_fit import Fit
from fl2ora.federated_data.images import DIGEST, ImageRows, digest_of
from fl2ora.federated_data.shares import load_federation
from fl2ora.federated_data.store.contents import KnownContents, store_folder
from fl2ora.federated_data.store.decode import decoding
from fl2ora.federated_data.store.image_store import _KIND, ImageStore
from fl2ora.federated_data.store.sources import FileSource
from fl2ora.federated_data.store.stored import stored_images
from fl2ora.federated_data.store.threads import _processors

SIDE, BATCH = 224, 64
HEIGHT, WIDTH = 375, 500  # of a typical photograph in ImageNet
VIT_B_16 = {"train": 272, "evaluate": 2544}  # images/s on an H200: results/accelerator-h200.json


def main(
    images: Annotated[int, typer.Option(help="JPEGs to generate.")] = 2000,
    repeats: Annotated[int, typer.Option(help="The table holds medians of so many.")] = 3,
    start: Annotated[int, typer.Option(help="Start with so many instead.")] = 0,
    measured: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print a table."""
    if measured:
        _start(Path(measured))
        return
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FL2ORA_CACHE_DIR"] = str(Path(scratch) / "cache")
        if start:
            _pretended(Path(scratch) / "data", start)
        else:
            _loading(Path(scratch), images, repeats)


def _loading(scratch: Path, count: int, repeats: int) -> None:
    paths = _generated(scratch / "data", count)
    print(
        f"{count} JPEGs of {WIDTH}x{HEIGHT}, {_processors()} processors, batches of {BATCH}, "
        f"medians of {repeats}"
    )
    loader = _medians([_timed_loader(paths) for _ in range(repeats)])
    store = _medians([_timed_store(paths, scratch / f"cache{n}") for n in range(repeats)])
    kinds = ("first pass, images/s", "of a processor", "later passes, images/s", "of a processor")
    print(f"| | {' | '.join(kinds)} | own memory of a process, MiB |")
    print(f"| --- |{' ---: |' * 5}")
    for name, row in (("DataLoader", loader), ("store", store)):
        print(f"| {name} | {' | '.join(f'{value:,.0f}' for value in row)} |")
    print(
        f"later passes: {store[2] / loader[2]:.0f} times as fast, of a processor "
        f"{store[3] / loader[3]:.0f} times"
    )
    later = store[3]  # of a processor that does nothing else
    for kind, rate in VIT_B_16.items():
        share = (1 / later) / (1 / later + 1 / rate)
        print(f"share of time spent loading at ViT-B/16 on an H200, {kind}: {share:.1%}")
    _crop_differences()


class _Files(Dataset[Tensor]):
    """What a plain pipeline does with a file, up to the bytes a model's preprocessing ends in."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self._paths[index]) as image:
            picture = image.convert("RGB")
        shorter = min(picture.size)
        size = (picture.width * SIDE // shorter, picture.height * SIDE // shorter)
        picture = picture.resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
        picture = picture.crop((left, top, left + SIDE, top + SIDE))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _medians(rows: list[list[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def _timed_store(paths: list[Path], cache: Path) -> list[float]:
    """Return what ``_timed_loader`` does, of the store: its memory is what later passes add."""
    os.environ["FL2ORA_CACHE_DIR"] = str(cache)
    clock = _Clock(len(paths))
    with decoding():
        images = stored_images(FileSource(paths), Fit(), "stop", "train").images
    first = clock.rates()
    before = _own_bytes()
    later = _medians([_timed(_batches(images), len(paths)) for _ in range(5)])
    grown = _own_bytes() - before
    return [*first, *later, grown / 2**20]


def _timed_loader(paths: list[Path]) -> list[float]:
    """Return rates of the first and of a later pass, and the MiB that a worker has alone."""
    loader = DataLoader(
        _Files(paths), BATCH, shuffle=True, num_workers=_processors(), persistent_workers=True
    )
    first, later = (_timed(iter(loader), len(paths)) for _ in range(2))
    workers = psutil.Process().children(recursive=True)
    memory = max(worker.memory_full_info().uss for worker in workers) / 2**20
    return [*first, *later, memory]


def _batches(images: ImageRows) -> Iterator[Tensor]:
    for rows in torch.randperm(len(images)).split(BATCH):
        yield images[rows]


def _own_bytes() -> int:
    """Return this process's memory without the pages of mapped files."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


class _Clock:
    """Measures seconds, and those of processors that this process and its children use."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._began, self._used = time.perf_counter(), _processor_seconds()

    def rates(self) -> list[float]:
        """Return images per second, and per second of a processor."""
        used = _processor_seconds() - self._used
        return [self._count / (time.perf_counter() - self._began), self._count / max(used, 0.01)]


def _processor_seconds() -> float:
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _timed(batches: Iterator[Any], count: int) -> list[float]:
    clock = _Clock(count)
    seen = sum(len(batch) for batch in batches)
    assert seen == count
    return clock.rates()


def _picture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Return smooth parts, edges and grain."""
    y, x = np.mgrid[0:height, 0:width]
    waves = 127 + 80 * np.sin(x / rng.uniform(9, 60) + rng.uniform(0, 6, (3, 1, 1))) * np.cos(
        y / rng.uniform(9, 60)
    )
    edges = np.where(x * rng.uniform(0.5, 2) > y, 40, 0)
    grain = rng.normal(0, 6, (height, width))
    values = np.clip(waves - edges + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0)))


def _generated(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        paths.append(folder / f"{number}.jpg")
        _picture(rng, HEIGHT, WIDTH).save(paths[-1], quality=90)
    return paths


def _crop_differences() -> None:
    """Print how far crops from the larger square are from those of the image itself."""
    unit = Preprocessing(SIDE, SIDE, mean=(0.0,) * 3, std=(1.0,) * 3)
    rng = np.random.default_rng(1)
    print("crops by way of the larger square, against crops of the image, of 255:")
    for height, width in ((HEIGHT, WIDTH), (1200, 1600), (200, 150)):
        gaps = []
        for seed in range(20):
            picture = _picture(rng, height, width)
            larger = picture.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC)
            whole, square = (
                torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
                for image in (picture, larger)
            )
            shapes = torch.tensor([[height, width]])
            crops = [
                unit.training(raw, "crop_flip", torch.Generator().manual_seed(seed), shape)
                for raw, shape in ((square, shapes), (whole, None))
            ]
            gaps.append(float((crops[0] - crops[1]).abs().mean()) * 255)
        print(f"  {width}x{height}: mean {np.mean(gaps):.1f}, largest mean {np.max(gaps):.1f}")


def _pretended(folder: Path, count: int) -> None:
    """Make as if ``count`` images had been decoded, then start a process that trains on them."""
    paths = []
    for label in range(1000):
        (folder / f"class_{label:03}").mkdir(parents=True)
        for number in range(count // 1000):
            paths.append(folder / f"class_{label:03}" / f"{number:04}.jpg")
            paths[-1].touch()
    contents = np.array([digest_of(str(row).encode()) for row in range(count)], dtype=DIGEST)
    root = store_folder()
    store = ImageStore(root, Fit())
    store.folder.mkdir(parents=True)
    KnownContents(root).remember(FileSource(paths).stamps(), contents)
    records = np.zeros(count, _KIND)
    records["content"] = records["pixels"] = contents
    records.tofile(store.folder / "index")
    with (store.folder / "pixels").open("wb") as file:
        file.truncate(count * 3 * SIDE * SIDE)
    command = [sys.executable, "-m", "benchmarks.loading", "--measured", str(folder)]
    subprocess.run(command, check=True)


def _start(folder: Path) -> None:
    process = psutil.Process()
    already = process.cpu_times().user + process.cpu_times().system
    before, began = process.memory_full_info(), time.perf_counter()
    federation = load_federation(f"folder({str(folder)!r}, test=0.1)", "in_distribution", Fit())
    seconds, used = time.perf_counter() - began, process.cpu_times()
    now = process.memory_full_info()
    held_out = federation.parts[0].images
    print(f"{len(federation.train):,} training images, {len(held_out):,} test images")
    print(f"start: {seconds:.1f} s, of the processor {used.user + used.system - already:.1f} s")
    print(
        f"memory then: {(now.uss - before.uss) / 2**20:,.0f} MiB of its own, "
        f"{(now.rss - before.rss) / 2**20:,.0f} MiB resident"
    )
    del federation


if __name__ == "__main__":
    typer.run(main)
