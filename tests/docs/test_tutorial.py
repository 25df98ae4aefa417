"""README, the first tutorial and the page on run folders agree with each other and the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from documented import ROOT, blocks
from fl2ora.calibration.metrics.table import DEFAULT, METRICS
from fl2ora.commands.reference.specs import KINDS
from fl2ora.reporting.tables import metrics_table
from runs import run_small

README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "ten-minutes.md").read_text(encoding="utf-8")
FOLDER = (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")
ROUNDS = re.compile(r"^\| (zero-shot|\d+) \| (.*) %? ?\|$", re.MULTILINE)


def rounds(text: str) -> dict[str, list[str]]:
    """Return the rows of the first table of rounds, by round."""
    head, _, rest = text.partition("| round | accuracy | ECE |")
    assert rest, head[:40]
    return {name: row.split(" | ") for name, row in ROUNDS.findall(rest.partition("\n\n")[0])}


def test_the_readme_shows_rounds_of_the_tutorial() -> None:
    shown, whole = rounds(README), rounds(TUTORIAL)
    assert list(whole) == ["zero-shot", *map(str, range(1, 11))]
    assert {"zero-shot", "1", "10"} <= shown.keys() < whole.keys()
    assert all(row == whole[name] for name, row in shown.items())


def test_the_progress_shown_is_that_of_the_table() -> None:
    (block,) = [b for b in blocks(ROOT / "docs" / "ten-minutes.md") if b.language == "text"]
    lines = re.findall(r"(zero-shot|\d+)(?:/10)?  accuracy  (\S+) %  ECE +(\S+) %", block.text)
    whole = rounds(TUTORIAL)
    assert len(lines) == 3
    for name, accuracy, ece in lines:
        assert whole[name][0] == f"{accuracy} %"
        assert whole[name][1].startswith(f"{ece} % [")
    compared = re.search(r"^\| lora \| (\S+) % \| (\S+) % \| (\S+) \|$", TUTORIAL, re.MULTILINE)
    assert compared
    last = whole["10"]
    assert [last[0], last[1].split()[0], last[-1]] == [
        f"{compared[1]} %", compared[2], compared[3]
    ]  # fmt: skip


def test_the_readme_counts_what_there_is() -> None:
    there = {kind.title.lower().rpartition(" ")[2]: len(kind.classes()) for kind in KINDS}
    there["metrics"] = len(METRICS)
    told = {what: int(n) for n, what in re.findall(r"\[(\d+) ([a-z]+)\]\(", README)}
    assert told.keys() == {"methods", "strategies", "losses", "calibrators", "metrics"}
    assert told == {what: there[what] for what in told}
    assert f"{['nine', 'ten', 'eleven', 'twelve'][len(DEFAULT) - 9]} metrics" in FOLDER


def test_the_readme_fits_one_screen_and_has_the_commands() -> None:
    assert len(README.splitlines()) < 80
    assert re.search(r"^make test ", README, re.MULTILINE)
    assert re.search(r"^make run ", README, re.MULTILINE)


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {project['version']}\n" in citation
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert changes[0] == project["version"]


def test_a_run_leaves_the_files_and_sources_that_are_told(tmp_path: Path) -> None:
    settings = {"callbacks": "default + validation", "metrics": "default + classwise_ece"}
    folder = run_small(tmp_path, clients=2, num_rounds=1, calibrator="temperature", **settings)
    rows = FOLDER.partition("| file |")[2].partition("\n\n")[0].splitlines()[2:]
    told = {name for row in rows for name in re.findall(r"`([\w./]+)`", row.split(" | ")[0])}
    told |= {name.replace(".png", ".svg") for name in told}
    found = {path.name + "/" * path.is_dir() for path in folder.iterdir()}
    assert found == told - {"superlink.log"}  # of other engines
    sources = {source.removesuffix("-calibrated") for source in metrics_table(folder)["source"]}
    explained = re.findall(r"^\| `([\w-]+)`", FOLDER.partition("| source |")[2], re.MULTILINE)
    assert {re.sub("-(mean|sd|worst)$", "", source) for source in sources} <= set(explained)
    assert {"server-test", "clients-test-worst", "clients-validation", "training"} <= sources
