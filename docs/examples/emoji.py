"""Make a folder of emoji, ``vendor/class/*.png``, from archives of three npm packages.

    npm pack emoji-datasource-google emoji-datasource-twitter @lobehub/fluent-emoji-3d
    python docs/examples/emoji.py *.tgz --out emoji

Vendors are the domains: Google's Noto (Apache 2.0), Twitter's Twemoji (CC-BY 4.0), Microsoft's
Fluent 3D (MIT). Classes are Unicode's subgroups, such as "animal mammal", that have enough emoji in
all three. Nothing of the archives is run or unpacked: images are read out of them by name.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import tarfile
from collections import defaultdict
from pathlib import Path

from PIL import Image

# Where an archive keeps the pictures, and what its vendor is called here.
VENDORS = {
    "emoji-datasource-google": ("noto", "package/img/google/64/{}.png"),
    "emoji-datasource-twitter": ("twemoji", "package/img/twitter/64/{}.png"),
    "lobehub-fluent-emoji-3d": ("fluent", "package/assets/{}.webp"),
}
LIST = "package/emoji.json"  # in the first two: names, groups and subgroups of all emoji


def main() -> None:
    """Read the archives and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archives", type=Path, nargs="+", metavar="ARCHIVE")
    parser.add_argument("--out", type=Path, default=Path("emoji"))
    parser.add_argument("--least", type=int, default=12, help="emoji a class needs [12]")
    options = parser.parse_args()
    pictures: dict[str, dict[str, bytes]] = {}
    groups: dict[str, str] = {}
    for path in options.archives:
        package = re.sub(r"-[\d.]+\.tgz$", "", path.name)
        if package not in VENDORS:
            parser.error(f"{path}: expected an archive of {', '.join(VENDORS)}")
        vendor, pattern = VENDORS[package]
        with tarfile.open(path) as archive:
            names = set(archive.getnames())
            if not groups and "datasource" in package:
                groups = subgroups(json.loads(read(archive, LIST)))
            wanted = {code: pattern.format(code) for code in groups}
            pictures[vendor] = {
                code: read(archive, name) for code, name in wanted.items() if name in names
            }
    if len(pictures) < 2 or not groups:
        parser.error("expected archives of two vendors at least, the first an emoji-datasource")
    classes = defaultdict(list)
    for code in set.intersection(*(set(found) for found in pictures.values())):
        classes[groups[code]].append(code)
    kept = {name: codes for name, codes in classes.items() if len(codes) >= options.least}
    for vendor, found in pictures.items():
        for name, codes in kept.items():
            folder = options.out / vendor / name
            folder.mkdir(parents=True, exist_ok=True)
            for code in codes:
                on_white(found[code]).save(folder / f"{code}.png")
    count = sum(map(len, kept.values()))
    print(f"{options.out}: {len(pictures)} vendors, {len(kept)} classes, {count} emoji of each")


def subgroups(emoji: list[dict[str, object]]) -> dict[str, str]:
    """Return the subgroup of each emoji by its code, as the name of a folder."""
    return {
        str(entry["unified"]).lower(): re.sub(r"[^a-z]+", "_", str(entry["subcategory"]).lower())
        for entry in emoji
        if entry["category"] not in ("Component", "Flags")
    }


def read(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the bytes of one member."""
    file = archive.extractfile(name)
    return file.read() if file else b""


def on_white(data: bytes, side: int = 64) -> Image.Image:
    """Return a picture on white, that many pixels wide."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    main()
