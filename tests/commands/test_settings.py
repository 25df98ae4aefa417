"""Settings from a TOML file and ``--set``: what wins, what is text, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl2ora.commands.settings import read_settings
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import ConfigError, UserError


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_gives_nothing() -> None:
    assert read_settings(None, []) == {}


def test_later_assignments_win_over_earlier_ones_and_over_the_file(tmp_path: Path) -> None:
    file = _file(tmp_path, "num-rounds = 3\nseed = 1\nmethod = 'lora'\nlearning-rate = 0.5\n")
    settings = read_settings(file, ["seed=2", "method=lora(rank=4)", "seed=3"])
    assert settings == {
        "num-rounds": 3,
        "seed": 3,
        "method": "lora(rank=4)",
        "learning-rate": 0.5,
    }


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("strategy=fedprox(mu=0.1)", "fedprox(mu=0.1)"),
        ("dataset=shapes(styles='held-back')", "shapes(styles='held-back')"),
        ("loss=cross_entropy + 10*dca", "cross_entropy + 10*dca"),
        ("strategy='fedprox(mu=0.1)'", "fedprox(mu=0.1)"),
        ('strategy="fedavg"', "fedavg"),
        ("strategy= fedavg ", "fedavg"),
        ("loss='a' + 'b'", "'a' + 'b'"),
        ("model=1", "1"),
        ("run-name=true", "true"),
        ("run-name=0x10", "0x10"),
        ("output-dir=/data/a=b", "/data/a=b"),
        ("output-dir=", ""),
        ("run-name=''", ""),
        ("run-name='", "'"),
        (r"model=C:\new\table", r"C:\new\table"),
    ],
)
def test_text_keys_are_taken_as_they_stand(assignment: str, expected: str) -> None:
    (value,) = read_settings(None, [assignment]).values()
    assert value == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 5), ("1_000", 1000), ("0x10", 16), (" 7 ", 7), ("-1", -1),
        ("0.5", 0.5), ("1e-3", 0.001), ("1.0", 1.0),
        ("true", True), ("false", False),
        ("'5'", "5"), ("five", "five"), ("True", "True"), ("", ""),
        ("[1]", "[1]"), ("{a=1}", "{a=1}"),
    ],
)  # fmt: skip
def test_other_keys_are_read_as_toml(text: str, expected: object) -> None:
    value = read_settings(None, [f"num-rounds={text}"])["num-rounds"]
    assert value == expected
    assert type(value) is type(expected)


def test_what_is_no_number_is_named_by_the_config() -> None:
    with pytest.raises(ConfigError, match=r"num-rounds: expected int, found 'five' \(str\)"):
        RunConfig.from_flat(read_settings(None, ["num-rounds=five"]))


def test_unknown_keys_are_kept_for_the_config_to_name() -> None:
    settings = read_settings(None, ["num-round=3"])
    with pytest.raises(ConfigError, match="num-round: unknown key; did you mean 'num-rounds'"):
        RunConfig.from_flat(settings)


def test_spaces_around_a_key_do_not_matter() -> None:
    assert read_settings(None, [" seed = 4"]) == {"seed": 4}


def test_every_assignment_without_an_equals_sign_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(None, ["seed", "seed=1", "=3", "lora(rank)"])
    assert caught.value.problems == (
        "--set 'seed': expected key=value",
        "--set '=3': expected key=value",
        "--set 'lora(rank)': expected key=value",
    )


def test_tables_and_lists_are_refused(tmp_path: Path) -> None:
    file = _file(tmp_path, "seed = 1\nlosses = ['a']\nsince = 2020-01-01\n[strategy]\nmu = 1\n")
    with pytest.raises(UserError) as caught:
        read_settings(file, [])
    assert str(file) in str(caught.value)
    assert str(caught.value).endswith("found tables or lists under losses, since, strategy")


@pytest.mark.parametrize("text", ["seed = ", "seed 1", "seed = 1\nseed = 2", "method = lora"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, text: str) -> None:
    file = _file(tmp_path, text)
    with pytest.raises(UserError, match=f"^{file}: not a TOML file: "):
        read_settings(file, [])


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes("run-name = 'été'".encode("latin-1"))
    with pytest.raises(UserError, match="not a TOML file"):
        read_settings(file, [])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.toml: cannot be read: No such file"):
        read_settings(tmp_path / "none.toml", [])
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_settings(tmp_path, [])
