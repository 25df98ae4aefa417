"""Optimiser specs: what they make, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fl2ora.clip_tuning.optimisers.base import Optimiser, load_optimiser
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available


def made(spec: str) -> torch.optim.Optimizer:
    return load_optimiser(spec).make([nn.Parameter(torch.ones(2))], 0.3)


def test_the_folder_holds_the_documented_optimisers() -> None:
    assert available(Optimiser) == ["adamw", "sgd"]


@pytest.mark.parametrize(
    ("spec", "cls", "expected"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}),
        (
            "sgd(momentum=0.5, weight_decay=0.1, nesterov=True)",
            torch.optim.SGD,
            {"momentum": 0.5, "weight_decay": 0.1, "nesterov": True},
        ),
        (
            "adamw",
            torch.optim.AdamW,
            {"betas": (0.9, 0.999), "weight_decay": 0.01, "eps": 1e-8},
        ),
        (
            "adamw(beta1=0.5, beta2=0.6, weight_decay=0.2, eps=0.001)",
            torch.optim.AdamW,
            {"betas": (0.5, 0.6), "weight_decay": 0.2, "eps": 0.001},
        ),
        ("torch.optim:RMSprop(alpha=0.9)", torch.optim.RMSprop, {"alpha": 0.9, "momentum": 0}),
        ("torch.optim:Adagrad", torch.optim.Adagrad, {"eps": 1e-10}),
    ],
)
def test_a_spec_says_what_is_made(
    spec: str, cls: type[torch.optim.Optimizer], expected: dict[str, object]
) -> None:
    optimiser = made(spec)
    assert type(optimiser) is cls
    assert optimiser.defaults["lr"] == 0.3
    assert {name: optimiser.defaults[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("sgd(lr=0.1)", "sgd: lr: expected the key learning-rate instead"),
        ("adamw(learning_rate=0.1)", "adamw: learning_rate: expected the key learning-rate"),
        ("torch.optim:RMSprop(lr=0.1)", "RMSprop: lr: expected the key learning-rate instead"),
        ("torch.optim:RMSprop(alfa=0.9)", "no argument 'alfa' .*did you mean 'alpha'"),
        ("torch.optim:RMSprop(0.9)", "RMSprop: expected arguments by name, found 0.9"),
        ("torch.optim:RMSprop(alpha=-1.0)", "RMSprop: Invalid alpha value"),
        ("torch.optim:Adam(betas=3)", "Adam: "),
        ("torch.optim:Adam(betas=[0.9])", "Adam: list index out of range"),
        ("torch.optim:Adam(fused=True, foreach=True)", "Adam: "),
        ("torch.optim:LBFGS", "LBFGS: expected an optimiser that steps without a closure"),
        ("torch.nn:Linear", "torch.nn:Linear is not a Optimizer"),
        ("torch.optim:RMSprob", "no class 'RMSprob'; did you mean 'RMSprop'"),
        ("sdg", "did you mean 'sgd'"),
        ("sgd(momentum=1.0)", "momentum: expected a number >= 0 and < 1, found 1.0"),
        ("sgd(weight_decay=-0.1)", "weight_decay: expected a number >= 0, found -0.1"),
        ("sgd(momentum=0.0, nesterov=True)", "nesterov: expected False without momentum"),
        ("adamw(beta2=1.0)", "beta2: expected a number >= 0 and < 1, found 1.0"),
        ("adamw(eps=0.0)", "eps: expected a number > 0, found 0.0"),
    ],
)
def test_invalid_optimiser_arguments_are_refused(spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_optimiser(spec)
