"""The script of docs/your-data.md, on archives laid out as npm's."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "examples" / "emoji.py"
EMOJI = [
    {"unified": "1F400", "category": "Animals & Nature", "subcategory": "animal-mammal"},
    {"unified": "1F401", "category": "Animals & Nature", "subcategory": "animal-mammal"},
    {"unified": "2600-FE0F", "category": "Travel & Places", "subcategory": "sky & weather"},
    {"unified": "1F3FB", "category": "Component", "subcategory": "skin-tone"},
]


def picture(kind: str, colour: tuple[int, int, int, int]) -> bytes:
    found = io.BytesIO()
    Image.new("RGBA", (20, 10), colour).save(found, kind)
    return found.getvalue()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return path


def run(tmp_path: Path, *archives: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *archives, "--out", tmp_path / "emoji", "--least", "2"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pictures_are_sorted_by_vendor_and_class_and_laid_on_white(tmp_path: Path) -> None:
    codes = [str(entry["unified"]).lower() for entry in EMOJI]
    clear, red = picture("PNG", (0, 0, 0, 0)), picture("WEBP", (255, 0, 0, 255))
    noto = {f"package/img/google/64/{code}.png": clear for code in codes}
    fluent = {f"package/assets/{code}.webp": red for code in codes}
    made = [
        archive(
            tmp_path / "emoji-datasource-google-16.0.0.tgz",
            {"package/emoji.json": json.dumps(EMOJI).encode(), **noto},
        ),
        archive(tmp_path / "lobehub-fluent-emoji-3d-1.1.0.tgz", fluent),
    ]
    done = run(tmp_path, *made)
    assert "2 vendors, 1 classes, 2 emoji of each" in done.stdout, done.stderr
    found = sorted(
        path.relative_to(tmp_path / "emoji").as_posix()
        for path in (tmp_path / "emoji").rglob("*.png")
    )
    assert found == [
        f"{vendor}/animal_mammal/{code}.png"
        for vendor in ("fluent", "noto")
        for code in ("1f400", "1f401")
    ]
    with Image.open(tmp_path / "emoji/noto/animal_mammal/1f400.png") as image:
        assert (image.size, image.mode, image.getpixel((5, 5))) == ((64, 64), "RGB", (255,) * 3)


def test_another_archive_is_refused_by_name(tmp_path: Path) -> None:
    done = run(tmp_path, archive(tmp_path / "openmoji-17.0.0.tgz", {}))
    assert done.returncode == 2
    assert "expected an archive of emoji-datasource-google" in done.stderr
