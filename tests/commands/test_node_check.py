"""``fl2ora node check``: what it finds amiss with a node, check by check."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest
import typer

from fl2ora.commands.node_check import _connection, _key, check
from runs import SMALL

RUN = [f"{key}={value}" for key, value in SMALL.items() if key in ("dataset", "partition")]
SHARE = "site='clinic' partition-id=1 num-partitions=2"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no cell of the table be broken, however wide the terminal of the tests is."""
    monkeypatch.setenv("COLUMNS", "1000")


def verdicts(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """Return what was found and the verdict of each check on the terminal."""
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    return {row[1].strip(): (row[2].strip(), row[3].strip()) for row in rows}


def test_a_node_with_all_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    check(None, RUN, node_config=f"{SHARE} state-dir='{state}'")
    found = verdicts(capsys)
    assert {verdict for _, verdict in found.values()} == {"ok"}
    assert found["node config"][0] == "'clinic', share 1"
    images = "33 images to train on, 10 to test on, 5 for calibrators; 16 classes: circle, square"
    assert found["data"][0].startswith(images)
    assert found["model"][0].startswith("embedded, 1,")
    assert found["training"][0].startswith("32 images in ")
    assert found["disk"][0].endswith(str(tmp_path))
    assert not state.exists()


def test_state_that_a_restart_would_lose_is_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    check(None, [*RUN, "method=layer_norm"], node_config=SHARE)
    assert "no state-dir: a restart forgets its state" in verdicts(capsys)["node config"][0]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("partition-id=2 num-partitions=2", "expected partition-id in 0..1, found 2"),
        ("partition-id=0 num-partition=2", "unknown key; did you mean 'num-partitions'?"),
        ("/no/such/node.toml", "/no/such/node.toml: cannot be read: No such file or directory"),
        ("site='a", "expected KEY=VALUE ... or a TOML file"),
        ("", "expected either dataset=... (own data) or partition-id and num-partitions"),
    ],
)
def test_a_node_config_that_is_wrong_ends_the_checks_that_need_it(
    config: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught:
        check(None, RUN, node_config=config)
    assert caught.value.exit_code == 1
    found = verdicts(capsys)
    assert words in found["node config"][1]
    assert found.keys() == {"code", "node config"}


def test_a_problem_that_several_checks_meet_is_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(typer.Exit):
        check(None, RUN, node_config="dataset=\"fashion_mnist(folder='/no/such')\"")
    said = capsys.readouterr().out
    assert said.count("found no such folder") == 1
    assert said.count("as above") == 2
    assert "1 problem found" in said


def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        check(None, RUN, node_config=f"{SHARE} device='cuda:7'")
    assert "cuda:7" in verdicts(capsys)["model"][1]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("federation.example.org", "expected HOST:PORT, found 'federation.example.org'"),
        ("host:port", "expected HOST:PORT"),
        ("127.0.0.1:70000", "expected HOST:PORT, found '127.0.0.1:70000'"),
        ("x" * 300 + ":80", "xxxx"),
        ("é..b:80", "é..b:80: no connection: "),
        ("127.0.0.1:1", "127.0.0.1:1: no connection: [Errno 111]"),
        ("127.0.0.1:0", "expected HOST:PORT"),
    ],
)
def test_a_superlink_that_cannot_be_reached(address: str, words: str) -> None:
    assert _connection(address, None)[1].startswith(words)


def test_a_superlink_without_tls(tmp_path: Path) -> None:
    authority = tmp_path / "ca.crt"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert _connection(address, None) == (
            f"{address} answers; TLS was not tried: no --root-certificates", "",
        )  # fmt: skip
        _, problem = _connection(address, authority)
        assert problem == f"{authority}: cannot be read: No such file or directory"
        authority.write_text("no certificate")
        assert (
            _connection(address, authority)[1] == f"{authority}: expected certificates in PEM form"
        )


def test_paths_of_an_unknown_user_are_told() -> None:
    path = Path("~nobody-is-called-so/key")
    assert "the home folder of that user is unknown" in _key(path)[1]
    assert "the home folder of that user is unknown" in _connection("127.0.0.1:1", path)[1]


def test_keys_that_a_superlink_would_not_take(tmp_path: Path) -> None:
    good, other = tmp_path / "good", tmp_path / "other"
    for path, kind in ((good, "ecdsa"), (other, "ed25519")):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
    found, problem = _key(good)
    assert found.startswith("registered must be: ecdsa-sha2-nistp")
    assert problem == ""
    good.chmod(0o644)
    assert _key(good)[1] == f"{good} can be read by others: chmod 600"
    assert _key(other)[1].startswith(f"{other}: expected an ECDSA key without passphrase")
    assert _key(tmp_path / "other.pub")[1].startswith(f"{other}.pub: expected an ECDSA key")
    assert (
        _key(tmp_path / "none")[1]
        == f"{tmp_path / 'none'}: cannot be read: No such file or directory"
    )
