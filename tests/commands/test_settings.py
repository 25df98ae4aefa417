"""Settings from a TOML file and ``--set``: what wins, what is text, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fl2ora.commands.settings import read_settings
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import ConfigError, UserError
from fl2ora.experiment.flower_table import HEAD, table, toml_value
from fl2ora.experiment.spec import parse_spec


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_assignments_give_no_settings() -> None:
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
        ("run-name=", ""),
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


def test_a_file_with_too_many_brackets_is_named(tmp_path: Path) -> None:
    file = _file(tmp_path, "seed = " + "[" * 100_000)
    with pytest.raises(UserError, match=f"^{file}: not a TOML file: "):
        read_settings(file, [])


def test_a_mark_of_the_byte_order_is_passed_over(tmp_path: Path) -> None:
    """Editors on Windows write one before the first line."""
    file = tmp_path / "run.toml"
    file.write_bytes(b"\xef\xbb\xbfseed = 7\r\n")
    assert read_settings(file, []) == {"seed": 7}


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


def test_a_file_of_all_defaults_is_the_default(tmp_path: Path) -> None:
    defaults = RunConfig().flat()
    lines = [f"{key} = {toml_value(value)}" for key, value in defaults.items()]
    for text in ("\n".join(lines), table(), table().removeprefix(HEAD)):
        settings = read_settings(_file(tmp_path, text), [])
        assert settings == defaults
        assert RunConfig.from_flat(settings) == RunConfig()


def test_our_pyproject_can_be_given_as_it_is() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert read_settings(pyproject, ["seed=4"]) == {**RunConfig().flat(), "seed": 4}


def test_another_table_of_that_name_is_refused(tmp_path: Path) -> None:
    for text in ("[tool.flwr.app]\nconfig = 3\n", "tool = 'x'\n", "[tool.flwr]\napp = 'config'\n"):
        settings = _file(tmp_path, text)
        with pytest.raises((ConfigError, UserError)):
            RunConfig.from_flat(read_settings(settings, []))


@pytest.mark.parametrize("text", ["[" * 5000, "{a=" * 5000, "9" * 5000, "'\0'", "1\nthreads = 2"])
def test_strange_values_are_one_line_of_the_config_s_report(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_flat(read_settings(None, [f"seed={text}"]))
    (problem,) = caught.value.problems
    assert problem.startswith("seed: expected int, found ")
    assert len(problem) < 200


@pytest.mark.parametrize("value", ["[" * 5000, "{a=" * 5000, "9" * 5000, "[" * 5000 + "]" * 5000])
def test_a_file_with_strange_values_is_named_in_one_line(tmp_path: Path, value: str) -> None:
    file = _file(tmp_path, f"seed = {value}\n")
    with pytest.raises(UserError) as caught:
        read_settings(file, [])
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    assert len(message) < 400


def test_a_file_s_name_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"a\\x00b"):
        read_settings(Path("a\0b"), [])
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        read_settings(Path("x" * 300), [])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current directory, which holds a folder ``images`` and a folder ``clip``."""
    folder = tmp_path / "work"
    for name in ("images", "clip", "held-back"):
        (folder / name).mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", "/home/someone")
    (folder / "own_data_of_a_test.py").write_text(
        "class Base:\n    def __init__(self, name, root): ...\n\nclass Mine(Base): ...\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("model=./clip", "HERE/clip"),
        ("model=clip", "HERE/clip"),
        ("model=~/clip", "/home/someone/clip"),
        ("model=/data/clip", "/data/clip"),
        ("model=embedded", "embedded"),
        ("model=openai/clip-vit-base-patch16", "openai/clip-vit-base-patch16"),
        ("model=../none", "HERE/../none"),
        ("output-dir=runs", "HERE/runs"),
        ("output-dir=~/runs", "/home/someone/runs"),
        ("output-dir=/data/../runs", "/runs"),
        ("cache-dir=features/deep", "HERE/features/deep"),
        ("dataset=image_folder(folder='images')", "image_folder(folder='HERE/images')"),
        ("dataset=x(path='images', seed=1)", "x(path='HERE/images', seed=1)"),
        ("dataset=x(train_folder='images')", "x(train_folder='HERE/images')"),
        ("dataset=x('./images')", "x('HERE/images')"),
        ("dataset=x('../none')", "x('HERE/../none')"),
        ("dataset=x(name='~')", "x(name='~')"),  # a text may hold a tilde
        ("dataset=x(folder='~')", "x(folder='/home/someone')"),
        ("dataset=x(name='~/a b')", "x(name='/home/someone/a b')"),
        ("dataset=x(folder='not-there')", "x(folder='not-there')"),
        ("dataset=x(folder='/data')", "x(folder='/data')"),
        ("dataset=shapes( styles='held-back' )", "shapes( styles='held-back' )"),
        ("method=lora(start='clip')", "lora(start='HERE/clip')"),
        ("method=logit_scale(\"lora(start='./a')\")", "logit_scale(\"lora(start='HERE/a')\")"),
        (
            "loss=cross_entropy + 0.5*my_lab:Mine(file='images')",
            "cross_entropy + 0.5*my_lab:Mine(file='HERE/images')",
        ),
        ("dataset=folder('images')", "folder('HERE/images')"),
        ("dataset=folder('images', layout='images')", "folder('HERE/images', layout='images')"),
        ("dataset=folder('not-there')", "folder('not-there')"),
        ("dataset=hub('images')", "hub('images')"),  # a name, though there is such a folder
        ("dataset=shapes('images')", "shapes('images')"),
        ("dataset=x('images')", "x('images')"),
        ("dataset=not_there:Mine('images')", "not_there:Mine('images')"),
        ("dataset=json:Mine('images')", "json:Mine('images')"),
        (
            "dataset=own_data_of_a_test:Mine('images', 'images')",
            "own_data_of_a_test:Mine('images', 'HERE/images')",
        ),
        ("dataset=x(path='images'", "x(path='images'"),
        ("dataset=x(path='~nosuchuser/y')", "x(path='~nosuchuser/y')"),
        ("run-name=images", "images"),
    ],
)
def test_relative_paths_are_taken_from_the_current_directory(
    here: Path, tmp_path: Path, assignment: str, expected: str
) -> None:
    expected = expected.replace("HERE/..", str(here.parent)).replace("HERE", str(here))
    key, _, text = assignment.partition("=")
    assert read_settings(None, [assignment]) == {key: expected}
    in_file = _file(tmp_path, f"{key} = {toml_value(text)}\n")
    assert read_settings(in_file, []) == {key: expected}


def test_a_folder_with_quotes_in_its_name_survives(here: Path) -> None:
    odd = here / 'it\'s "odd"'
    odd.mkdir()
    spec = "x(folder='it\\'s \\\"odd\\\"')"
    moved = read_settings(None, [f"dataset={spec}"])["dataset"]
    assert parse_spec(str(moved)).kwargs == {"folder": os.fspath(odd)}


@pytest.mark.parametrize(
    "assignment",
    [
        "output-dir=~nosuchuser/x", "cache-dir=a\0b", "model=~nosuchuser/clip", "model=./a\0b",
        "output-dir=" + "x" * 300, "dataset=x(folder='~nosuchuser/x')", "method=lora(start='a\0b')",
    ],
)  # fmt: skip
def test_a_path_that_cannot_be_one_is_for_the_config_to_report(here: Path, assignment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_flat(read_settings(None, [assignment, "seed=x"]))
    keys = [problem.partition(":")[0] for problem in caught.value.problems]
    assert sorted(keys) == sorted([assignment.partition("=")[0], "seed"])
