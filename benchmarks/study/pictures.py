r"""Pictures of emoji for the study, out of archives of six npm packages.

    npm pack openmoji emoji-datasource-google emoji-datasource-twitter @lobehub/fluent-emoji-3d \
        @iconify-json/noto-v1 @iconify-json/emojione-v1
    python -m benchmarks.study.pictures *.tgz --out study/emoji

Written are ``captions/`` with pictures of four vendors and ``metadata.csv``, for pre-training;
``pictures/`` with all vendors on white; and tables of these, ``VENDORS-CLASSES.csv``, for
``folder(path=..., table_file=...)``. An emoji is for training or for testing with all its vendors.

Noto and Noto's blobs are under Apache 2.0, Twemoji under CC-BY 4.0, EmojiOne 1 and OpenMoji under
CC BY-SA 4.0, Fluent under MIT. Names and keywords are Unicode's, as OpenMoji lists them. Nothing of
the archives is run or unpacked: pictures are read out of them by name.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import resvg_py
from PIL import Image

SIDE = 64
SEEN_VENDORS = ("noto", "twemoji", "blobs", "emojione")
NEW_VENDORS = ("fluent", "openmoji", "outlines")
SEEN_CLASSES = {
    "animal-mammal": "mammal",
    "animal-marine": "sea animal",
    "alphanum": "text button",
    "arrow": "arrow",
    "book-paper": "paper",
    "clothing": "clothing",
    "face-concerned": "sad face",
    "food-fruit": "fruit",
    "food-prepared": "meal",
    "game": "game",
    "geometric": "geometric shape",
    "heart": "heart",
    "household": "household object",
    "office": "office supply",
    "person-fantasy": "fantasy being",
    "person-gesture": "gesture",
    "person-role": "worker",
    "person-sport": "athlete",
    "place-building": "building",
    "plant-other": "plant",
    "sky-weather": "weather",
    "time": "clock",
    "transport-ground": "land vehicle",
}
NEW_CLASSES = {
    "animal-bird": "bird",
    "animal-bug": "insect",
    "drink": "drink",
    "food-vegetable": "vegetable",
    "musical-instrument": "musical instrument",
    "sport": "sports equipment",
    "tool": "tool",
    "transport-air": "aircraft",
}
_KEYWORDS = 4  # of an emoji, in captions
_WANTED = re.compile(
    r"package/(data/openmoji\.csv|icons\.json|img/(google|twitter)/64/|assets/|(color|black)/svg/)"
)


@dataclass(frozen=True)
class Emoji:
    """One of Unicode's emoji: its code points, name, subgroup and keywords."""

    code: str
    name: str
    subgroup: str
    keywords: tuple[str, ...]

    @property
    def split(self) -> str:
        """Whether its pictures are for training or for testing; half of all, by its code."""
        return "train" if hashlib.sha256(self.code.encode()).digest()[0] < 128 else "test"


Reader = Callable[[Emoji], Image.Image | None]


class Archive:
    """One npm archive; what may be wanted of it is read in one pass, as gzip wants it."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path, "r|gz") as archive:
            self._files = {
                member.name: file.read()
                for member in archive
                if _WANTED.match(member.name) and (file := archive.extractfile(member))
            }

    def __call__(self, *names: str) -> bytes | None:
        """Return the bytes of the first of these files that there is."""
        return next((self._files[name] for name in names if name in self._files), None)


def list_emoji(openmoji: Archive) -> list[Emoji]:
    """Return Unicode's emoji without flags, skin tones and components."""
    text = (openmoji("package/data/openmoji.csv") or b"").decode("utf-8")
    return [
        Emoji(
            row["hexcode"],
            row["annotation"].lower(),
            row["subgroups"],
            tuple(tag.strip().lower() for tag in row["tags"].split(",") if tag.strip()),
        )
        for row in csv.DictReader(io.StringIO(text))
        if not row["skintone"]
        and not row["group"].startswith("extras")
        and row["group"] not in ("component", "flags")
    ]


def pictures_of(archive: Archive, pattern: str, upper: bool = False) -> Reader:
    """Return what reads an emoji's picture from a file that is named by its code points."""

    def read(emoji: Emoji) -> Image.Image | None:
        code = emoji.code if upper else emoji.code.lower()
        plain = re.sub("-fe0f", "", code, flags=re.IGNORECASE)
        names = [pattern.format(form) for form in (code, plain, f"{plain}-fe0f")]
        data = archive(*names)
        return data and (_drawn(data.decode()) if pattern.endswith("svg") else _opened(data))

    return read


def icons_of(archive: Archive) -> Reader:
    """Return what draws an emoji from a set of icons that are named by Unicode's names."""
    content = json.loads(archive("package/icons.json") or b"{}")
    icons, side = content["icons"], content.get("width", 16)

    def read(emoji: Emoji) -> Image.Image | None:
        icon = icons.get(re.sub("[^a-z0-9]+", "-", emoji.name.replace("’", "")).strip("-"))
        if icon is None:
            return None
        width, height = icon.get("width", side), icon.get("height", side)
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">'
        return _drawn(f"{head}{icon['body']}</svg>")

    return read


def _drawn(svg: str) -> Image.Image:
    return _opened(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE)))


def _opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def captions_of(emoji: Emoji) -> Iterator[str]:
    """Yield what a picture may be called; its name and class thrice, so more often."""
    for _ in range(3):
        yield emoji.name
        yield SEEN_CLASSES.get(emoji.subgroup, emoji.subgroup.replace("-", " "))
    yield from emoji.keywords[:_KEYWORDS]


def write(readers: dict[str, Reader], emojis: list[Emoji], out: Path) -> None:
    """Write all pictures, captions and tables."""
    captions: list[tuple[str, str]] = []
    tables: dict[str, list[tuple[str, str, str, str]]] = {}
    for vendor, read in readers.items():
        for folder in (out / "pictures" / vendor, out / "captions" / vendor):
            folder.mkdir(parents=True, exist_ok=True)
        for emoji in emojis:
            picture = read(emoji)
            if picture is None:
                continue
            name = f"{vendor}/{emoji.code}.png"
            new = emoji.subgroup in NEW_CLASSES
            if vendor in SEEN_VENDORS and not new:
                picture.save(out / "captions" / name)
                captions += [(name, text) for text in captions_of(emoji)]
            if label := {**SEEN_CLASSES, **NEW_CLASSES}.get(emoji.subgroup):
                white = Image.new("RGBA", picture.size, "white")
                white.alpha_composite(picture)
                white.convert("RGB").save(out / "pictures" / name)
                known = "seen" if vendor in SEEN_VENDORS else "new"
                table = tables.setdefault(f"{known}-vendors-{'new' if new else 'seen'}-classes", [])
                table.append((f"pictures/{name}", label, vendor, emoji.split))
    _write_csv(out / "captions" / "metadata.csv", ("file_name", "text"), captions)
    for name, rows in tables.items():
        _write_csv(out / f"{name}.csv", ("path", "label", "domain", "split"), rows)
        print(f"{out / name}.csv: {len(rows):,} pictures")
    print(f"{out / 'captions'}: {len({name for name, _ in captions}):,} pictures with captions")


def _write_csv(path: Path, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])


def main() -> None:
    """Read the archives and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("archives", type=Path, nargs="+", metavar="ARCHIVE")
    parser.add_argument("--out", type=Path, default=Path("study/emoji"))
    options = parser.parse_args()
    found = {re.sub(r"-[\d.]+\.tgz$", "", path.name): path for path in options.archives}
    wanted = {
        "openmoji", "emoji-datasource-google", "emoji-datasource-twitter",
        "lobehub-fluent-emoji-3d", "iconify-json-noto-v1", "iconify-json-emojione-v1",
    }  # fmt: skip
    if missing := sorted(wanted - found.keys()):
        parser.error(f"expected archives of six packages, found none of {', '.join(missing)}")
    archives = {name: Archive(found[name]) for name in wanted}
    openmoji = archives["openmoji"]
    readers = {
        "noto": pictures_of(archives["emoji-datasource-google"], "package/img/google/64/{}.png"),
        "twemoji": pictures_of(
            archives["emoji-datasource-twitter"], "package/img/twitter/64/{}.png"
        ),
        "blobs": icons_of(archives["iconify-json-noto-v1"]),
        "emojione": icons_of(archives["iconify-json-emojione-v1"]),
        "fluent": pictures_of(archives["lobehub-fluent-emoji-3d"], "package/assets/{}.webp"),
        "openmoji": pictures_of(openmoji, "package/color/svg/{}.svg", upper=True),
        "outlines": pictures_of(openmoji, "package/black/svg/{}.svg", upper=True),
    }
    write(readers, list_emoji(openmoji), options.out)


if __name__ == "__main__":
    main()
