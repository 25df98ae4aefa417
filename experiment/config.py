"""The description of a run: flat keys, their defaults and what each may be.

The same keys, defaults and comments stand in ``[tool.flwr.app.config]`` of pyproject.toml, because
Flower admits only keys it finds there; a test holds the two against each other.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fl2ora.experiment.errors import ConfigError, UserError, listed, nearest
from fl2ora.experiment.plugins import fits
from fl2ora.experiment.spec import parse_spec, parse_sum

Value = bool | int | float | str
DEVICES = ("auto", "cpu", "cuda", "mps")


def _key(
    default: Value,
    doc: str,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    above: float = -math.inf,
    choices: tuple[str, ...] = (),
    parse: Callable[[str], object] | None = None,
) -> Any:
    limits = {"minimum": minimum, "maximum": maximum, "above": above}
    return field(
        default=default,
        metadata={"doc": doc, "limits": limits, "choices": choices, "parse": parse},
    )


def _folder_name(text: str) -> None:
    """Refuse what would lead out of the folder of all runs."""
    if text in (".", "..") or set(text) & {"/", "\\", "\0"}:
        raise UserError(f"expected the name of one folder, without slashes, found {text!r}")


def _absolute_path(text: str) -> None:
    """Refuse a path that would be another one in each process of a run."""
    if text and not Path(text).expanduser().is_absolute():
        raise UserError(f"expected an absolute path, found {text!r}")


@dataclass(frozen=True)
class RunConfig:
    """Every key of a run; attribute names are the keys with underscores for hyphens."""

    model: str = _key("embedded", "embedded, a hub name, or a folder in transformers format")
    dataset: str = _key("shapes(styles='held-back')", "federated_data/datasets", parse=parse_spec)
    partition: str = _key(
        "dirichlet(beta=0.5)",
        "how clients share the data: federated_data/partition",
        parse=parse_spec,
    )
    protocol: str = _key(
        "in_distribution", "what is held out: federated_data/protocols", parse=parse_spec
    )
    method: str = _key("lora", "what is tuned: clip_tuning/methods", parse=parse_spec)
    loss: str = _key(
        "cross_entropy", "calibration/losses, e.g. cross_entropy + 10*dca", parse=parse_sum
    )
    strategy: str = _key("fedavg", "how updates are combined: strategies", parse=parse_spec)
    calibrator: str = _key(
        "none", "post-hoc: calibration/calibrators, fitted after the last round", parse=parse_spec
    )
    metrics: str = _key("default", "what is measured, such as default + classwise_ece")
    num_rounds: int = _key(10, "rounds of federated training", minimum=0)
    num_clients: int = _key(0, "clients to wait for; 0: as many as there are nodes", minimum=0)
    fraction_train: float = _key(1.0, "share of clients sampled per round", above=0, maximum=1)
    min_train_clients: int = _key(1, "fewest usable replies; below, the adapter stays", minimum=1)
    max_update_norm: float = _key(
        0.0, "largest usable L2 norm of a client's change; 0: no limit", minimum=0
    )
    local_epochs: int = _key(1, "passes over a client's data per round", minimum=1)
    batch_size: int = _key(32, "images per training step", minimum=1)
    eval_batch_size: int = _key(256, "images per evaluation step", minimum=1)
    learning_rate: float = _key(0.1, "of the clients' SGD", above=0)
    momentum: float = _key(0.9, "of the clients' SGD", minimum=0, maximum=1)
    weight_decay: float = _key(5e-4, "of the clients' SGD", minimum=0)
    augmentation: str = _key("none", "of training images", choices=("none", "flip", "crop_flip"))
    local_test_fraction: float = _key(
        0.2, "share of each client's data held out for clients-test", minimum=0, maximum=0.9
    )
    calibration_fraction: float = _key(
        0.1, "share of each client's data held out to fit calibrators", minimum=0, maximum=0.9
    )
    fixed_views: int = _key(
        0, "random views per image, drawn once for all rounds; 0: new ones every step", minimum=0
    )
    cache_features: bool = _key(
        True, "compute once what training cannot change of an image's features"
    )
    cache_gib: float = _key(4.0, "memory for such features in each process, in GiB", minimum=0)
    cache_dir: str = _key(
        "", "folder that keeps them for other runs; empty: none", parse=_absolute_path
    )
    eval_every: int = _key(1, "rounds between evaluations; the last is always evaluated", minimum=1)
    evaluate_on: str = _key(
        "auto", "where clients-test is computed", choices=("auto", "server", "nodes")
    )
    num_bins: int = _key(15, "equal-width confidence bins of ECE and MCE", minimum=1)
    resamples: int = _key(200, "bootstrap draws behind each interval; 0: no intervals", minimum=0)
    seed: int = _key(0, "of every random stream", minimum=0, maximum=2**31 - 1)
    device: str = _key("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: str = _key(
        "float32",
        "of the forward pass in training; what is tuned stays float32",
        choices=("float32", "bfloat16"),
    )
    gradient_checkpointing: bool = _key(
        False, "recompute activations of the towers' blocks in backward, for less memory"
    )
    threads: int = _key(1, "CPU threads of each client", minimum=1)
    round_timeout: float = _key(3600.0, "seconds to wait for the replies of a round", above=0)
    start_timeout: float = _key(120.0, "seconds to wait for the nodes at the start", above=0)
    figures: bool = _key(True, "draw figures at the end")
    output_dir: str = _key("", "folder for runs; empty: $FL2ORA_OUTPUT_DIR or ~/fl2ora-runs")
    run_name: str = _key("", "name of the run's folder; empty: the run id", parse=_folder_name)

    @classmethod
    def from_flat(cls, values: Mapping[str, Value]) -> RunConfig:
        """Build a configuration from flat hyphenated keys; keys left out keep their defaults.

        Raises:
            ConfigError: unknown keys, wrong types and values out of range, all at once.
        """
        known = {key_of(f.name): f for f in fields(cls)}
        problems = [
            f"{key}: unknown key{nearest(key, known)} (valid: {listed(known)})"
            for key in values
            if key not in known
        ]
        accepted: dict[str, Any] = {}
        for key, value in values.items():
            if key in known:
                default: Any = known[key].default
                problem = _problem(known[key].metadata, type(default), value)
                if problem:
                    problems.append(f"{key}: {problem}")
                else:
                    accepted[known[key].name] = type(default)(value)
        if "device" in accepted and not _is_device(accepted["device"]):
            found = accepted["device"]
            problems.append(
                f"device: expected {', '.join(DEVICES)} or cuda:N, "
                f"found {found!r}{nearest(found, DEVICES)}"
            )
        config = cls(**accepted)
        held_out = config.local_test_fraction + config.calibration_fraction
        if held_out > 1:
            problems.append(
                "local-test-fraction and calibration-fraction: expected a sum of at most 1, "
                f"found {held_out:g}"
            )
        if config.fixed_views and (config.augmentation == "none" or not config.cache_features):
            problems.append(
                "fixed-views: expected 0 without augmentation or without cache-features, "
                f"found {config.fixed_views}"
            )
        if problems:
            raise ConfigError(problems)
        return config

    def flat(self) -> dict[str, Value]:
        """Return the configuration as flat hyphenated keys, as Flower and TOML hold it."""
        return {key_of(name): value for name, value in asdict(self).items()}


def key_of(name: str) -> str:
    """Return the run-config key of an attribute: ``num_rounds`` -> ``num-rounds``."""
    return name.replace("_", "-")


def _is_device(text: str) -> bool:
    return text in DEVICES or (re.fullmatch(r"cuda:[0-9]+", text) is not None)


def _problem(metadata: Mapping[str, Any], expected: type, value: Value) -> str | None:
    """Return what is wrong with one value, or None."""
    if not fits(value, expected):
        return f"expected {expected.__name__}, found {value!r} ({type(value).__name__})"
    if isinstance(value, str):
        return _text_problem(metadata, value)
    limits = metadata["limits"]
    if not abs(value) <= sys.float_info.max:  # NaN, infinity, or a whole number beyond all floats
        return f"expected a finite number, found {value}"
    if value < limits["minimum"] or value <= limits["above"] or value > limits["maximum"]:
        return f"expected {_range(limits)}, found {value}"
    return None


def _text_problem(metadata: Mapping[str, Any], value: str) -> str | None:
    choices: tuple[str, ...] = metadata["choices"]
    if choices and value not in choices:
        return f"expected one of {', '.join(choices)}, found {value!r}{nearest(value, choices)}"
    if metadata["parse"] is not None:
        try:
            metadata["parse"](value)
        except UserError as error:
            return str(error)
    return None


def _range(limits: Mapping[str, float]) -> str:
    parts = []
    if limits["minimum"] > -math.inf:
        parts.append(f"at least {_plain(limits['minimum'])}")
    if limits["above"] > -math.inf:
        parts.append(f"more than {_plain(limits['above'])}")
    if limits["maximum"] < math.inf:
        parts.append(f"at most {_plain(limits['maximum'])}")
    return " and ".join(parts)


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}"
