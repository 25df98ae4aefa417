"""A run that is interrupted and resumed ends as one that never was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl2ora.client_app.app import app as real_client_app
from runs import final_adapter, run_small

QUICK = {
    "clients": 3,
    "dataset": "shapes(styles='held-back', train=60, validation=16, test=32)",
    "num_rounds": 4,
    "resamples": 5,
}


class PowerCut(BaseException):
    """Nothing catches it: the process is gone."""


def cut_at(message: int) -> ClientApp:
    """Return a ClientApp whose power is cut in its n-th training, after it kept its state."""
    app, seen = ClientApp(), []

    @app.query("hello")
    def hello(question: Message, context: Context) -> Message:
        return real_client_app(question, context)

    @app.train()
    def train(task: Message, context: Context) -> Message:
        reply = real_client_app(task, context)
        seen.append(context.node_id)
        if len(seen) == message:
            raise PowerCut
        return reply

    @app.evaluate()
    def evaluate(task: Message, context: Context) -> Message:
        return real_client_app(task, context)

    return app


def interrupted(tmp_path: Path, message: int, **settings: Any) -> Path:
    with pytest.raises(PowerCut):
        run_small(tmp_path, client_app=cut_at(message), **settings)
    return tmp_path / "runs" / "run"


def resumed(tmp_path: Path, run_id: int = 2, **settings: Any) -> Path:
    folder = str(tmp_path / "runs" / "run")
    return run_small(tmp_path, run_id=run_id, resume=folder, **settings)


def assert_same(found: Path, expected: Path) -> None:
    """All tables, tensors and the summary are bit-identical."""
    one, other = final_adapter(found), final_adapter(expected)
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())
    for name in ("metrics.jsonl", "metrics.csv", "logits.safetensors", "global.safetensors"):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    for name in ("classwise.csv", "summary.md"):
        assert (found / name).exists() == (expected / name).exists()
        if (found / name).exists():
            assert (found / name).read_text() == (expected / name).read_text(), name


@pytest.mark.parametrize("message", [2, 6, 11])
def test_t(tmp_path: Path, message) -> None:
    import time

    t = time.time()
    settings = {**QUICK, "strategy": "feddyn"}
    whole = run_small(tmp_path / "whole", **settings)
    print(time.time() - t)
    interrupted(tmp_path, message, **settings)
    print(time.time() - t)
    assert_same(resumed(tmp_path, **settings), whole)
    print(time.time() - t)
