"""One saved ``RunState``: a safetensors file, and a JSON file that makes it count.

The JSON file is written last and holds the SHA-256 of both, so a checkpoint that was cut short, or
damaged later, is told from a whole one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.experiment.config import Value
from fl2ora.experiment.errors import UserError, shown
from fl2ora.reporting.events import Place
from fl2ora.reporting.rewinding import rows_before
from fl2ora.reporting.whole_files import flush, plain_file, whole_file
from fl2ora.server_app.rounds import RunState

FOLDER = "checkpoints"
_FORMAT = 1
_MOST_CALLBACKS = 1000
_COUNTS = ("round", "updates", "asked")
_PLAIN = (*_COUNTS, "stop")


@dataclass(frozen=True)
class Checkpoint:
    """A run between two rounds, with what a resume compares.

    Attributes:
        state: as the round loop has it.
        place: how far its record had come.
        config: the run's, flat.
        code: fingerprint.
        versions: of the libraries by name.
        clients: each client's number of training images.
        sums: by round and source, of those that tables and plots of all rounds are made of.
        unsaved: what the strategy remembers and cannot be saved.
    """

    state: RunState
    place: Place
    config: Mapping[str, Value]
    code: str
    versions: Mapping[str, str]
    clients: Mapping[str, int]
    sums: Mapping[int, Mapping[str, CalibrationStats]] = field(default_factory=dict)
    unsaved: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        """Write both files; neither is left where that fails.

        Raises:
            OSError: the disk refuses.
        """
        tensors, description = _paths(folder, self.state.round)
        folder.mkdir(exist_ok=True)
        try:
            with whole_file(tensors) as part:
                save_file(self._tensors(), part)
                flush(part)
            body = {**self._body(), "sha256": _digest_of(tensors)}
            text = json.dumps({"checkpoint": body, "sha256": _digest(body)})
            with whole_file(description) as part:
                part.write_text(text + "\n", encoding="utf-8")
                flush(part)
            flush(folder)
        except OSError:
            tensors.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, run_folder: Path, server_round: int) -> Checkpoint:
        """Read the checkpoint of a round.

        Args:
            run_folder: that of the run.
            server_round: of ``rounds_saved``.

        Raises:
            UserError: it is damaged, or the run's metrics are no longer those of then.
        """
        tensors_path, description = _paths(run_folder / FOLDER, server_round)
        try:
            whole = json.loads(plain_file(description).read_text(encoding="utf-8"))
            body = whole["checkpoint"]
            if whole["sha256"] != _digest(body):
                raise ValueError(f"{description.name} is not as it was written")
            if body["format"] != _FORMAT:
                raise ValueError(
                    f"expected format {_FORMAT} of checkpoints, found {shown(body['format'])}"
                )
            if body["sha256"] != _digest_of(tensors_path):
                raise ValueError(f"{tensors_path.name} is not as it was written")
            place = Place(**body["place"])
            history = rows_before(run_folder, place)
            if history is None:
                raise ValueError("metrics.jsonl does not begin as it did then")
            return cls._of(body, load_file(tensors_path), place, history)
        except (
            OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError,
            SafetensorError,
        ) as error:  # fmt: skip
            raise UserError(f"{description}: cannot be used: {error}") from error

    def _tensors(self) -> dict[str, Tensor]:
        state = self.state
        parts = {"adapter": state.adapter, "strategy": state.strategy}
        parts |= {f"callback-{index}": kept for index, kept in enumerate(state.callbacks)}
        found = {
            f"{part}/{name}": tensor
            for part, adapter in parts.items()
            for name, tensor in as_adapter(adapter).items()
        }
        for index, (_, _, stats) in enumerate(self._listed_sums()):
            for name, array in stats.to_arrays().items():
                found[f"sums-{index}/{name}"] = torch.from_numpy(np.array(array))
        return found

    def _listed_sums(self) -> list[tuple[int, str, CalibrationStats]]:
        return [
            (number, source, stats)
            for number, sources in self.sums.items()
            for source, stats in sources.items()
        ]

    def _body(self) -> dict[str, Any]:
        state = self.state
        return {
            "format": _FORMAT,
            **{name: getattr(state, name) for name in _PLAIN},
            "last": list(state.last),
            "callbacks": len(state.callbacks),
            "place": asdict(self.place),
            "config": dict(self.config),
            "code": self.code,
            "versions": dict(self.versions),
            "clients": dict(self.clients),
            "sums": [[n, source, asdict(stats.spec)] for n, source, stats in self._listed_sums()],
            "unsaved": list(self.unsaved),
        }

    @classmethod
    def _of(
        cls, body: Mapping[str, Any], tensors: Adapter, place: Place, history: tuple[Any, ...]
    ) -> Checkpoint:
        def part(name: str) -> Adapter:
            head = f"{name}/"
            return {k.removeprefix(head): t for k, t in tensors.items() if k.startswith(head)}

        odd = [n for n in (*_COUNTS, "callbacks") if type(body[n]) is not int or body[n] < 0]
        odd += [] if odd or body["callbacks"] <= _MOST_CALLBACKS else ["callbacks"]
        if odd or not isinstance(body["stop"], str):
            names = ", ".join(odd) or "stop"
            raise ValueError(f"{names}: expected whole numbers of at least 0 and a text for stop")
        state = RunState(
            adapter=part("adapter"),
            strategy=part("strategy"),
            callbacks=tuple(part(f"callback-{index}") for index in range(body["callbacks"])),
            history=history,
            last=(int(body["last"][0]), int(body["last"][1])),
            **{name: body[name] for name in _PLAIN},
        )
        sums: dict[int, dict[str, CalibrationStats]] = {}
        for index, (number, source, spec) in enumerate(body["sums"]):
            arrays = {name: tensor.numpy() for name, tensor in part(f"sums-{index}").items()}
            stats = CalibrationStats.from_arrays(arrays, StatsSpec(**spec))
            sums.setdefault(int(number), {})[str(source)] = stats
        return cls(
            state, place, body["config"], body["code"], body["versions"], body["clients"], sums,
            tuple(body["unsaved"]),
        )  # fmt: skip


def rounds_saved(run_folder: Path) -> list[int]:
    """Return the rounds that have a checkpoint, whole or not, the first one first."""
    names = (path.stem.rpartition("-")[2] for path in (run_folder / FOLDER).glob("round-*.json"))
    return sorted(int(name) for name in names if name.isdecimal())


def discard(run_folder: Path, keep: set[int]) -> None:
    """Take away all checkpoints but those of some rounds, and what was left half-written."""
    folder = run_folder / FOLDER
    wanted = {path.name for number in keep for path in _paths(folder, number)}
    # Descriptions first: without one, tensors count for nothing.
    for path in sorted(folder.glob("*"), key=lambda path: path.suffix != ".json"):
        if path.name not in wanted and path.is_file():
            path.unlink(missing_ok=True)
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def _paths(folder: Path, server_round: int) -> tuple[Path, Path]:
    stem = f"round-{server_round:07d}"
    return folder / f"{stem}.safetensors", folder / f"{stem}.json"


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _digest_of(path: Path) -> str:
    with plain_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
