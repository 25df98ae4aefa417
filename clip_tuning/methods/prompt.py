"""``prompt``: another name of ``coop``."""

from __future__ import annotations

from fl2ora.clip_tuning.methods.coop import CoOp


class Prompt(CoOp):
    """``coop`` under the name it had; see there."""
