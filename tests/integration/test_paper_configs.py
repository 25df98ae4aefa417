"""The paper's settings: every file is complete, and runs on a miniature of its data."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from documented import ROOT
from fl2ora.commands.settings import read_settings
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import ConfigError
from fl2ora.reporting.tables import metrics_table
from fl2ora.server_app.run_plugins import build_plugins
from miniature_root import write_all
from runs import run_small

FOLDER = ROOT / "configs" / "paper"
FILES = sorted(FOLDER.glob("*.toml"))
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
BASE_TO_NEW = ("caltech101", "dtd", "food101", "oxford-flowers", "oxford-pets")
DOMAINS = ("pacs", "office-home", "vlcs")
HALVES = {"server-test/base", "server-test/new"}
EXPECTED = {
    "cifar10": (100, {"server-test"}),
    "cifar100": (100, {"server-test"}),
    **{f"{name}-in-domain": (8, None) for name in DOMAINS},
    **{f"{name}-leave-one-out": (8, {"server-test"}) for name in DOMAINS},
    **{f"base-to-new-{name}": (10, HALVES) for name in BASE_TO_NEW},
}
"""Under each file: its clients, and the parts it measures (in-domain: one a domain)."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL2ORA_DATA_DIR", str(root))


def settings(file: Path, *assignments: str) -> dict[str, bool | int | float | str]:
    return read_settings(file, assignments)


def baselines() -> list[tuple[str, str]]:
    """Return name and assignment of every row of the page's tables of baselines."""
    rows = re.findall(r"^\| ([^|]+) \| `((?:method|loss|strategy)=.+)` \|$", PAGE, re.MULTILINE)
    return [(name.strip(), shlex.split(text)[0]) for name, text in rows]


def test_every_setting_of_the_paper_has_a_file() -> None:
    assert {file.stem for file in FILES} == EXPECTED.keys()
    assert len(FILES) == 13


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_begins_with_its_command_data_and_time(file: Path) -> None:
    head = file.read_text(encoding="utf-8").partition("\nmodel =")[0]
    clients, _ = EXPECTED[file.stem]
    verb = "domains" if file.stem.endswith("leave-one-out") else "run"
    command = f"fl2ora {verb} configs/paper/{file.name} --clients {clients} --client-gpus 0.25"
    assert f"#   {command}\n" in head
    assert "arXiv 2512.04305" in head
    assert "$FL2ORA_DATA_DIR" in head
    assert re.search(r"# Time: an estimate, \d+ minutes|# Time: an estimate, an hour", head)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_the_paper_says_is_set(file: Path) -> None:
    config = RunConfig.from_flat(settings(file))
    assert config.model == "openai/clip-vit-base-patch16"
    assert config.method.startswith("lora(rank=2, alpha=1.0, dropout=0.25, towers='both'")
    assert (config.num_rounds, config.learning_rate, config.batch_size) == (50, 0.001, 32)
    assert config.optimiser == "sgd(momentum=0.9, weight_decay=0.0005)"
    assert config.fraction_train == (0.1 if file.stem.startswith("cifar") else 1.0)
    assert config.local_epochs == (2 if file.stem.startswith("base-to-new") else 1)
    assert (config.num_bins, config.local_test_fraction) == (10, 0.0)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_baseline_can_be_built(file: Path) -> None:
    names = [name for name, _ in baselines()]
    assert len(names) == 17
    assert {"PromptFL (CoOp)", "KgCoOp", "MaPLe", "with DCA", "with MDCA", "FedNova"} <= set(names)
    for name, assignment in baselines():
        try:
            build_plugins(*RunConfig.usable(settings(file, assignment)))
        except ConfigError as error:
            pytest.fail(f"{name}: {error}")


SMALL = {
    "model": "embedded", "num-rounds": 2, "callbacks": "none", "resamples": 10,
    "start-timeout": 60.0,
}  # fmt: skip


def run(tmp_path: Path, file: Path, *assignments: str) -> Path:
    """Run a file on the miniature with the embedded model and few clients."""
    given = {**settings(file, *assignments), **SMALL}
    # One for each domain; a miniature has no more than two or three base classes.
    clients = 4 if file.stem.endswith("in-domain") else 2 if "base" in file.stem else 3
    return run_small(
        tmp_path, clients=clients, **{key.replace("-", "_"): value for key, value in given.items()}
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_two_rounds_run_on_a_miniature(file: Path, tmp_path: Path) -> None:
    folder = run(tmp_path, file)
    table = metrics_table(folder)
    _, parts = EXPECTED[file.stem]
    sources = {str(source) for source in table["source"]}
    held_out = {name for name in sources if name.startswith("server-test")}
    if parts is None:
        assert len(held_out) == 5  # four domains and their mean
    else:
        assert parts <= held_out
    for part in parts or held_out:
        assert set(table[table["source"] == part]["round"]) == {0, 1, 2}
    recorded = json.loads((folder / "run.json").read_text())
    assert recorded["config"]["dataset"] == settings(file)["dataset"]


@pytest.mark.parametrize(("name", "assignment"), baselines())
def test_every_baseline_runs_on_a_miniature(name: str, assignment: str, tmp_path: Path) -> None:
    folder = run(tmp_path, FOLDER / "base-to-new-caltech101.toml", assignment)
    table = metrics_table(folder)
    assert set(table["source"]) >= HALVES
