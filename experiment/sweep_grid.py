"""A sweep: which runs a grid of settings stands for.

A sweep is described by the tables of a TOML file. ``[axes]`` has lists: of values of a key, or of
named groups of settings. Every combination of them, with every seed, is a cell; ``[fixed]`` is
common to all, ``[[when]]`` sets more where an axis has a certain value, ``[[skip]]`` leaves
combinations out, and ``[select]`` chooses one key by validation data first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from fl2ora.experiment.config import Value
from fl2ora.experiment.errors import UserError, shown

MOST_CELLS = 20_000

Settings = dict[str, Value]
Labels = dict[str, str]


@dataclass(frozen=True)
class Choice:
    """One entry of an axis.

    Attributes:
        label: what tables call it.
        settings: run-config keys it stands for.
    """

    label: str
    settings: Settings


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        labels: of the choices, by axis.
        seed: of the run.
        settings: run-config keys without the seed.
    """

    labels: Labels
    seed: int
    settings: Settings

    def __str__(self) -> str:
        """Return the cell as people are told of it."""
        return ", ".join([*(f"{k}={v}" for k, v in self.labels.items()), f"seed {self.seed}"])


@dataclass(frozen=True)
class Condition:
    """An entry of ``[[when]]`` or ``[[skip]]``.

    Attributes:
        labels: by axis, the labels one of which a cell must have.
        settings: what holds then; empty for ``[[skip]]``.
    """

    labels: Mapping[str, tuple[str, ...]]
    settings: Settings = field(default_factory=dict)

    def holds(self, labels: Labels) -> bool:
        """Return whether a cell with these labels is meant."""
        return all(labels[axis] in wanted for axis, wanted in self.labels.items())


@dataclass(frozen=True)
class Select:
    """How one key is chosen by validation data before the sweep.

    Attributes:
        key: what is chosen.
        values: candidates, the same number for every group.
        factors: candidates as multiples of the method's own learning rate, in place of ``values``.
        each: axes; for every combination of their choices one value is chosen.
        seeds: of the runs it is chosen by.
        metric: of ``clients-validation`` after the last round.
    """

    key: str
    values: tuple[Value, ...]
    factors: tuple[float, ...]
    each: tuple[str, ...]
    seeds: tuple[int, ...]
    metric: str


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file describes it.

    Attributes:
        axes: choices by axis, in order.
        seeds: of every combination.
        fixed: settings of all cells.
        when: settings of some.
        skip: combinations that are left out.
        select: what is chosen first, or None.
    """

    axes: Mapping[str, tuple[Choice, ...]]
    seeds: tuple[int, ...]
    fixed: Settings
    when: tuple[Condition, ...]
    skip: tuple[Condition, ...]
    select: Select | None

    def cells(self) -> list[Cell]:
        """Return every cell; the last axis varies fastest, and seeds faster still.

        Raises:
            UserError: two tables set one key for the same cell, all cells are skipped, or there
                are too many.
        """
        if (count := math.prod(len(c) for c in self.axes.values()) * len(self.seeds)) > MOST_CELLS:
            raise UserError(f"axes: expected at most {MOST_CELLS:,} cells, found {count:,}")
        found = [
            Cell(labels, seed, settings)
            for labels, settings in self._combinations()
            for seed in self.seeds
        ]
        if not found:
            raise UserError("skip: expected some cells to be left, found all of them skipped")
        return found

    def groups(self) -> list[tuple[Labels, Cell]]:
        """Return what ``select`` chooses for: labels of its axes, and their first cell.

        Cells of a group share the chosen value; the first one is what it is chosen with, at the
        seeds of ``select``.
        """
        assert self.select is not None
        found: dict[tuple[str, ...], tuple[Labels, Cell]] = {}
        for cell in self.cells():
            labels = {axis: cell.labels[axis] for axis in self.select.each}
            found.setdefault(tuple(labels.values()), (labels, cell))
        return list(found.values())

    def _combinations(self) -> Iterator[tuple[Labels, Settings]]:
        for choices in product(*self.axes.values()):
            labels = {axis: c.label for axis, c in zip(self.axes, choices, strict=True)}
            if any(condition.holds(labels) for condition in self.skip):
                continue
            settings: Settings = {}
            for axis, choice in zip(self.axes, choices, strict=True):
                _add(settings, choice.settings, f"axes: {axis}={choice.label}")
            for number, condition in enumerate(self.when, 1):
                if condition.holds(labels):
                    _add(settings, condition.settings, f"when, number {number}")
            yield labels, {**self.fixed, **settings}


def _add(settings: Settings, more: Settings, where: str) -> None:
    """Add settings in place, and refuse a key that has another value already."""
    for key, value in more.items():
        if settings.get(key, value) != value:
            raise UserError(
                f"{where}: {key} = {shown(value)} contradicts {key} = {shown(settings[key])}, "
                "which another axis or condition sets for the same cell"
            )
    settings.update(more)


def label_of(value: object) -> str:
    """Return a value as tables show it.

    >>> [label_of(value) for value in (True, 0.1, "lora")]
    ['true', '0.1', 'lora']
    """
    return str(value).lower() if isinstance(value, bool) else str(value)
