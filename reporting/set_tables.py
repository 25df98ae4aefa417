"""Coverage and size of conformal sets, as rows and as a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl2ora.reporting.whole_files import whole_file

if TYPE_CHECKING:
    import pandas as pd

    from fl2ora.calibration.conformal.set_sums import SetSums

SETS_FILE = "sets.csv"
HEAD = ("source", "coverage", "mean set size")


def write_sets(folder: Path, sums: Mapping[str, SetSums]) -> Path | None:
    """Write ``sets.csv``: a row for each central part and each client with images.

    Columns are ``of`` (source or client key), ``images``, ``coverage`` with its 95 % interval, and
    mean ``set_size``.

    Args:
        folder: of the fitted calibrator.
        sums: by source or client key.

    Returns:
        The path; None, and no file, where there are none.
    """
    rows = [
        {"of": name, "images": found.count, **found.metrics()}
        for name, found in sums.items()
        if found.count
    ]
    if not rows:
        return None
    import pandas as pd  # not until it is needed: other commands are to answer at once

    path = folder / SETS_FILE
    with whole_file(path) as part:
        pd.DataFrame(rows).to_csv(part, index=False)
    return path


def set_rows(metrics: Iterable[tuple[str, Mapping[Any, Any]]]) -> list[list[str]]:
    """Return a row of text, see ``HEAD``, for each source that has sets.

    Args:
        metrics: sources and their metrics by name; values that are missing may be NaN.
    """
    return [
        [source, _share(values), f"{values['set_size']:.2f}"]
        for source, values in metrics
        if values.get("coverage", float("nan")) == values.get("coverage")
    ]


def last_set_rows(table: pd.DataFrame) -> list[list[str]]:
    """Return ``set_rows`` of a run's metrics, of each source after its last round."""
    if "coverage" not in table.columns:
        return []
    last = table.sort_values("round", kind="stable").drop_duplicates("source", keep="last")
    return set_rows((str(row["source"]), row) for row in last.to_dict("records"))


def _share(values: Mapping[Any, Any]) -> str:
    text = f"{100 * values['coverage']:.1f} %"
    low, high = (values.get(f"coverage_{end}", float("nan")) for end in ("low", "high"))
    return text if low != low else f"{text} [{100 * low:.1f}, {100 * high:.1f}]"
