"""From a sweep's cells to runs that can be started: configured, checked, and named."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fl2ora.calibration.metrics.table import METRICS, chosen_metrics
from fl2ora.clip_tuning.learning_rates import learning_rate_for
from fl2ora.engines.new_run import described
from fl2ora.experiment.config import RunConfig, Value
from fl2ora.experiment.errors import ConfigError, UserError, listed, nearest, shown
from fl2ora.experiment.fingerprint import code_fingerprint, library_versions
from fl2ora.experiment.paths import with_absolute_settings
from fl2ora.experiment.spec import parse_sum
from fl2ora.experiment.sweep_grid import Cell, Select, Settings
from fl2ora.reporting.sweep_folder import CELLS, SELECTION, cell_key, cell_name
from fl2ora.server_app.run_plugins import build_plugins

CLIENTS = 10  # as many as ``fl2ora run`` simulates
_VALIDATION = "validation"
_SPECS = (
    "strategy", "method", "loss", "dataset", "partition", "protocol", "calibrator", "callbacks",
    "optimiser", "schedule", "compression",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run that is to be made.

    Attributes:
        cell: what it is a run of.
        config: of the run; it leads to ``folder``.
        folder: of the run.
    """

    cell: Cell
    config: RunConfig
    folder: Path

    @property
    def clients(self) -> int:
        """How many clients to simulate."""
        return self.config.num_clients


class Jobs:
    """Makes the jobs of one sweep.

    Args:
        root: the sweep's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._code: dict[tuple[str, ...], str] = {}

    def job(self, cell: Cell, part: str = CELLS, more: Settings | None = None) -> Job:
        """Return the job of a cell whose settings are right, with ``more`` of them."""
        config, problems = self._config(cell, {**cell.settings, **(more or {})})
        if problems:
            raise ConfigError(problems)
        key = cell_key(config.flat(), self.code(config))
        name = cell_name(cell.labels, cell.seed, key)
        # A sweep has several runs at once, so that each has one process.
        placed = {
            "output_dir": str(self._root / part), "run_name": name, "workers": config.workers or 1,
        }  # fmt: skip
        return Job(cell, config.model_copy(update=placed), self._root / part / name)

    def code(self, config: RunConfig) -> str:
        """Identify the code and the libraries that a run depends on, plug-ins of one's own too."""
        specs = [spec for key in _SPECS for spec in _specs(config, key)]
        modules = tuple(sorted({spec for spec in specs if spec}))
        if modules not in self._code:
            text = [code_fingerprint(), str(sorted(library_versions().items()))]
            text += [_content(module) for module in modules]
            self._code[modules] = hashlib.sha256("\0".join(text).encode()).hexdigest()[:12]
        return self._code[modules]

    def check(self, cells: Iterable[Cell], select: Select | None) -> None:
        """Check every cell before the first one starts.

        Raises:
            UserError: each mistake once, with the first cell that has it and how many do.
        """
        cells = list(cells)
        _check_heads(cells[0].labels)
        found: dict[str, list[Cell]] = {}
        seen: dict[str, Cell] = {}
        for cell in {tuple(cell.labels.values()): cell for cell in reversed(cells)}.values():
            settings = {**cell.settings, **_stand_in(select)}
            problems = self._problems(cell, settings, select)
            config, _ = self._config(cell, settings)
            other = seen.setdefault(cell_key(config.flat(), ""), cell)
            if other is not cell and not problems:
                problems = [f"expected different cells, found the same run as {other}"]
            for problem in problems:
                found.setdefault(problem, []).insert(0, cell)
        if found:
            lines = [
                f"{problem} (cell {cells[0]}"
                + (f"; and {len(cells) - 1} more)" if len(cells) > 1 else ")")
                for problem, cells in found.items()
            ]
            raise UserError("the sweep cannot start:\n" + "\n".join(f"  - {x}" for x in lines))

    def candidates(self, cell: Cell, select: Select) -> list[tuple[Value, list[Job]]]:
        """Return the candidates for a cell's key, and for each the jobs that measure it.

        They are measured on validation data, so intervals, plots and calibrators are left out.
        """
        values: Sequence[Value] = select.values
        if select.factors:
            config, _ = self._config(cell, cell.settings)
            own = learning_rate_for(config.method, config.model, config.optimiser)
            values = [float(f"{own * factor:.6g}") for factor in select.factors]
        lean: Settings = {"callbacks": _VALIDATION, "calibrator": "none", "resamples": 0}
        jobs = [
            [
                self.job(
                    Cell({**cell.labels, select.key: str(value)}, seed, cell.settings),
                    SELECTION,
                    {**lean, select.key: value},
                )
                for seed in select.seeds
            ]
            for value in values
        ]
        return list(zip(values, jobs, strict=True))

    def _config(self, cell: Cell, settings: Settings) -> tuple[RunConfig, tuple[str, ...]]:
        given = {**settings, "seed": cell.seed, "output-dir": str(self._root), "run-name": ""}
        clients = given.get("num-clients") or CLIENTS
        good = isinstance(clients, int) and not isinstance(clients, bool) and clients > 0
        if good:
            given["num-clients"] = clients
        return described(with_absolute_settings(given), int(clients) if good else 1)

    def _problems(self, cell: Cell, settings: Settings, select: Select | None) -> list[str]:
        config, problems = self._config(cell, settings)
        try:
            build_plugins(config, problems)
            if select is not None:
                _check_select(select, config)
                self.candidates(cell, select)
        except ConfigError as error:
            return list(error.problems)
        except UserError as error:
            return [str(error)]
        return []


def _check_heads(axes: Iterable[str]) -> None:
    """Refuse axes that are called like another column of the tables of a comparison.

    Raises:
        UserError: which one.
    """
    taken = {"seeds", "baseline", *(metric.name for metric in METRICS)}
    if twice := sorted(taken.intersection(axes)):
        raise UserError(f"axes: expected no name of a column of tables, found {shown(twice[0])}")


def _stand_in(select: Select | None) -> Settings:
    """Return a candidate, so that a cell can be checked before its own is chosen."""
    return {select.key: select.values[0]} if select is not None and select.values else {}


def _check_select(select: Select, config: RunConfig) -> None:
    """Refuse a metric the runs do not measure or that has no better end, and no images for it."""
    directed = {m.name for m in METRICS if m.better is not None}
    measured = {metric.name for metric in chosen_metrics(config.metrics)} & directed
    if select.metric not in measured:
        raise UserError(
            f"select: metric: expected one of the runs' metrics ({listed(measured)}), "
            f"found {select.metric!r}{nearest(select.metric, measured)}"
        )
    if not config.calibration_fraction:
        raise UserError(
            "select: chooses by the clients' calibration images; expected calibration-fraction "
            "above 0, found 0"
        )


def _specs(config: RunConfig, key: str) -> list[str | None]:
    """Return the modules outside the repository that a key's specs name."""
    try:
        return [spec.module for _, spec in parse_sum(str(config.flat()[key]))]
    except UserError:
        return []


def _content(module: str) -> str:
    """Return the digest of a module's file, or nothing where it has none."""
    try:
        found = importlib.util.find_spec(module)
        path = Path(found.origin) if found is not None and found.origin else None
        return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else ""
    except (ImportError, OSError, ValueError):
        return ""
