"""Runs whose power is cut in the middle of a round, and the same runs going on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl2ora.client_app.app import app as real_client_app
from runs import final_adapter, run_small

QUICK: dict[str, Any] = {
    "clients": 3,
    "dataset": "shapes(styles='held-back', train=48, validation=16, test=24)",
    "num_rounds": 4,
    "resamples": 3,
    "callbacks": "traffic + summary",
}


class PowerCut(BaseException):
    """Nothing catches it, as if the process were gone."""


def app_with(after_training: Callable[[int], None]) -> ClientApp:
    """Return the real ClientApp, with a call after each training, once its state is kept.

    Args:
        after_training: is given how many trainings there have been.
    """
    app = ClientApp()
    seen: list[int] = []
    for name in ("hello", "digests"):
        app.query(name)(lambda question, context: real_client_app(question, context))
    app.evaluate()(lambda task, context: real_client_app(task, context))

    @app.train()
    def train(task: Message, context: Context) -> Message:
        reply = real_client_app(task, context)
        seen.append(context.node_id)
        after_training(len(seen))
        return reply

    return app


def cut_at(training: int) -> ClientApp:
    """Return a ClientApp whose power is cut in the n-th training."""

    def cut(count: int) -> None:
        if count == training:
            raise PowerCut

    return app_with(cut)


def interrupted(tmp_path: Path, training: int, **settings: Any) -> Path:
    """Return the folder of a run whose power is cut in the n-th training of this process."""
    with pytest.raises(PowerCut):
        run_small(tmp_path, client_app=cut_at(training), **{**QUICK, **settings})
    return tmp_path / "runs" / "run"


def going_on(tmp_path: Path, run_id: int = 2, **settings: Any) -> Path:
    """Let that run go on in a new process of Flower's, which has another run id."""
    keys = {**QUICK, "resume": str(tmp_path / "runs" / "run"), **settings}
    return run_small(tmp_path, run_id=run_id, **keys)


def undisturbed(tmp_path: Path, **settings: Any) -> Path:
    """Return the folder of the same run, left alone."""
    return run_small(tmp_path / "undisturbed", **{**QUICK, **settings})


def assert_same_results(found: Path, expected: Path, *, summary: bool = True) -> None:
    """Adapters, tables and logits are the same bytes, and the summary the same text."""
    one, other = final_adapter(found), final_adapter(expected)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())
    kept = ("best.json", "adapter_model.safetensors")
    names = ["metrics.jsonl", "metrics.csv", "classwise.csv", "logits.safetensors"]
    names += [f"adapter-best-nll/{name}" for name in kept] + ["summary.md"] * summary
    there = [name for name in names if (expected / name).exists()]
    assert len(there) >= 3
    for name in there:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
