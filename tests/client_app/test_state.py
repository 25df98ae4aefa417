"""What a client keeps between rounds, and which of it counts after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.client_app.state import ClientState
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.errors import UserError
from fl2ora.messages.lineage import Lineage
from fl2ora.messages.records import UnusableMessageError
from fl2ora.messages.train import DISK, MEMORY


def context(run_id: int = 7, **node: str) -> Context:
    return Context(run_id, 1, dict(node), RecordDict(), {})


def kept(value: float) -> dict[str, Adapter]:
    return {"rule": {"g": torch.tensor([value, -2.0])}, "personal": {"a.b": torch.tensor([value])}}


def value_of(parts: dict[str, Adapter]) -> float | None:
    """Return what ``kept`` was given; None for nothing."""
    if not parts:
        return None
    assert parts["rule"]["g"][1] == -2.0
    assert parts["rule"]["g"][0] == parts["personal"]["a.b"][0]
    return float(parts["personal"]["a.b"][0])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_state_lives_in_the_context() -> None:
    here = context()
    assert ClientState(here, "a").load(1) == {}
    ClientState(here, "a").keep(1, kept(1.5))
    assert value_of(ClientState(here, "a").load(2)) == 1.5


def test_where_it_was_kept_is_said(tmp_path: Path) -> None:
    for node, place in (({}, MEMORY), ({"state-dir": str(tmp_path)}, DISK)):
        state = ClientState(context(**node), "a")
        state.keep(1, {})
        assert state.place == ""
        state.keep(1, kept(1.5))
        assert state.place == place
    (tmp_path / "full").touch()  # a file where a folder should be
    state = ClientState(context(**{"state-dir": str(tmp_path / "full")}), "a")
    state.keep(1, kept(1.5))
    assert state.place == MEMORY


def test_a_part_that_is_no_longer_kept_is_gone() -> None:
    here = context()
    ClientState(here, "a").keep(1, kept(1.5))
    ClientState(here, "a").keep(2, {"rule": {"g": torch.ones(1)}})
    assert ClientState(here, "a").load(3).keys() == {"rule"}


def test_a_restarted_node_goes_on_from_its_folder(tmp_path: Path) -> None:
    folder = {"state-dir": str(tmp_path)}
    ClientState(context(**folder), "a/b").keep(3, kept(1.5))
    assert value_of(ClientState(context(**folder), "a/b").load(4)) == 1.5
    assert ClientState(context(**folder), "other").load(4) == {}
    assert ClientState(context(run_id=8, **folder), "a/b").load(4) == {}
    assert files(tmp_path) == ["0000003-7.safetensors"]


def test_what_was_kept_in_a_round_is_not_there_before_it(tmp_path: Path) -> None:
    folder = {"state-dir": str(tmp_path)}
    here = context(**folder)
    ClientState(here, "a").keep(3, kept(1.0))
    assert ClientState(here, "a").load(3) == {}
    assert ClientState(context(**folder), "a").load(3) == {}


@pytest.mark.parametrize("client", ["..", ".", "a/../../b", "\N{SNOWMAN}" * 100, "x" * 100])
def test_no_client_s_name_leads_out_of_the_folder(tmp_path: Path, client: str) -> None:
    folder = {"state-dir": str(tmp_path / "state")}
    ClientState(context(**folder), client).keep(1, kept(1.0))
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert file.parent.parent == tmp_path / "state" / "7"
    assert value_of(ClientState(context(**folder), client).load(2)) == 1.0


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ClientState(context(), "a").keep(1, kept(1.0))
    assert not list(tmp_path.iterdir())


def test_nothing_to_keep_leaves_no_file(tmp_path: Path) -> None:
    ClientState(context(**{"state-dir": str(tmp_path)}), "a").keep(1, {})
    assert files(tmp_path) == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = {"state-dir": str(tmp_path)}
    ClientState(context(**folder), "a").keep(1, kept(1.0))
    path = tmp_path / "7" / "a" / "0000001-7.safetensors"
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(UserError, match=r"0000001-7\.safetensors"):
        ClientState(context(**folder), "a").load(2)


def test_on_a_full_disk_the_state_is_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "7").touch()  # no folder can be made here
    here = context(**{"state-dir": str(tmp_path)})
    ClientState(here, "a").keep(1, kept(1.0))
    assert "kept in memory alone" in caplog.text
    assert value_of(ClientState(here, "a").load(2)) == 1.0


def run_folder(tmp_path: Path, run_id: int) -> dict[str, str]:
    """Return the run config of a run whose folder is here."""
    folder = tmp_path / "run"
    folder.mkdir()
    description = {"config": {}, "run_id": str(run_id), "fingerprint": "", "versions": {}}
    (folder / "run.json").write_text(json.dumps(description))
    return {"output-dir": str(tmp_path), "run-name": "run"}


def test_a_simulated_client_keeps_it_in_the_run_directory(tmp_path: Path) -> None:
    config = run_folder(tmp_path, 7)
    ClientState(Context(7, 1, {"partition-id": 0}, RecordDict(), config), "0").keep(1, kept(1.0))
    assert files(tmp_path / "run" / "clients" / "0") == ["0000001-7.safetensors"]


@pytest.mark.parametrize(("run_id", "node"), [(8, {}), (7, {"dataset": "shapes"})])
def test_another_run_s_directory_and_own_data_s_are_not_written_to(
    tmp_path: Path, run_id: int, node: dict[str, str]
) -> None:
    config = run_folder(tmp_path, 7)
    ClientState(Context(run_id, 1, node, RecordDict(), config), "0").keep(1, kept(1.0))
    assert files(tmp_path) == ["run.json"]


def test_what_was_kept_in_a_lost_round_does_not_count(tmp_path: Path) -> None:
    """Run 7 got to round 6 and lost 5 and 6; run 8 lost all it did; run 9 is running."""
    folder = {"state-dir": str(tmp_path)}

    def state(run_id: int, *runs: tuple[int, int], checkpoints: tuple[int, ...]) -> ClientState:
        return ClientState(context(run_id, **folder), "a", Lineage(runs, checkpoints))

    for number in (2, 4, 5, 6):
        state(7, checkpoints=(3, 4)).keep(number, kept(number))
    assert value_of(state(8, (7, 4), checkpoints=(4,)).load(5)) == 4.0
    state(8, (7, 4), checkpoints=(4,)).keep(5, kept(-5.0))
    resumed = state(9, (7, 4), (8, 4), checkpoints=(4,))
    assert value_of(resumed.load(5)) == 4.0
    # It is not asked in round 5 this time: what it did then stays undone.
    assert value_of(resumed.load(7)) == 4.0
    resumed.keep(7, kept(7.0))
    assert value_of(resumed.load(8)) == 7.0
    assert files(tmp_path) == ["0000004-7.safetensors", "0000007-9.safetensors"]


@given(
    trains=st.lists(st.booleans(), min_size=1, max_size=12),
    every=st.integers(1, 4),
    cut=st.integers(1, 12),
)
def test_whatever_the_moment_a_client_goes_back_to_the_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, trains: list[bool], every: int, cut: int
) -> None:
    """Cut in any round, from either checkpoint, it loads what it had kept by then."""
    folder = {"state-dir": str(tmp_path_factory.mktemp("state"))}
    saved: list[int] = []
    last: dict[int, float | None] = {0: None}  # by round, what was last kept
    for number, is_asked in enumerate(trains[:cut], start=1):
        state = ClientState(context(7, **folder), "a", Lineage((), tuple(saved)))
        assert value_of(state.load(number)) == last[number - 1]
        if is_asked:
            state.keep(number, kept(number))
        last[number] = float(number) if is_asked else last[number - 1]
        if number % every == 0:
            saved = [*saved, number][-2:]
    for back in [*saved, *([0] if not saved else [])]:
        state = ClientState(context(8, **folder), "a", Lineage(((7, back),), (back,)))
        assert value_of(state.load(back + 1)) == last[back]
    assert len(files(Path(folder["state-dir"]))) <= 3


@given(
    runs=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 10**6)), max_size=5),
    checkpoints=st.lists(st.integers(0, 10**6), max_size=2),
)
def test_a_lineage_travels(runs: list[tuple[int, int]], checkpoints: list[int]) -> None:
    lineage = Lineage(tuple(runs), tuple(checkpoints))
    assert Lineage.from_settings(lineage.settings()) == lineage


@pytest.mark.parametrize(
    "runs",
    [
        "1",
        "1:2:3",
        "a:1",
        "../7:1",
        "-1:2",
        "\N{ARABIC-INDIC DIGIT ONE}:1",
        f"{2**64}:1",
        "1:1 " * 10**5,
    ],
)
def test_a_lineage_that_is_none_is_refused(runs: str) -> None:
    with pytest.raises(UnusableMessageError, match="earlier-runs"):
        Lineage.from_settings({"earlier-runs": runs})
