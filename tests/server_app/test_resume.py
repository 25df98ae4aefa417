"""A run that is interrupted and goes on ends as one that never was."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.reporting.events import read_lines
from fl2ora.server_app import resuming
from fl2ora.server_app.checkpoint import Checkpoint
from fl2ora.strategies.privacy._ledger import composed
from power_cuts import QUICK, assert_same_results, going_on, interrupted, undisturbed
from runs import events, run_small

STATEFUL: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "feddyn": {"strategy": "feddyn", "fraction_train": 0.7},
    "scaffold": {
        "strategy": "scaffold", "optimiser": "sgd(momentum=0.0)", "fraction_train": 0.7,
        "learning_rate": 0.1,
    },
    "fedadam": {"strategy": "fedadam"},
    "dp_fedavg": {"strategy": "dp_fedavg(seed=5, clip_quantile=0.5)"},
    "fedpgp": {"method": "fedpgp(length=2)", "learning_rate": 0.01, "fraction_train": 0.7},
    "prompt_src": {"method": "prompt_src(length=2)", "learning_rate": 0.01},
    "int8": {"compression": "int8", "fraction_train": 0.7},
    "nucfl": {"loss": "cross_entropy + nucfl"},
    "early_stop": {
        "callbacks": "early_stop(patience=2) + summary", "metrics": "default + classwise_ece",
        "calibrator": "temperature",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", STATEFUL)
def test_a_run_cut_in_its_third_round_ends_as_if_it_had_not_been(tmp_path: Path, name: str) -> None:
    """One client has kept the state of a round that is lost, and must go back with it."""
    settings = STATEFUL[name]
    asked = 2 if "fraction_train" in settings else 3
    folder = interrupted(tmp_path, 2 * asked + 1, **settings)
    assert [event["round"] for event in events(folder, "round-start")] == [1, 2, 3]
    whole = undisturbed(tmp_path, **settings)
    assert_same_results(going_on(tmp_path, **settings), whole)
    (resumed,) = events(folder, "resumed")
    assert (resumed["round"], resumed["lost_rounds"], resumed["damaged"]) == (2, 1, [])
    assert [path.name for path in (folder / "checkpoints").glob("*.json")] != []


@pytest.mark.parametrize("where", ["state-dir", "run directory"])
def test_two_cuts_between_checkpoints_two_rounds_apart(tmp_path: Path, where: str) -> None:
    """Rounds 3 and 4 are lost twice, once after all of 3, with what clients kept in them."""
    settings: dict[str, Any] = {"strategy": "feddyn", "fraction_train": 0.7, "checkpoint_every": 2}
    if where == "state-dir":
        node = {"state-dir": str(tmp_path / "nodes")}
        settings["node_configs"] = dict.fromkeys(range(3), node)
    interrupted(tmp_path, 7, **settings)
    folder = str(tmp_path / "runs" / "run")
    interrupted(tmp_path, 3, run_id=2, resume=folder, **settings)
    found = going_on(tmp_path, run_id=3, **settings)
    del settings["checkpoint_every"]
    assert_same_results(found, undisturbed(tmp_path, **settings))
    assert [event["round"] for event in events(found, "resumed")] == [2, 2]
    described = json.loads((found / "run.json").read_text())
    told = [(entry["run_id"], entry["round"]) for entry in described["resumed"]]
    assert told == [("1", 2), ("2", 2)]
    assert (found / "clients").exists() == (where == "run directory")


def test_before_the_first_checkpoint_the_run_begins_anew(tmp_path: Path) -> None:
    settings = {"strategy": "feddyn", "num_rounds": 2}
    folder = interrupted(tmp_path, 2, **settings)
    assert not (folder / "checkpoints").exists()
    assert_same_results(going_on(tmp_path, **settings), undisturbed(tmp_path, **settings))


def test_a_run_that_did_all_its_rounds_and_could_not_write_goes_on_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up after the last round; what memory held then is measured again."""
    settings = {"num_rounds": 2, "method": "fedpgp(length=2)", "learning_rate": 0.01}

    def refuse(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("fl2ora.server_app.finishing.save_global", refuse)
        with pytest.raises(OSError, match="no space left"):
            run_small(tmp_path, **{**QUICK, **settings})
    found = going_on(tmp_path, **settings)
    assert len(events(found, "round-start")) == 2
    assert_same_results(found, undisturbed(tmp_path, **settings))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the parent of a run cut in round 4, with checkpoints of rounds 2 and 3."""
    tmp_path = tmp_path_factory.mktemp("cut")
    interrupted(tmp_path, 10)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return undisturbed(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def copied(cut: Path, tmp_path: Path) -> Path:
    """Return the folder of a copy of that run, below ``tmp_path``."""
    shutil.copytree(cut / "runs", tmp_path / "runs")
    return tmp_path / "runs" / "run"


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("round-0000003.safetensors", cut_short),
        ("round-0000003.safetensors", flip),
        ("round-0000003.safetensors", Path.unlink),
        ("round-0000003.json", cut_short),
        ("round-0000003.json", flip),
    ],
)
def test_of_a_damaged_checkpoint_the_one_before_is_used(
    tmp_path: Path, copied: Path, whole: Path, file: str, damage: Any
) -> None:
    damage(copied / "checkpoints" / file)
    assert_same_results(going_on(tmp_path), whole)
    (resumed,) = events(copied, "resumed")
    assert resumed["round"] == 2
    (words,) = resumed["damaged"]
    assert words.startswith(f"{copied / 'checkpoints' / 'round-0000003.json'}: cannot be used: ")


def test_a_checkpoint_whose_metrics_were_changed_is_not_used(
    tmp_path: Path, copied: Path, whole: Path
) -> None:
    """No checkpoint fits them; only by force the run begins anew, as all rounds are lost then."""
    record = copied / "metrics.jsonl"
    record.write_bytes(record.read_bytes().replace(b'"round": 1', b'"round": 9'))
    with pytest.raises(UserError, match=r"metrics\.jsonl does not begin as it did"):
        going_on(tmp_path)
    assert len(list((copied / "checkpoints").glob("*.json"))) == 2
    assert_same_results(going_on(tmp_path, force_resume=True), whole)
    (resumed,) = events(copied, "resumed")
    assert resumed["round"] == 0
    assert "metrics.jsonl does not begin as it did then" in resumed["damaged"][0]


def test_a_line_that_was_cut_short_is_ended(tmp_path: Path, copied: Path, whole: Path) -> None:
    for name in ("events.jsonl", "metrics.jsonl"):
        with (copied / name).open("ab") as file:
            file.write(b'{"event": "rou')
    assert_same_results(going_on(tmp_path), whole)
    assert events(copied, "resumed")


def test_changed_settings_are_refused_by_name_and_nothing_is_touched(
    tmp_path: Path, copied: Path
) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        going_on(tmp_path, learning_rate=0.1, strategy="median", round_timeout=7.0)
    assert "  - strategy: expected 'fedavg', found 'median'\n" in str(caught.value)
    assert "  - learning-rate: expected 0.3, found 0.1\n" in str(caught.value)
    assert "round-timeout" not in str(caught.value)
    assert {path: path.read_bytes() for path in before} == before


def test_other_code_and_libraries_are_refused(
    tmp_path: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "code_fingerprint", lambda: "feedfacefeedface")
    path = copied / "run.json"
    path.write_text(path.read_text().replace('"torch": "2', '"torch": "1'))
    with pytest.raises(UserError, match=r"torch: expected 1\..*\n  - code: .*found feedface"):
        going_on(tmp_path)


def test_by_force_a_changed_setting_is_taken_and_recorded(tmp_path: Path, copied: Path) -> None:
    found = going_on(tmp_path, learning_rate=0.1, force_resume=True)
    described = json.loads((found / "run.json").read_text())
    assert described["config"]["learning-rate"] == 0.1
    assert described["resumed"] == [
        {"round": 3, "run_id": "1", "config": {"learning-rate": [0.3, 0.1]}}
    ]
    assert (
        "- changed after round 3: learning-rate: 0.3 -> 0.1" in (found / "summary.md").read_text()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "bitfit"}, "method: expected the one of the checkpoint: .* missing: "),
        ({"callbacks": "summary + traffic + plots"}, r"callbacks: expected \d, .* found 3"),
    ],
)
def test_what_even_force_cannot_put_together_is_told(
    tmp_path: Path, copied: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        going_on(tmp_path, force_resume=True, **settings)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 2}, "expected format 1 of checkpoints, found 2"),
        ({"round": "x"}, "round: expected whole numbers of at least 0"),
        ({"callbacks": 10**6}, "callbacks: expected whole numbers"),
        ({"stop": None}, "stop: expected whole numbers of at least 0 and a text for stop"),
        ({"place": {"metrics": 10**15}}, "metrics.jsonl does not begin as it did then"),
    ],
)
def test_a_checkpoint_of_another_make_is_passed_over(
    copied: Path, changed: dict[str, Any], message: str
) -> None:
    path = copied / "checkpoints" / "round-0000003.json"
    body = {**json.loads(path.read_text())["checkpoint"], **changed}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"checkpoint": body, "sha256": digest}))
    with pytest.raises(UserError, match=message):
        Checkpoint.load(copied, 3)


def test_other_clients_are_refused(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(UserError, match=r"expected the 3 clients of before.*new: 3; resized: 0"):
        going_on(tmp_path, clients=4)
    found = going_on(tmp_path, run_id=3, clients=4, force_resume=True)
    (others,) = events(found, "other-clients")
    assert others["new"] == ["3"]


def test_more_rounds_are_always_allowed(tmp_path: Path, whole: Path) -> None:
    """A finished run goes on as the first part of a longer one."""
    shutil.copytree(whole.parent, tmp_path / "runs")
    longer = going_on(tmp_path, num_rounds=6)
    assert_same_results(longer, undisturbed(tmp_path, num_rounds=6), summary=False)
    assert "- changed after round 4: num-rounds: 4 -> 6" in (longer / "summary.md").read_text()
    assert [e["round"] for e in events(longer, "round-start")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "has finished and has done all its 4 rounds; raise num-rounds"),
        ({"num_rounds": 3}, "num-rounds: expected at least 4, the rounds done in .*, found 3"),
    ],
)
def test_a_finished_run_has_nothing_to_go_on_with(
    tmp_path: Path, whole: Path, settings: dict[str, Any], words: str
) -> None:
    shutil.copytree(whole.parent, tmp_path / "runs")
    with pytest.raises(UserError, match=words):
        going_on(tmp_path, **settings)


def test_a_mean_over_rounds_is_not_stretched_over_more_rounds(tmp_path: Path) -> None:
    settings = {"method": "prompt_src(length=2)", "learning_rate": 0.01, "num_rounds": 1}
    run_small(tmp_path, **{**QUICK, **settings})
    with pytest.raises(UserError, match="num-rounds: expected 1, by which prompt_src"):
        going_on(tmp_path, **{**settings, "num_rounds": 2})


@pytest.mark.parametrize(("name", "is_saved"), [("FedAvg", True), ("FedAdam", False)])
def test_of_flower_s_strategies_those_that_remember_something_are_refused(
    tmp_path: Path, name: str, is_saved: bool
) -> None:
    settings = {"strategy": f"flwr.serverapp.strategy:{name}()", "num_rounds": 2}
    interrupted(tmp_path, 5, **settings)
    if is_saved:
        assert_same_results(going_on(tmp_path, **settings), undisturbed(tmp_path, **settings))
        return
    with pytest.raises(UserError, match=r"FedAdam\(\) remembers .*m_t.*which no checkpoint holds"):
        going_on(tmp_path, **settings)


def test_a_run_that_still_goes_on_is_left_alone(tmp_path: Path, copied: Path) -> None:
    with resuming.held(copied), pytest.raises(UserError, match="still going on, in another"):
        going_on(tmp_path)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs" / "run").mkdir(parents=True)
    with pytest.raises(UserError, match=r"run: expected the folder of a run, found no run\.json"):
        going_on(tmp_path)


def test_without_room_for_a_checkpoint_the_run_goes_on(tmp_path: Path, whole: Path) -> None:
    """The disk takes the record, and nothing in a folder of checkpoints."""
    folder = interrupted(tmp_path, 4)
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").touch()
    found = going_on(tmp_path)
    assert_same_results(found, whole)
    assert [event["round"] for event in events(found, "checkpoint-failed")] == [1, 2, 3, 4]


@pytest.mark.parametrize(("every", "kept"), [(0, []), (1, [3, 4]), (3, [3, 4]), (10, [4])])
def test_two_checkpoints_are_kept_and_the_last_round_has_one(
    tmp_path: Path, every: int, kept: list[int]
) -> None:
    folder = run_small(tmp_path, **{**QUICK, "clients": 1, "checkpoint_every": every})
    names = sorted(path.name for path in folder.glob("checkpoints/*"))
    ends = ("json", "safetensors")
    assert names == [f"round-{number:07d}.{end}" for number in kept for end in ends]


@pytest.mark.parametrize(("seed", "releases"), [(None, 5), (3, 4)])
def test_noise_that_was_lost_with_a_round_is_paid_for(
    tmp_path: Path, seed: int | None, releases: int
) -> None:
    """Run again, a round bears other noise and is another release, unless its noise has a seed."""
    settings = {"strategy": f"dp_fedavg(noise_multiplier=2.0, seed={seed})"}
    interrupted(tmp_path, 8, **settings)
    rows = read_lines(going_on(tmp_path, **settings) / "metrics.jsonl")
    spent = {row["round"]: row["epsilon"] for row in rows if "epsilon" in row}
    assert spent[2] == pytest.approx(composed(2, 2.0, 1e-5))
    assert spent[4] == pytest.approx(composed(releases, 2.0, 1e-5))


def test_a_record_that_was_moved_goes_on_where_it_is_now(tmp_path: Path, copied: Path) -> None:
    moved = tmp_path / "elsewhere" / "mine"
    moved.parent.mkdir()
    copied.rename(moved)
    settings = {**QUICK, "resume": str(moved), "output_dir": str(moved.parent), "run_name": "mine"}
    run_small(tmp_path, run_id=2, **settings)
    assert events(moved, "finished")


@pytest.mark.parametrize("disk", [False, True])
def test_a_client_whose_memory_ended_with_the_run_is_named(tmp_path: Path, disk: bool) -> None:
    own: dict[str, Any] = {
        "dataset": "shapes(styles='held-back', train=30, test=8)",
        "site": "ward",
    }
    if disk:
        own["state-dir"] = str(tmp_path / "ward")
    settings: dict[str, Any] = {"strategy": "feddyn", "node_configs": {1: own}, "num_rounds": 3}
    folder = interrupted(tmp_path, 7, **settings)
    told = [(event["round"], event["client"]) for event in events(folder, "state-in-memory")]
    assert told == ([] if disk else [(1, "ward")])
    if disk:
        assert_same_results(going_on(tmp_path, **settings), undisturbed(tmp_path, **settings))
        return
    with pytest.raises(UserError, match="clients ward: kept their state in memory alone, which"):
        going_on(tmp_path, **settings)
    assert events(going_on(tmp_path, force_resume=True, **settings), "finished")
