"""Several adapters as one, for state of parts: ``{"m": adapter}`` is ``{"m/name": tensor}``."""

from __future__ import annotations

from collections.abc import Mapping

from fl2ora.clip_tuning.adapter import Adapter, as_adapter


def join_parts(parts: Mapping[str, Adapter]) -> Adapter:
    """Return float32 copies of all tensors as ``part/name``."""
    return as_adapter(
        {f"{part}/{name}": t for part, adapter in parts.items() for name, t in adapter.items()}
    )


def take_part(joined: Adapter, part: str) -> Adapter:
    """Return one part of what ``join_parts`` returned; empty where there is none."""
    head = f"{part}/"
    return as_adapter({k.removeprefix(head): t for k, t in joined.items() if k.startswith(head)})
