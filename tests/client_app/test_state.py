from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict

from fl2ora.client_app.state import ClientState
from fl2ora.experiment.errors import UserError

KEPT = {"g": torch.tensor([1.5, -2.0])}


def context(run_id: int = 7, **node: str) -> Context:
    return Context(run_id, 1, dict(node), RecordDict(), {})


def test_state_lives_in_the_context() -> None:
    here = context()
    assert ClientState(here, "a").load("rule") == {}
    ClientState(here, "a").keep("rule", KEPT)
    assert torch.equal(ClientState(here, "a").load("rule")["g"], KEPT["g"])


def test_a_restarted_node_goes_on_from_its_folder(tmp_path: Path) -> None:
    folder = {"state-dir": str(tmp_path)}
    ClientState(context(**folder), "a/b").keep("rule", KEPT)
    restarted = ClientState(context(**folder), "a/b")
    assert torch.equal(restarted.load("rule")["g"], KEPT["g"])
    assert ClientState(context(**folder), "other").load("rule") == {}
    assert ClientState(context(run_id=8, **folder), "a/b").load("rule") == {}
    assert not list(tmp_path.rglob("*.new"))


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ClientState(context(), "a").keep("rule", KEPT)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = {"state-dir": str(tmp_path)}
    ClientState(context(**folder), "a").keep("rule", KEPT)
    path = tmp_path / "7" / "a" / "rule.safetensors"
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(UserError, match=r"rule\.safetensors"):
        ClientState(context(**folder), "a").load("rule")
