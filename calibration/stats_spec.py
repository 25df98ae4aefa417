"""How large calibration statistics are, and what their arrays are called."""

from __future__ import annotations

import math
from dataclasses import dataclass

BIN_FIELDS = ("count", "confidence", "correct", "confidence_squared", "confidence_correct")
SCALAR_FIELDS = ("nll", "nll_squared", "brier", "brier_squared", "spiegelhalter_variance")
FINE_FIELDS = ("fine_count", "fine_confidence", "fine_correct")
TABLE_FIELDS = (
    *("class_count", "class_probability", "class_label"),
    *("top_count", "top_confidence", "top_correct"),
)


@dataclass(frozen=True)
class StatsSpec:
    """The size of the statistics; all clients of a federation must use the same.

    Attributes:
        num_bins: ``M``, equal-width confidence bins of ECE and its relatives.
        num_classes: ``K``; 0 leaves it open. Needed when ``classwise``.
        fine_bins: ``G``, bins of the fine histogram behind equal-mass ECE, smooth ECE, KS and AURC;
            0 leaves the histogram out, and those metrics become NaN.
        classwise: also keep the sums of class-wise and top-label ECE.
    """

    num_bins: int = 15
    num_classes: int = 0
    fine_bins: int = 1000
    classwise: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be."""
        for name, least in (("num_bins", 1), ("num_classes", 0), ("fine_bins", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, found {getattr(self, name)}")
        if self.classwise and self.num_classes == 0:
            raise ValueError("classwise statistics need num_classes, found 0")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every array by its field name; an unused array has size 0."""
        table = (self.num_classes if self.classwise else 0, self.num_bins)
        bins = dict.fromkeys(BIN_FIELDS, (self.num_bins,))
        fine = dict.fromkeys(FINE_FIELDS, (self.fine_bins,))
        return {
            **bins,
            **dict.fromkeys(SCALAR_FIELDS, ()),
            **fine,
            **dict.fromkeys(TABLE_FIELDS, table),
        }

    @property
    def num_floats(self) -> int:
        """Floats in one message: ``5 M + 5 + 3 G``, and ``+ 6 M K`` when classwise."""
        return sum(math.prod(shape) for shape in self.shapes().values())
