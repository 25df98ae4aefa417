"""The run config: the same keys as pyproject.toml's, and every mistake named at once."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from fl2ora.experiment.config import GONE, RunConfig, key_of
from fl2ora.experiment.errors import ConfigError, UserError, listed, nearest, problems_of, shown

FIELDS = RunConfig.model_fields
DEFAULTS = {name: field.default for name, field in FIELDS.items()}
NUMBERS = [name for name, value in DEFAULTS.items() if type(value) in (int, float)]


def _problems(**values: Any) -> list[str]:
    """Return what is wrong with these keys; underscores stand for hyphens."""
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_flat({name.replace("_", "-"): value for name, value in values.items()})
    return list(caught.value.problems)


def test_empty_config_equals_defaults() -> None:
    assert RunConfig.from_flat({}) == RunConfig()


def test_a_configuration_survives_being_written_down() -> None:
    config = RunConfig.from_flat(
        {"strategy": "fedprox(mu=0.1)", "num-rounds": 3, "learning-rate": 0.5, "device": "cuda:1"}
    )
    assert (config.strategy, config.num_rounds, config.learning_rate) == ("fedprox(mu=0.1)", 3, 0.5)
    assert RunConfig.from_flat(config.flat()) == config


def test_integer_is_accepted_for_a_float_key() -> None:
    config = RunConfig.from_flat({"learning-rate": 1, "round-timeout": 60})
    assert (config.learning_rate, config.round_timeout) == (1.0, 60.0)
    assert {type(config.learning_rate), type(config.round_timeout)} == {float}


def test_every_mistake_is_reported_at_once() -> None:
    problems = _problems(
        num_round=3, seed="x", gradient_clip=-2.0, device="gpu", loss="x +", augmentation="flips"
    )
    assert [problem.partition(":")[0] for problem in problems] == [
        "num-round", "augmentation", "loss", "gradient-clip", "seed", "device",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_flat({"seed": "x", "threads": 0})
    assert str(caught.value) == (
        "2 problems in the run configuration:\n"
        "  - seed: expected int, found 'x' (str)\n"
        "  - threads: expected at least 1 and at most 1024, found 0"
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
        ("gradient_checkpointing", 1, "bool", "1 (int)"),
        ("method", 1, "str", "1 (int)"),
        ("output_dir", 1.5, "str", "1.5 (float)"),
        ("device", True, "str", "True (bool)"),
    ],
)
def test_a_wrong_type_is_named(key: str, value: Any, expected: str, found: str) -> None:
    name = key.replace("_", "-")
    assert _problems(**{key: value}) == [f"{name}: expected {expected}, found {found}"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", [key for key in NUMBERS if isinstance(DEFAULTS[key], float)])
def test_a_number_has_to_be_finite(key: str, value: float) -> None:
    assert _problems(**{key: value}) == [
        f"{key.replace('_', '-')}: expected a finite number, found {value}"
    ]


def test_a_number_beyond_all_floats_is_refused() -> None:
    (problem,) = _problems(learning_rate=10**400)
    assert problem.startswith("learning-rate: expected a finite number, found 1000")
    assert _problems(learning_rate=10**5000, num_rounds=10**5000) == [
        "num-rounds: expected at least 0 and at most 1000000, found a very long int",
        "learning-rate: expected a finite number, found a very long int",
    ]


LIMITS = {
    "local_test_fraction": (0, 0.9), "calibration_fraction": (0, 0.9),
    "fixed_views": (0, 10**4), "num_rounds": (0, 10**6),
    "num_clients": (0, 10**5), "fraction_train": (0, 1), "min_train_clients": (1, 10**5),
    "max_idle_rounds": (0, 10**6), "max_update_norm": (0, 10**6), "max_client_weight": (0, 1),
    "local_epochs": (1, 10**4),
    "batch_size": (1, 65536), "accumulate": (1, 10**4), "learning_rate": (0, 1000),
    "gradient_clip": (0, 10**6),
    "num_bins": (1, 10**4), "resamples": (0, 10**5), "eval_every": (1, 10**6),
    "eval_share": (0, 1),
    "eval_batch_size": (1, 65536), "seed": (0, 2147483647), "threads": (1, 1024),
    "workers": (0, 1024),
    "clients_per_batch": (1, 1024),
    "cache_gib": (0, 10**4), "round_timeout": (0, 10**7), "start_timeout": (0, 10**7),
    "checkpoint_every": (0, 10**6),
}  # fmt: skip


def test_every_number_has_its_limits_written_down() -> None:
    assert list(LIMITS) == NUMBERS


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_unlimited(key: str) -> None:
    least, most = LIMITS[key]
    kind = type(DEFAULTS[key])
    above = ("fraction_train", "eval_share", "max_client_weight", "round_timeout", "start_timeout")
    words = "more than" if key in above else "at l"
    for value in (kind(least) - 1, kind(most) + 1, kind(10**30)):
        (problem,) = _problems(**{key: value})
        assert problem.startswith(f"{key_of(key)}: expected {words}")
        assert f" {least} and at most {most}, found " in problem
    assert getattr(RunConfig.usable({key_of(key): kind(most)})[0], key) == most


@pytest.mark.parametrize(
    ("key", "bad", "expected", "good"),
    [
        ("num_rounds", -1, "at least 0 and at most 1000000", 0),
        ("fraction_train", 0.0, "more than 0 and at most 1", 1e-9),
        ("fraction_train", 1.01, "more than 0 and at most 1", 1.0),
        ("batch_size", 0, "at least 1 and at most 65536", 1),
        ("learning_rate", -1e-9, "at least 0 and at most 1000", 0.0),
        ("local_test_fraction", 0.91, "at least 0 and at most 0.9", 0.9),
        ("local_test_fraction", -0.1, "at least 0 and at most 0.9", 0.0),
        ("seed", -1, "at least 0 and at most 2147483647", 0),
        ("round_timeout", 0.0, "more than 0 and at most 10000000", 0.1),
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
def test_invalid_choice_error_lists_the_choices(key: str, value: str, hint: str) -> None:
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


SPECS = [
    "method", "dataset", "partition", "protocol", "strategy", "loss", "optimiser", "schedule",
    "calibrator", "metrics", "callbacks",
]  # fmt: skip


@pytest.mark.parametrize("key", SPECS)
def test_a_spec_that_cannot_be_read_is_refused_at_once(key: str) -> None:
    (problem,) = _problems(**{key: "name(x=y)"})
    assert problem.startswith(f"{key}: 'name(x=y)': argument 'y' is not a literal")
    is_sum = key in ("loss", "metrics", "callbacks")
    for text in ("a + b(c=1)", "2*a"):
        given = {key: text}
        if is_sum and (key == "loss" or "*" not in text):
            assert getattr(RunConfig.from_flat(given), key) == text
        else:
            assert _problems(**given)
    for text in ("a(folder='~nosuchuser/x')", "a(inner(path='x'))", f"a(path='{'x' * 256}')"):
        assert _problems(**{key: text})


def test_metrics_and_callbacks_are_sums_without_weights() -> None:
    assert _problems(metrics="default + 2*aurc", callbacks="plots + none") == [
        "metrics: 'default + 2*aurc': 'aurc' takes no weight, found 2",
        "callbacks: 'plots + none': 'none' stands alone",
    ]


@pytest.mark.parametrize("key", GONE)
def test_removed_key_error_names_its_replacement(key: str) -> None:
    (problem,) = _problems(**{key: 0.25})
    assert problem.startswith(f"{key}: is ")
    assert "unknown key" not in problem
    assert key not in RunConfig().flat()


def test_the_old_arguments_of_sgd_are_answered_with_the_optimiser_to_set() -> None:
    assert _problems(momentum=0.5, weight_decay=0) == [
        'momentum: is now an argument of optimiser: optimiser = "sgd(momentum=0.5)"',
        'weight-decay: is now an argument of optimiser: optimiser = "sgd(weight_decay=0)"',
    ]


def test_valid_keys_survive_beside_invalid_ones() -> None:
    config, problems = RunConfig.usable({"seed": "x", "num-round": 1, "threads": 2})
    assert (config.seed, config.threads) == (0, 2)
    assert [problem.partition(":")[0] for problem in problems] == ["num-round", "seed"]
    config, problems = RunConfig.usable({"local-test-fraction": 0.9, "calibration-fraction": 0.2})
    assert problems == (
        "local-test-fraction and calibration-fraction: expected a sum of at most 1, found 1.1",
    )


def test_mistakes_of_all_kinds_are_one_report() -> None:
    def none_here() -> None:
        raise UserError("folder '/models/clip' does not exist")

    def two() -> None:
        raise ConfigError(["method: a", "strategy: b"])

    _, problems = RunConfig.usable({"num-round": 1})
    found = [*problems, *problems_of({"model": none_here, "loss": lambda: None, "plug-ins": two})]
    assert found[1:] == ["model: folder '/models/clip' does not exist", "method: a", "strategy: b"]


def test_the_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().seed = 1
    assert hash(RunConfig(seed=1)) == hash(RunConfig(seed=1))


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


@pytest.mark.parametrize("key", ["cache-dir", "output-dir"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/a\0b", "expected a path without control characters, found '/a\\x00b'"),
        ("/" + "x" * 256, "whose names have at most 255, found '/xxx"),
        ("/x" * 5000, "expected a path of at most 4096 bytes"),
        ("~nosuchuser/x", "'~nosuchuser/x': the home folder of that user is unknown"),
        ("runs", "expected an absolute path, found 'runs'"),
    ],
)
def test_a_path_that_cannot_be_one_is_refused(key: str, text: str, words: str) -> None:
    (problem,) = _problems(**{key: text})
    assert problem.startswith(f"{key}: ")
    assert words in problem
    assert len(problem) < 250


@pytest.mark.parametrize("text", ["", " ", "~nosuchuser/x", "clip\0", "x" * 300])
def test_a_model_that_cannot_be_one_is_refused(text: str) -> None:
    assert _problems(model=text)[0].startswith("model: ")


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "x" * 256])
def test_a_run_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    assert _problems(run_name=name)[0].startswith("run-name: expected ")


@pytest.mark.parametrize("value", [[1], {"a": 1}, None])
def test_a_value_of_no_kind_we_know_is_refused(value: Any) -> None:
    keys = [key for key in DEFAULTS if key not in NUMBERS]
    assert len(_problems(**dict.fromkeys(keys, value))) == len(keys)
    deep: Any = 0
    for _ in range(100_000):
        deep = [deep]
    (problem,) = _problems(seed=deep)
    assert problem.startswith("seed: expected int, found a very long list")


def test_long_values_are_shortened_in_errors() -> None:
    assert shown("abc") == "'abc'"
    assert shown("x" * 1000) == "'" + "x" * 99 + "... (1002 signs)"
    assert len(_problems(model=5, method="?" * 3999)[0]) < 250


def test_a_mistake_is_answered_before_torch_is_loaded() -> None:
    code = "import sys, fl2ora.commands.settings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
