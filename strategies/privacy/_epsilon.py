"""What Gaussian releases cost: epsilon at a given delta."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fl2ora.experiment.errors import UserError

_STEPS = 200
_FINEST = 1e-4  # grid of privacy losses; the bound holds on any, and is tighter on finer ones
_LEAST_MULTIPLIER = 1e-4  # epsilon of one release is then 2e8
_LEAST_NOISE = 0.05  # epsilon is then in the hundreds, with sampling or without
_STEPS_PER_LOSS = 1000  # in units of a release's typical loss, 1 / noise_multiplier^2


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the smallest epsilon of a Gaussian release, exactly and without a library.

    ``delta(epsilon) = Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu)``; Balle & Wang
    2018, arXiv 1805.06530, theorem 8. T releases of equal noise, each chosen after seeing those
    before, are one with ``mu sqrt(T)``; Dong et al. 2019, arXiv 1905.02383, corollary 3.3.

    Args:
        mu: L2 sensitivity over the standard deviation of the noise; infinite without noise.
        delta: above 0 and below 1.
    """
    if mu == 0 or _delta(mu / 2, mu) <= delta:
        return 0.0
    if mu == math.inf:
        return math.inf
    low, high = -40.0, mu / 2  # a = mu/2 - epsilon/mu, in which delta grows
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(middle, mu) <= delta else (low, middle)
    return mu * (mu / 2 - low)


def _delta(a: float, mu: float) -> float:
    """Return ``Phi(a) - exp(-a^2/2) R``, where ``exp(epsilon) Phi(b) = exp(-a^2/2) R``, b = a - mu.

    Written with the scaled ``erfcx`` because ``exp(epsilon)`` overflows.
    """
    if mu == math.inf:
        return 1.0
    scaled = torch.special.erfcx(torch.tensor((mu - a) / math.sqrt(2), dtype=torch.float64))
    return math.erfc(-a / math.sqrt(2)) / 2 - math.exp(-a * a / 2) * float(scaled) / 2


def poisson_epsilon(
    noise_multiplier: float,
    rounds: Mapping[tuple[int, int], int],
    delta: float,
    before: float = 0.0,
) -> float:
    """Return epsilon where every client joins each round by a coin of its own, kept secret.

    By the distribution of privacy losses, composed by dp-accounting: Meiser & Mohammadi 2018, doi
    10.1145/3243734.3243765; Doroshenko et al. 2022, arXiv 2207.04380. An upper bound, tight up to
    the grid of losses; infinite in the hundreds.

    Args:
        noise_multiplier: standard deviation of the noise on the sum, over the clip; above 0.
        rounds: ``(asked, all)`` clients -> number of such rounds; the coin shows ``asked / all``.
        delta: above 0 and below 1.
        before: mu of what was released before, without sampling.
    """
    if noise_multiplier < _LEAST_NOISE:
        return math.inf
    library = accounting_library()
    grid = max(_FINEST, noise_multiplier**-2 / _STEPS_PER_LOSS)
    accountant = library.pld.PLDAccountant(value_discretization_interval=grid)
    release = library.GaussianDpEvent(noise_multiplier)
    for (asked, everyone), count in sorted(rounds.items()):
        accountant.compose(library.PoissonSampledDpEvent(asked / everyone, release), count)
    if before:
        accountant.compose(library.GaussianDpEvent(1 / before))
    try:
        with np.errstate(over="ignore"):
            return float(accountant.get_epsilon(delta))
    except OverflowError:  # it takes exp(epsilon)
        return math.inf


def accounting_library() -> Any:
    """Import dp-accounting, which only amplification by sampling needs.

    Raises:
        UserError: it is not installed.
    """
    try:
        importlib.import_module("dp_accounting.pld")
        return importlib.import_module("dp_accounting")
    except ImportError as error:
        raise UserError(
            f"sampling='poisson' needs dp-accounting ({error}): pip install 'fl2ora[privacy]'"
        ) from None


def check_privacy(clip: float, noise_multiplier: float, delta: float, seed: int | None) -> None:
    """Refuse arguments that mean nothing.

    Raises:
        ValueError: names the argument, what was expected and what was found.
    """
    if not 0 < clip < math.inf:
        raise ValueError(f"clip: expected a finite number above 0, found {clip}")
    if noise_multiplier != 0 and not _LEAST_MULTIPLIER <= noise_multiplier < math.inf:
        raise ValueError(
            f"noise_multiplier: expected 0 for no noise, or a finite number of at least "
            f"{_LEAST_MULTIPLIER:g}, below which epsilon is in the hundreds of millions, found "
            f"{noise_multiplier}"
        )
    if not 0 < delta < 1:
        raise ValueError(f"delta: expected a number above 0 and below 1, found {delta}")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ValueError(f"seed: expected a whole number or None, found {seed!r}")
