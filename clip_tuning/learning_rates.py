"""The learning rate of a run that sets none."""

from __future__ import annotations

import math

from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.experiment.spec import parse_spec

_SGD = {(None, "sgd"), ("torch.optim", "SGD")}


def learning_rate_for(method: str, model: str, optimiser: str = "sgd", given: float = 0.0) -> float:
    """Return the learning rate of a run.

    >>> learning_rate_for("lora", "embedded")
    0.1
    >>> learning_rate_for("lora", "openai/clip-vit-base-patch16")
    0.001
    >>> learning_rate_for("lora", "embedded", given=0.3)
    0.3

    Args:
        method: spec string of the tuning method.
        model: the run config's.
        optimiser: spec string of the clients' optimiser.
        given: the run config's ``learning-rate``; 0 stands for the method's own.

    Raises:
        UserError: there is no default, as the method has none or the optimiser is not SGD; or
            ``given`` is no number of at least 0.
    """
    if not (math.isfinite(given) and given >= 0):
        raise UserError(f"learning-rate: expected a finite number of at least 0, found {given}")
    if given:
        return float(given)
    spec = parse_spec(optimiser)
    if (spec.module, spec.name) not in _SGD:
        raise UserError(
            "learning-rate: expected a number above 0, as the methods' own are for sgd, found 0 "
            f"with optimiser = {optimiser!r}"
        )
    rates = load(method, TuningMethod).learning_rates
    if rates is None:
        raise UserError(
            f"learning-rate: expected a number above 0, as method = {method!r} has none of its "
            "own, found 0"
        )
    return rates.embedded if model == "embedded" else rates.published
