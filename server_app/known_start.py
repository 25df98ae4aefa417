"""Which nodes make the adapter a run begins with for themselves, so that it need not be sent."""

from __future__ import annotations

from collections.abc import Mapping

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.digests import adapter_digest
from fl2ora.messages.adapters import KnownStart
from fl2ora.messages.hello import NodeInfo


class Starts:
    """Compares what nodes say of their start with the server's.

    A node says it in the handshake, before it knows the run's classes. Where a method's start
    depends on classes, one that has others says something else and is sent everything. What a node
    says is checked when it fills in what it was not sent.
    """

    def __init__(self) -> None:
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
        return bool(self._digest) and info.start == self._digest
