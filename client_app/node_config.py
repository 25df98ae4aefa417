"""What a node's operator may set: ``flower-supernode --node-config "site='clinic' rank=4"``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fl2ora.experiment.config import Value
from fl2ora.experiment.errors import UserError, listed, nearest, shown
from fl2ora.experiment.paths import user_path

OVERRIDES = ("dataset", "device", "cache-dir")
"""Keys of the run config that a node may set for itself; checked as those of the run are."""

_MOST = 10**6
_LONGEST_SITE = 100


def check_node_config(node: Mapping[str, Value]) -> None:
    """Refuse a node config that does not say what its operator meant; all mistakes at once.

    Raises:
        UserError: unknown keys, wrong types or values, or neither data of its own nor a share.
    """
    problems = []
    for key, value in node.items():
        if key in _CHECKS:
            problem = _CHECKS[key](value)
            problems += [f"{key}: {problem}, found {shown(value)}"] if problem else []
        elif key not in OVERRIDES:
            valid = [*_CHECKS, *OVERRIDES]
            problems.append(
                f"{shown(key)}: unknown key{nearest(key, valid)} (valid: {listed(valid)})"
            )
    if not problems and "dataset" not in node:
        problems += _problems_of_share(node)
    if problems:
        raise UserError(f"node config: {'; '.join(problems)}")


def node_name(node: Mapping[str, Value], node_id: int) -> str:
    """Return the client key of a node: its ``site``, else its share, else Flower's id of it."""
    return str(
        node.get("site", node_id if "dataset" in node else node.get("partition-id", node_id))
    )


def _problems_of_share(node: Mapping[str, Value]) -> list[str]:
    if not {"partition-id", "num-partitions"} <= node.keys():
        return [
            "expected either dataset=... (own data) or partition-id and num-partitions (a share of "
            f"the run's dataset), found {listed(node) if node else 'nothing'}"
        ]
    share, count = int(node["partition-id"]), int(node["num-partitions"])
    return [] if share < count else [f"expected partition-id in 0..{count - 1}, found {share}"]


def _whole(least: int) -> Callable[[Value], str]:
    def problem(value: Value) -> str:
        fits = type(value) is int and least <= value <= _MOST
        return "" if fits else f"expected a whole number from {least} to {_MOST}"

    return problem


def _switch(value: Value) -> str:
    return "" if isinstance(value, bool) else "expected true or false"


def _site(value: Value) -> str:
    text = str(value)
    fits = type(value) in (int, str) and text.isprintable() and 0 < len(text) <= _LONGEST_SITE
    if fits and text == text.strip():
        return ""
    return f"expected a name of at most {_LONGEST_SITE} signs, without spaces around it"


def _folder(value: Value) -> str:
    try:
        fits = isinstance(value, str) and user_path(value).is_absolute()
    except UserError as error:
        return str(error)
    return "" if fits or value == "" else "expected an absolute path"


_CHECKS: dict[str, Callable[[Value], str]] = {
    "site": _site,
    "partition-id": _whole(0),
    "num-partitions": _whole(1),
    "rank": _whole(0),
    "state-dir": _folder,
    "share-digests": _switch,
}
