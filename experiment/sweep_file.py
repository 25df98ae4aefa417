"""Reading the file of a sweep: its tables, checked, each mistake with its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fl2ora.experiment.config import RunConfig, key_of
from fl2ora.experiment.errors import UserError, listed, nearest, shown
from fl2ora.experiment.sweep_grid import (
    MOST_CELLS,
    Choice,
    Condition,
    Select,
    Settings,
    Sweep,
    label_of,
)

NAME, SET, SEED = "name", "set", "seed"
PLACED = ("output-dir", "run-name", "resume", "force-resume", SEED)
"""Keys that the sweep itself gives to every cell."""

_TABLES = ("seeds", "fixed", "axes", "when", "skip", "select")
_LONGEST = 200  # signs of an axis' name or a label
_PLAIN = (bool, int, float, str)


def read_sweep(content: Mapping[str, Any]) -> Sweep:
    """Return the sweep that the content of a TOML file describes.

    Raises:
        UserError: naming the table, what was expected and what was found.

    >>> sweep = read_sweep({"seeds": 2, "axes": {"method": ["lora", "bitfit"]}})
    >>> [str(cell) for cell in sweep.cells()][:2]
    ['method=lora, seed 0', 'method=lora, seed 1']
    """
    for name in content:
        if name not in _TABLES:
            hint = "; is it meant for [fixed]?" if name in _keys() else nearest(name, _TABLES)
            raise UserError(f"{shown(name)}: expected one of {', '.join(_TABLES)}{hint}")
    axes = _axes(content.get("axes", {}))
    fixed = _settings("fixed", content.get("fixed", {}))
    for axis, choices in axes.items():
        if twice := sorted(fixed.keys() & {key for c in choices for key in c.settings}):
            raise UserError(f"fixed: {twice[0]} is set by axis {axis!r} too")
    when = _conditions("when", content.get("when", []), axes)
    skip = _conditions("skip", content.get("skip", []), axes)
    seeds = _seeds("seeds", content.get("seeds", 1))
    select = _select(content["select"], axes, seeds) if "select" in content else None
    if select is not None:
        everywhere = [
            fixed,
            *(c.settings for c in when),
            *(c.settings for a in axes.values() for c in a),
        ]
        if any(select.key in settings for settings in everywhere):
            raise UserError(f"select: {select.key} is chosen, and must not be set elsewhere")
    return Sweep(axes, seeds, fixed, when, skip, select)


def _axes(given: object) -> dict[str, tuple[Choice, ...]]:
    table = _table("axes", given)
    if not table:
        raise UserError("axes: expected at least one list of values, found none")
    if SET in table or SEED in table or NAME in table:
        raise UserError(f"axes: {SET!r}, {NAME!r} and {SEED!r} cannot be names of axes")
    if odd := [axis for axis in table if not _fits_a_head(axis)]:
        raise UserError(
            f"axes: expected names of 1 to {_LONGEST} printable signs, found {shown(odd[0])}"
        )
    return {axis: _choices(axis, values) for axis, values in table.items()}


def _choices(axis: str, given: object) -> tuple[Choice, ...]:
    where = f"axes: {axis}"
    if not isinstance(given, list) or not given:
        raise UserError(f"{where}: expected a list of values or tables, found {shown(given)}")
    found = []
    for entry in given:
        if isinstance(entry, dict):
            label = entry.get(NAME)
            if not isinstance(label, str) or not label:
                raise UserError(f"{where}: expected a 'name' in every table, found {shown(entry)}")
            rest = {key: value for key, value in entry.items() if key != NAME}
            found.append(Choice(label, _settings(f"{where}, {label}", rest)))
        else:
            found.append(Choice(label_of(entry), _settings(where, {axis: entry})))
    labels = [choice.label for choice in found]
    if odd := [label for label in labels if not _fits_a_head(label)]:
        raise UserError(
            f"{where}: expected at most {_LONGEST} printable signs, found {shown(odd[0])}"
        )
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(f"{where}: {twice!r} stands there twice")
    return tuple(found)


def _fits_a_head(name: str) -> bool:
    """Return whether a name or label can stand in a table and on a terminal."""
    return bool(name.strip()) and name.isprintable() and len(name) <= _LONGEST


def _settings(where: str, given: object) -> Settings:
    """Return settings whose keys exist; their values are for the run config to check."""
    table = _table(where, given)
    for key, value in table.items():
        if key in PLACED:
            expected = "the list 'seeds'" if key == SEED else "'fl2ora sweep --output'"
            raise UserError(f"{where}: {key} is set for every cell; use {expected}")
        if key not in _keys():
            raise UserError(f"{where}: unknown key {shown(key)}{nearest(key, _keys())}")
        if not isinstance(value, _PLAIN):
            raise UserError(f"{where}: {key}: expected one value, found {shown(value)}")
    return dict(table)


def _conditions(
    name: str, given: object, axes: Mapping[str, Sequence[Choice]]
) -> tuple[Condition, ...]:
    if not isinstance(given, list):
        raise UserError(f"{name}: expected tables [[{name}]], found {shown(given)}")
    found = []
    for number, entry in enumerate(given, 1):
        where = f"{name}, number {number}"
        table = dict(_table(where, entry))
        settings = _settings(f"{where}: {SET}", table.pop(SET, {})) if name == "when" else {}
        if not table or (name == "when" and not settings):
            needs = f"an axis and {SET!r}" if name == "when" else "an axis"
            raise UserError(f"{where}: expected {needs}, found {shown(entry)}")
        labels = {axis: _labels(where, axis, wanted, axes) for axis, wanted in table.items()}
        found.append(Condition(labels, settings))
    return tuple(found)


def _labels(
    where: str, axis: str, wanted: object, axes: Mapping[str, Sequence[Choice]]
) -> tuple[str, ...]:
    """Return the labels of an axis that a condition means; a name means it with any arguments."""
    if axis not in axes:
        raise UserError(f"{where}: expected an axis ({listed(axes)}), found {shown(axis)}")
    valid = [choice.label for choice in axes[axis]]
    found: list[str] = []
    if wanted == []:
        raise UserError(f"{where}: {axis}: expected one of {', '.join(valid)}, found []")
    for value in wanted if isinstance(wanted, list) else [wanted]:
        label = label_of(value)
        meant = [each for each in valid if label in (each, each.partition("(")[0])]
        if not meant:
            raise UserError(
                f"{where}: {axis}: expected one of {', '.join(valid)}, "
                f"found {shown(label)}{nearest(label, valid)}"
            )
        found += meant
    return tuple(found)


def _select(given: object, axes: Mapping[str, Sequence[Choice]], seeds: tuple[int, ...]) -> Select:
    table = _table("select", given)
    valid = ("key", "values", "factors", "each", "seeds", "metric")
    for name in table:
        if name not in valid:
            raise UserError(f"select: unknown {shown(name)}{nearest(name, valid)}")
    key = table.get("key", "learning-rate")
    if key not in _keys() or key in PLACED:
        raise UserError(f"select: key: expected a key of a run, found {shown(key)}")
    if ("values" in table) == ("factors" in table):
        raise UserError("select: expected either values or factors")
    if "factors" in table and key != "learning-rate":
        raise UserError(f"select: factors are of learning rates; expected values for {key}")
    candidates = table.get("values", table.get("factors"))
    if not isinstance(candidates, list) or len(candidates) < 2 or not _distinct(candidates):
        raise UserError(
            f"select: expected at least two different candidates, found {shown(candidates)}"
        )
    if "factors" in table and not all(_positive(factor) for factor in candidates):
        raise UserError(f"select: factors: expected numbers above 0, found {shown(candidates)}")
    each = table.get("each", list(axes))
    if not isinstance(each, list) or not _distinct(each) or not set(each) <= set(axes):
        raise UserError(
            f"select: each: expected a list of axes ({listed(axes)}), found {shown(each)}"
        )
    metric = table.get("metric", "nll")
    if not isinstance(metric, str):
        raise UserError(f"select: metric: expected a name, found {shown(metric)}")
    return Select(
        key,
        () if "factors" in table else tuple(candidates),
        tuple(candidates) if "factors" in table else (),
        tuple(each),
        _seeds("select: seeds", table["seeds"]) if "seeds" in table else seeds[:1],
        metric,
    )


def _positive(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < float(str(value)) < math.inf


def _distinct(values: Sequence[object]) -> bool:
    return all(isinstance(v, _PLAIN) for v in values) and len(set(values)) == len(values)


def _seeds(where: str, given: object) -> tuple[int, ...]:
    """Return seeds: those of a list, or the first ones by their number."""
    many = isinstance(given, int) and _whole(given) and 0 < given <= MOST_CELLS
    found = list(range(given)) if many and isinstance(given, int) else given
    good = isinstance(found, list) and found and all(_whole(s) and s >= 0 for s in found)
    if not isinstance(found, list) or not good or len(set(found)) < len(found):
        raise UserError(
            f"{where}: expected a list of different whole numbers, or their number, "
            f"found {shown(given)}"
        )
    return tuple(found)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _table(where: str, given: object) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: expected a table, found {shown(given)}")
    return given


def _keys() -> list[str]:
    return [key_of(name) for name in RunConfig.model_fields]
