"""Adapters on their way: what the other side has already, or what is zero, stays at home."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter, as_tensors, changes
from fl2ora.clip_tuning.digests import adapter_digest
from fl2ora.experiment.config import Value
from fl2ora.messages.records import ARRAYS, AT_START, CONFIG, CUT, UnusableMessageError
from fl2ora.messages.tensors import decode_tensors, encode_tensors


@dataclass(frozen=True)
class KnownStart:
    """The adapter a run begins with, and the nodes that have said they make the same.

    Attributes:
        adapter: the server's.
        nodes: ids of those nodes.
    """

    adapter: Adapter
    nodes: Collection[int]


class Outgoing:
    """One adapter as it is sent: in full, or without what a node has at the start.

    Args:
        adapter: what is sent.
        start: None: no node is known to have anything.
    """

    def __init__(self, adapter: Mapping[str, Tensor], start: KnownStart | None) -> None:
        self._adapter, self._start = as_tensors(adapter), start
        self._made: dict[bool, tuple[ArrayRecord, dict[str, Value]]] = {}

    def to(self, node: int) -> tuple[ArrayRecord, dict[str, Value]]:
        """Return the arrays for a node and what to say of them; each kind is encoded once."""
        start = self._start
        # Zero-shot CLIP has no adapter, and its node must not fill one in.
        knows = (
            start is not None
            and node in start.nodes
            and self._adapter.keys() == start.adapter.keys()
        )
        if knows not in self._made:
            self._made[knows] = self._without_start() if knows else self._in_full()
        return self._made[knows]

    def _in_full(self) -> tuple[ArrayRecord, dict[str, Value]]:
        return encode_tensors(self._adapter), {}

    def _without_start(self) -> tuple[ArrayRecord, dict[str, Value]]:
        assert self._start is not None
        start = self._start.adapter
        sent, cut = trimmed(changes(self._adapter, start))
        left_out = {name: start[name] for name in self._adapter.keys() - sent.keys()}
        return encode_tensors(sent), {AT_START: adapter_digest(left_out), CUT: cut}


def decode_adapter(content: RecordDict, initial: Callable[[], Adapter] | None = None) -> Adapter:
    """Return the adapter a node is sent, whole; some of Flower's strategies send float64.

    Args:
        content: of the message.
        initial: makes the adapter this node begins with; called if the message leaves some out.

    Raises:
        UnusableMessageError: what was left out is not what this node begins with.
    """
    record, settings = content.array_records[ARRAYS], content.config_records[CONFIG]
    arrays = decode_tensors(record, ARRAYS, torch.float32, torch.float64)
    if AT_START not in settings:
        return arrays
    own = {} if initial is None else initial()
    left_out = {name: own[name] for name in own.keys() - arrays.keys()}
    if (found := adapter_digest(left_out)) != settings[AT_START]:
        raise UnusableMessageError(
            f"{ARRAYS}: the tensors left out are those of digest {settings[AT_START]!s:.32}; those "
            f"that this node begins with have {found}"
        )
    whole = padded(arrays, own, settings.get(CUT))
    whole |= {name: tensor.clone() for name, tensor in left_out.items()}
    return {name: whole[name] for name in sorted(whole)}


def trimmed(adapter: Mapping[str, Tensor]) -> tuple[Adapter, int]:
    """Return matrices without the rows and columns of zeros at their ends, and how many had some.

    It is what makes a client of lower rank cost less. A negative zero is none of these zeros.

    >>> small, cut = trimmed({"a": torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "b": torch.zeros(2)})
    >>> small["a"], tuple(small["b"].shape), cut
    (tensor([[1.]]), (2,), 1)
    """
    small = {name: _without_zero_ends(tensor) for name, tensor in adapter.items()}
    return small, sum(small[name].shape != adapter[name].shape for name in small)


def padded(adapter: Mapping[str, Tensor], like: Mapping[str, Tensor], cut: object) -> Adapter:
    """Return matrices with the zeros that ``trimmed`` took off.

    Args:
        adapter: as it came.
        like: tensors of the right shapes.
        cut: how many had zeros taken off, as its sender says. Where that is another number than of
            those that may have, the adapter is returned as it came, for its shapes to be refused.
    """
    smaller = [name for name, tensor in adapter.items() if _fits_in(tensor, like.get(name))]
    if type(cut) is not int or cut != len(smaller):
        return dict(adapter)
    whole = dict(adapter)
    for name in smaller:
        rows, columns = adapter[name].shape
        whole[name] = torch.zeros_like(like[name], device="cpu")
        whole[name][:rows, :columns] = adapter[name]
    return whole


def _without_zero_ends(tensor: Tensor) -> Tensor:
    if tensor.dim() != 2 or not tensor.numel() or tensor.dtype != torch.float32:
        return tensor
    bits = tensor.detach().cpu().contiguous().view(torch.int32)
    if bits[-1].any() and bits[:, -1].any():
        return tensor
    used = bits != 0
    rows, columns = (int(used.any(dim=d).nonzero().max()) + 1 if used.any() else 0 for d in (1, 0))
    return tensor[:rows, :columns].contiguous()


def _fits_in(tensor: Tensor, whole: Tensor | None) -> bool:
    """Return whether a matrix is a smaller corner of another."""
    if whole is None or tensor.dim() != 2 or whole.dim() != 2:
        return False
    inside = all(here <= there for here, there in zip(tensor.shape, whole.shape, strict=True))
    return inside and tensor.shape != whole.shape
