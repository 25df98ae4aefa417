"""The run config: the same keys as pyproject.toml's, and every mistake named at once."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fl2ora.experiment.config import RunConfig, key_of
from fl2ora.experiment.errors import ConfigError, UserError, listed, nearest

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
HEAD = "[tool.flwr.app.config]"


def _problems(**values: Any) -> list[str]:
    """Return what is wrong with these keys; underscores stand for hyphens."""
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_flat({name.replace("_", "-"): value for name, value in values.items()})
    return list(caught.value.problems)


def test_flower_s_defaults_are_ours() -> None:
    text = PYPROJECT.read_text(encoding="utf-8")
    flower = tomllib.loads(text)["tool"]["flwr"]["app"]["config"]
    ours = RunConfig().flat()
    assert list(flower.items()) == list(ours.items())
    assert [type(v) for v in flower.values()] == [type(v) for v in ours.values()]


def test_every_key_has_a_comment_which_is_its_description() -> None:
    lines = (
        PYPROJECT.read_text(encoding="utf-8").split(HEAD)[1].split("\n[")[0].strip().splitlines()
    )
    comments, keys = lines[0::2], lines[1::2]
    described = {key_of(f.name): f.metadata["doc"] for f in dataclasses.fields(RunConfig)}
    assert [line.partition(" = ")[0] for line in keys] == list(described)
    assert comments == [f"# {doc}" for doc in described.values()]


def test_nothing_given_is_the_default() -> None:
    assert RunConfig.from_flat({}) == RunConfig()


def test_a_configuration_survives_being_written_down() -> None:
    config = RunConfig.from_flat(
        {"strategy": "fedprox(mu=0.1)", "num-rounds": 3, "learning-rate": 0.5, "device": "cuda:1"}
    )
    assert (config.strategy, config.num_rounds, config.learning_rate) == ("fedprox(mu=0.1)", 3, 0.5)
    assert RunConfig.from_flat(config.flat()) == config


def test_a_whole_number_becomes_the_float_it_stands_for() -> None:
    config = RunConfig.from_flat({"learning-rate": 1, "round-timeout": 60})
    assert (config.learning_rate, config.round_timeout) == (1.0, 60.0)
    assert {type(config.learning_rate), type(config.round_timeout)} == {float}


def test_every_mistake_is_reported_at_once() -> None:
    problems = _problems(
        num_round=3, seed="x", momentum=2.0, device="gpu", loss="x +", augmentation="flips"
    )
    assert [problem.partition(":")[0] for problem in problems] == [
        "num-round", "seed", "momentum", "loss", "augmentation", "device",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_flat({"seed": "x", "threads": 0})
    assert str(caught.value) == (
        "2 problems in the run configuration:\n"
        "  - seed: expected int, found 'x' (str)\n"
        "  - threads: expected at least 1, found 0"
    )
    assert str(ConfigError(["one"])).startswith("1 problem in the run configuration:\n  - one")
    assert isinstance(caught.value, UserError)


def test_an_unknown_key_is_answered_with_the_nearest_and_all_valid_ones() -> None:
    (problem,) = _problems(num_round=3)
    assert problem.startswith("num-round: unknown key; did you mean 'num-rounds'? (valid: ")
    assert all(key in problem for key in RunConfig().flat())
    (problem,) = _problems(num_clients_=3)
    assert "did you mean 'num-clients'?" in problem
    with pytest.raises(ConfigError, match="num_rounds: unknown key; did you mean 'num-rounds'"):
        RunConfig.from_flat({"num_rounds": 3})


@pytest.mark.parametrize(
    ("key", "value", "expected", "found"),
    [
        ("num_rounds", True, "int", "True (bool)"),
        ("num_rounds", 1.0, "int", "1.0 (float)"),
        ("num_rounds", "1", "int", "'1' (str)"),
        ("learning_rate", "0.1", "float", "'0.1' (str)"),
        ("learning_rate", False, "float", "False (bool)"),
        ("method", 1, "str", "1 (int)"),
        ("output_dir", 1.5, "str", "1.5 (float)"),
        ("device", True, "str", "True (bool)"),
    ],
)
def test_a_wrong_type_is_named(key: str, value: Any, expected: str, found: str) -> None:
    name = key.replace("_", "-")
    assert _problems(**{key: value}) == [f"{name}: expected {expected}, found {found}"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "key", [f.name for f in dataclasses.fields(RunConfig) if isinstance(f.default, float)]
)
def test_a_number_has_to_be_finite(key: str, value: float) -> None:
    assert _problems(**{key: value}) == [
        f"{key.replace('_', '-')}: expected a finite number, found {value}"
    ]


def test_a_number_beyond_all_floats_is_refused() -> None:
    for key in ("learning_rate", "num_rounds"):
        (problem,) = _problems(**{key: 10**400})
        assert "expected a finite number" in problem


@pytest.mark.parametrize(
    ("key", "bad", "expected", "good"),
    [
        ("num_rounds", -1, "at least 0", 0),
        ("num_clients", -1, "at least 0", 0),
        ("fraction_train", 0.0, "more than 0 and at most 1", 1e-9),
        ("fraction_train", 1.01, "more than 0 and at most 1", 1.0),
        ("min_train_clients", 0, "at least 1", 1),
        ("local_epochs", 0, "at least 1", 1),
        ("batch_size", 0, "at least 1", 1),
        ("eval_batch_size", -5, "at least 1", 1),
        ("learning_rate", 0.0, "more than 0", 1e-9),
        ("momentum", -0.1, "at least 0 and at most 1", 0.0),
        ("momentum", 1.1, "at least 0 and at most 1", 1.0),
        ("weight_decay", -1e-9, "at least 0", 0.0),
        ("local_test_fraction", 0.91, "at least 0 and at most 0.9", 0.9),
        ("local_test_fraction", -0.1, "at least 0 and at most 0.9", 0.0),
        ("eval_every", 0, "at least 1", 1),
        ("num_bins", 0, "at least 1", 1),
        ("seed", -1, "at least 0 and at most 2147483647", 0),
        ("threads", 0, "at least 1", 1),
        ("round_timeout", 0.0, "more than 0", 0.1),
        ("start_timeout", -1.0, "more than 0", 0.1),
    ],
)
def test_a_number_out_of_range_is_answered_with_the_range(
    key: str, bad: float, expected: str, good: float
) -> None:
    name = key.replace("_", "-")
    assert _problems(**{key: bad}) == [f"{name}: expected {expected}, found {bad}"]
    assert getattr(RunConfig.from_flat({name: good}), key) == good


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("augmentation", "crop-flip", "; did you mean 'crop_flip'?"),
        ("precision", "bfloat", "; did you mean 'bfloat16'?"),
        ("evaluate_on", "node", "; did you mean 'nodes'?"),
        ("evaluate_on", "", ""),
    ],
)
def test_a_choice_outside_the_choices_is_answered_with_them(
    key: str, value: str, hint: str
) -> None:
    (problem,) = _problems(**{key: value})
    assert problem.startswith(f"{key.replace('_', '-')}: expected one of ")
    assert problem.endswith(f"found {value!r}{hint}")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "mps", "cuda:0", "cuda:12"])
def test_devices_that_may_be_asked_for(device: str) -> None:
    assert RunConfig.from_flat({"device": device}).device == device


@pytest.mark.parametrize(
    "device",
    ["gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:0 ", "cuda:²", "mps:0", "", "cuda0"],
)
def test_devices_that_may_not(device: str) -> None:
    (problem,) = _problems(device=device)
    assert problem.startswith(f"device: expected auto, cpu, cuda, mps or cuda:N, found {device!r}")
    if device == "CPU":
        return
    assert ("did you mean 'cuda'?" in problem) == ("cuda" in device)


@pytest.mark.parametrize(
    "key", ["dataset", "partition", "protocol", "method", "strategy", "calibrator", "loss"]
)
def test_a_spec_that_cannot_be_read_is_refused_at_once(key: str) -> None:
    (problem,) = _problems(**{key: "name(x=y)"})
    assert problem.startswith(f"{key}: 'name(x=y)': argument 'y' is not a literal")
    if key != "loss":
        assert _problems(**{key: "a + b"})


def test_the_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1  # type: ignore[misc]


def test_hints_and_lists() -> None:
    assert nearest("fedporx", ["fedavg", "fedprox"]) == "; did you mean 'fedprox'?"
    assert nearest("zzz", ["fedavg", "fedprox"]) == ""
    assert nearest("x", []) == ""
    assert listed(["b", "a"]) == "a, b"
    assert listed([]) == "(none)"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "..", "a/b"])
def test_a_run_name_cannot_lead_out_of_the_folder_of_runs(name: str) -> None:
    with pytest.raises(ConfigError, match="run-name: expected the name of one folder"):
        RunConfig.from_flat({"run-name": name})


def test_a_seed_fits_into_flowers_records() -> None:
    with pytest.raises(ConfigError, match="seed: expected at least 0 and at most"):
        RunConfig.from_flat({"seed": 2**64})


def test_a_cache_folder_is_the_same_in_every_process() -> None:
    with pytest.raises(ConfigError, match="cache-dir: expected an absolute path, found 'here'"):
        RunConfig.from_flat({"cache-dir": "here"})
    assert RunConfig.from_flat({"cache-dir": "~/features"}).cache_dir == "~/features"
