"""The description of a run: flat keys, their defaults and what each may be.

The same keys, defaults and descriptions stand in ``[tool.flwr.app.config]`` of pyproject.toml,
because Flower admits only keys it finds there, and in docs/configuration.md; ``make config`` writes
both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fl2ora.experiment.arguments import STRICT, explain
from fl2ora.experiment.errors import ConfigError, listed, nearest, shown
from fl2ora.experiment.texts import (
    ClientsText,
    DeviceText,
    FolderText,
    ListText,
    ModelText,
    NameText,
    SpecText,
    SumText,
)

Value = bool | int | float | str

# What an earlier version's keys became.
GONE = {
    "momentum": 'is now an argument of optimiser: optimiser = "sgd(momentum={})"',
    "weight-decay": 'is now an argument of optimiser: optimiser = "sgd(weight_decay={})"',
    "figures": 'is now the callback plots, part of "default"; callbacks = "none" draws nothing',
}


class RunConfig(BaseModel):
    """Every key of a run; attribute names are the keys with underscores for hyphens."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, **STRICT)

    model: ModelText = Field(default="embedded", title="What is trained")
    """CLIP: embedded, a hub name, or a folder in transformers format"""
    method: SpecText = "lora"
    """what of it is tuned: a name in clip_tuning/methods"""

    dataset: SpecText = Field(default="shapes(styles='held-back')", title="On what")
    """images: a name in federated_data/datasets; none: only the nodes have some"""
    partition: SpecText = "dirichlet(beta=0.5)"
    """how clients share the images: a name in federated_data/partition"""
    protocol: SpecText = "in_distribution"
    """what is held out for the central test: a name in federated_data/protocols"""
    on_leak: Literal["stop", "drop", "report"] = "stop"
    """images both held out and trained on, byte by byte: stop the run, drop or report them"""
    label_space: Literal["same", "union"] = "same"
    """classes of nodes with data of their own: the same as the run's, or a union of all"""
    local_test_fraction: float = Field(default=0.2, ge=0, le=0.9)
    """share of each client's images held out for clients-test"""
    calibration_fraction: float = Field(default=0.1, ge=0, le=0.9)
    """share of each client's images held out to fit calibrators"""
    augmentation: Literal["none", "flip", "crop_flip"] = "none"
    """random changes of training images: none, flip or crop_flip"""
    fixed_views: int = Field(default=0, ge=0, le=10_000)
    """random views of each image, drawn once for all rounds; 0: new ones in every step"""

    strategy: SpecText = Field(default="fedavg", title="How")
    """how the clients' updates are combined: a name in strategies"""
    compression: SpecText = "none"
    """how clients send their changes: none, or a name in strategies/compression"""
    loss: SumText = "cross_entropy"
    """training loss: names in calibration/losses, such as cross_entropy + 2*dca"""
    num_rounds: int = Field(default=10, ge=0, le=1_000_000)
    """rounds of federated training"""
    num_clients: int = Field(default=0, ge=0, le=100_000)
    """clients to wait for, those excluded counted; 0: as many as there are nodes"""
    exclude: ClientsText = ""
    """clients left out, by site or number of share, joined by +: clinic-b + 7; empty: none"""
    fraction_train: float = Field(default=1.0, gt=0, le=1)
    """share of the clients asked to train in a round"""
    min_train_clients: int = Field(default=1, ge=1, le=100_000)
    """fewest usable updates of a round; below, the adapter stays"""
    max_idle_rounds: int = Field(default=5, ge=0, le=1_000_000)
    """rounds in a row with too few usable updates after which the run ends; 0: no limit"""
    max_update_norm: float = Field(default=0.0, ge=0, le=1_000_000)
    """largest usable L2 norm of a client's update; 0: no limit"""
    max_client_weight: float = Field(default=1.0, gt=0, le=1)
    """largest share of one client in the weights of a round; 1: no limit"""
    local_epochs: int = Field(default=1, ge=1, le=10_000)
    """passes over a client's images in a round"""
    batch_size: int = Field(default=32, ge=1, le=65_536)
    """images of one batch in training"""
    accumulate: int = Field(default=1, ge=1, le=10_000)
    """batches whose gradients make one step"""
    learning_rate: float = Field(default=0.0, ge=0, le=1000)
    """clients' learning rate; 0: the method's own default"""
    optimiser: SpecText = "sgd(momentum=0.9, weight_decay=0.0005)"
    """clients' optimiser: sgd(...), adamw(...) or a class of torch.optim"""
    schedule: SpecText = "constant"
    """course of the learning rate: constant, cosine, linear or step"""
    gradient_clip: float = Field(default=0.0, ge=0, le=1_000_000)
    """largest L2 norm of a step's gradient; 0: no limit"""

    calibrator: SpecText = Field(default="none", title="How it is measured")
    """post-hoc calibrator, fitted at the end: none, or a name in calibration/calibrators"""
    metrics: ListText = "default"
    """metrics to report: names joined by +, such as default + classwise_ece"""
    num_bins: int = Field(default=15, ge=1, le=10_000)
    """equal-width confidence bins of ECE and MCE"""
    resamples: int = Field(default=4000, ge=0, le=100_000)
    """bootstrap draws behind each interval; 0: no intervals"""
    eval_every: int = Field(default=1, ge=1, le=1_000_000)
    """rounds between evaluations; the last is always evaluated"""
    eval_share: float = Field(default=1.0, gt=0, le=1)
    """share of the server's held-out images measured between the first and last round"""
    evaluate_on: Literal["auto", "server", "nodes"] = "auto"
    """where clients-test is measured: auto, server or nodes"""
    eval_batch_size: int = Field(default=256, ge=1, le=65_536)
    """images of one batch in evaluation"""

    seed: int = Field(default=0, title="Machine", ge=0, le=2**31 - 1)
    """seed of every random stream"""
    device: DeviceText = "auto"
    """device of each process: auto, cpu, cuda, cuda:N or mps"""
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    """number format in which the towers compute in training; what is tuned stays float32"""
    deterministic: bool = True
    """whether training repeats bit by bit on a CUDA device too"""
    cuda_graphs: bool = True
    """whether a CUDA device starts the passes of training as one; no number changes, more memory"""
    gradient_checkpointing: bool = False
    """whether the backward pass computes activations again, to save memory"""
    threads: int = Field(default=1, ge=1, le=1024)
    """CPU threads of each client"""
    workers: int = Field(default=0, ge=0, le=1024)
    """clients (in-process) and batches of the server's evaluation at once; 0: as many as fit"""
    clients_per_batch: int = Field(default=1, ge=1, le=1024)
    """clients whose batches go through CLIP as one (in-process engine), equal to about 1e-5"""
    cache_features: bool = True
    """whether features that training cannot change are computed once and kept"""
    cache_gib: float = Field(default=4.0, ge=0, le=10_000)
    """GiB of memory for such features in each process"""
    cache_dir: FolderText = ""
    """folder that keeps such features for other runs; empty: none"""
    round_timeout: float = Field(default=3600.0, gt=0, le=10_000_000)
    """seconds to wait for the replies of a round"""
    start_timeout: float = Field(default=600.0, gt=0, le=10_000_000)
    """seconds to wait for the nodes at the start, when they load data and model"""

    callbacks: ListText = Field(default="default", title="Output")
    """what follows the run: none, or names joined by +: default + early_stop(patience=3)"""
    output_dir: FolderText = ""
    """folder of all runs; empty: $FL2ORA_OUTPUT_DIR or ~/fl2ora-runs"""
    run_name: NameText = ""
    """name of the run's folder; empty: the run id"""
    checkpoint_every: int = Field(default=1, ge=0, le=1_000_000)
    """rounds between checkpoints, of which two are kept; 0: none"""
    resume: FolderText = ""
    """folder of an interrupted run to go on with; empty: a new run"""
    force_resume: bool = False
    """whether to go on although settings, code or clients have changed"""

    @classmethod
    def from_flat(cls, values: Mapping[str, Value]) -> RunConfig:
        """Build a configuration from flat hyphenated keys; keys left out keep their defaults.

        Raises:
            ConfigError: unknown keys, wrong types and values out of range, all at once.
        """
        config, problems = cls.usable(values)
        if problems:
            raise ConfigError(problems)
        return config

    @classmethod
    def usable(cls, values: Mapping[str, Any]) -> tuple[RunConfig, tuple[str, ...]]:
        """Build a configuration of what is right, and say what is not.

        Returns:
            The configuration, with the default for every key whose value is wrong, so that what
            it names can be checked too; and a sentence for each mistake.
        """
        names = {key_of(name): name for name in cls.model_fields}
        problems = [
            _unknown(key, value, names) for key, value in values.items() if key not in names
        ]
        given = {names[key]: value for key, value in values.items() if key in names}
        try:
            config = cls(**given)
        except ValidationError as error:
            for found in error.errors(include_url=False):
                name = str(found["loc"][0])
                field = cls.model_fields[name]
                problems.append(
                    f"{key_of(name)}: {explain(found, field.annotation, field.metadata)}"
                )
                del given[name]
            config = cls(**given)
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
        if config.clients_per_batch > 1 and config.precision == "float16":
            problems.append(
                "clients-per-batch: expected 1 with precision float16, whose gradients are scaled "
                f"for each client, found {config.clients_per_batch}"
            )
        if config.clients_per_batch > 1 and (config.workers > 1 or config.gradient_checkpointing):
            problems.append(
                "clients-per-batch: expected 1 with workers above 1 or with "
                f"gradient-checkpointing, found {config.clients_per_batch}"
            )
        return config, tuple(problems)

    def flat(self) -> dict[str, Value]:
        """Return the configuration as flat hyphenated keys, as Flower and TOML hold it."""
        return {key_of(name): value for name, value in self.model_dump().items()}


def key_of(name: str) -> str:
    """Return the run-config key of an attribute: ``num_rounds`` -> ``num-rounds``."""
    return name.replace("_", "-")


def _unknown(key: str, value: object, valid: Mapping[str, str]) -> str:
    if key in GONE:
        return f"{key}: {GONE[key].format(shown(value))}"
    name = str(key)
    return f"{name[:80]}: unknown key{nearest(name, valid)} (valid: {listed(valid)})"
