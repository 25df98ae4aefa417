"""What an exported adapter has cost its clients in privacy, carried in its folder.

A later run that starts from the folder goes on counting from there.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.blame import blaming
from fl2ora.experiment.errors import UserError, shown
from fl2ora.reporting.whole_files import write_whole
from fl2ora.strategies.base import Strategy

PRIVACY_FILE = "privacy.json"
_NONE = "unlimited"
_ABOUT = (
    "mu of the one Gaussian release that costs the client that paid most the same: its change "
    "against none (arXiv 1905.02383); 'unlimited': nothing is protected"
)

logger = logging.getLogger(__name__)


def save_spent(folder: Path, spec: str, strategy: Strategy) -> None:
    """Write what a strategy's releases have cost beside an exported adapter, if it promises any.

    Args:
        folder: of the adapter.
        spec: of the strategy, for people.
        strategy: after the last round.
    """
    mu = _spent_by(strategy)
    if mu is None:
        return
    content = {"mu": mu if math.isfinite(mu) else _NONE, "strategy": spec, "about": _ABOUT}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / PRIVACY_FILE, json.dumps(content, indent=1) + "\n")


def spent_before(method: TuningMethod, strategy: Strategy) -> float:
    """Return mu of what the folder that a run starts from has cost; 0 where nothing is known.

    Raises:
        UserError: the folder's record cannot be read, or what the strategy has spent is no number.
    """
    if _spent_by(strategy) is None or method.start is None:
        return 0.0
    path = method.start / PRIVACY_FILE
    if not path.is_file():
        logger.warning(
            "The run starts from %s, which has no %s: epsilon counts from this run's first round. "
            "What that adapter was trained on is not covered, if it was these clients' images.",
            method.start,
            PRIVACY_FILE,
        )
        return 0.0
    mu = _read(path)
    logger.info("%s: the start has spent mu = %g, from which epsilon goes on", path, mu)
    return mu


def _spent_by(strategy: Strategy) -> float | None:
    """Return ``Strategy.spent``, checked.

    Raises:
        UserError: it is neither None nor a number of at least 0; names the strategy.
    """
    with blaming(strategy):
        mu: object = strategy.spent()
        if mu is None:
            return None
        if isinstance(mu, bool) or not isinstance(mu, int | float) or not mu >= 0:
            raise TypeError(f"spent: expected None or a number of at least 0, found {shown(mu)}")
        return float(mu)


def _read(path: Path) -> float:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["mu"]
        mu = math.inf if found == _NONE else float(found)
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise UserError(f"{path}: expected a record of what was spent: {error}") from error
    if not mu >= 0:
        raise UserError(f"{path}: mu: expected at least 0 or {_NONE!r}, found {mu}")
    return mu
