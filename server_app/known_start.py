"""Which nodes make the adapter a run begins with for themselves, so that it need not be sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.digests import adapter_digest
from fl2ora.messages.adapters import KnownStart
from fl2ora.messages.hello import NodeInfo


class Starts:
    """Compares what nodes say of their start with the server's.

    A node says it in the handshake, of the classes it has, so that nothing follows for one that is
    told others or another order. What it says is checked when it fills in what it was not sent.

    Args:
        class_names: of the run; empty: those of all nodes.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = tuple(class_names)
        self._adapter: Adapter = {}
        self._digest = ""

    def begin(self, adapter: Adapter) -> None:
        """Take note of the server's."""
        self._adapter, self._digest = adapter, adapter_digest(adapter)

    def known(self, nodes: Mapping[int, str], infos: Mapping[str, NodeInfo]) -> KnownStart:
        """Return the start, and which of ``nodes``, client keys by id, have the same."""
        same = {node for node, client in nodes.items() if self._is_same(infos[client])}
        return KnownStart(self._adapter, same)

    def _is_same(self, info: NodeInfo) -> bool:
        ours = not self._class_names or info.class_names == self._class_names
        return bool(self._digest) and ours and info.start == self._digest
