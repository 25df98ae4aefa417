"""Images that one node holds out and another trains on, found by salted digests.

What lies with the server, or is shared out of its dataset, is compared by ``federated_data.leaks``;
here come the nodes with data of their own, each against all others and against the server.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.leaks import ADVICE, digests
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.federated_data.salted import Salted, SaltedImages, salted, salted_images
from fl2ora.messages.hello import NodeInfo
from fl2ora.server_app.clients import Clients
from fl2ora.server_app.held_out import shares_of

_SERVER = ""  # stands among clients for the server's parts
_SALT_BYTES = 32
_SHOWN = 5
# What is fitted to images that others hold out, and to which: trained or calibrated on, held out.
_KINDS = (("train", "test"), ("train", "calibration"), ("calibration", "test"))
_WORDS = {"train": "trains on", "calibration": "fits calibrators on"}


@dataclass(frozen=True)
class Leaks:
    """Copies among clients.

    Attributes:
        counts: images by who fits something to them, how, who holds them out, and how.
        copies: digests of what each client would have to leave out.
        equal: training images of a node that another one trains on too.
    """

    counts: Mapping[tuple[str, str, str, str], int]
    copies: Mapping[str, Salted]
    equal: int


def compare_nodes(clients: Clients, config: RunConfig, federation: Federation) -> list[str]:
    """Ask nodes with data of their own for digests, and do about copies what ``on-leak`` says.

    With ``drop``, clients leave them out from now on.

    Returns:
        Sentences for the run's record.

    Raises:
        UserError: ``stop``, and there are copies.
    """
    own = [client for client, info in clients.infos.items() if info.source == "own"]
    if not own:
        return []
    salt = secrets.token_bytes(_SALT_BYTES)
    answers = clients.digests(own, salt)
    given = {client: images for client, images in answers.items() if images is not None}
    notes = [*_untold(own, given), *_sampled(clients.infos, given)]
    if not given:
        return notes
    shared = shares_of(config, federation, clients.infos)
    held = {c: salted_images(data, (), salt, None) for c, data in shared.items()}
    found = find_leaks({_SERVER: _of_server(federation, salt), **held}, given)
    said = [*_said(found.counts)]
    if said and config.on_leak == "stop":
        raise UserError(f"clients: {'; '.join(said)}, byte by byte{ADVICE}")
    if found.copies and config.on_leak == "drop":
        clients.leave_out(found.copies, {**held, **given}, salt)
        said.append("these are left out of training and calibration")
    if found.equal:
        said.append(f"{found.equal} training images of nodes are training images elsewhere, too")
    return [*notes, *said]


def find_leaks(server: Mapping[str, SaltedImages], nodes: Mapping[str, SaltedImages]) -> Leaks:
    """Find copies between nodes with data of their own, and between these and the server.

    Args:
        server: the server's parts and the shares of its dataset; not compared with each other.
        nodes: what each other node holds.
    """
    holders = [*server.items(), *nodes.items()]
    groups = [0] * len(server) + list(range(1, len(nodes) + 1))
    tables = {
        kind: _Table.of([getattr(images, kind) for _, images in holders], groups)
        for kind in ("train", "calibration", "test")
    }
    counts: Counter[tuple[str, str, str, str]] = Counter()
    copies: dict[str, list[Salted]] = {}
    equal = 0
    for index, (client, images) in enumerate(holders):
        for fitted, held in _KINDS:
            mine = getattr(images, fitted)
            whose = tables[held].elsewhere(mine, groups[index])
            if (whose >= 0).any():
                copies.setdefault(client, []).append(mine[whose >= 0])
            for other, count in Counter(whose[whose >= 0].tolist()).items():
                counts[client, fitted, holders[other][0], held] += count
        if groups[index]:
            equal += int((tables["train"].elsewhere(images.train, groups[index]) >= 0).sum())
    joined = {client: np.unique(np.concatenate(parts)) for client, parts in copies.items()}
    return Leaks(counts, joined, equal)


@dataclass(frozen=True)
class _Table:
    """Who has which digest: of each the holders of the lowest and of the highest group."""

    digests: Salted
    groups: NDArray[np.int64] = field(repr=False)
    low: NDArray[np.int64]
    high: NDArray[np.int64]

    @classmethod
    def of(cls, arrays: Sequence[Salted], groups: Sequence[int]) -> _Table:
        """Build it of each holder's digests and group; groups ascend."""
        owners = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
        joined = np.concatenate([np.zeros(0, dtype=np.uint64), *arrays])
        order = np.argsort(joined, kind="stable")  # owners, and their groups, ascend in each digest
        found, first, sizes = np.unique(joined[order], return_index=True, return_counts=True)
        sorted_owners = owners[order]
        low, high = sorted_owners[first], sorted_owners[first + sizes - 1]
        return cls(found, np.asarray(groups, dtype=np.int64), low, high)

    def elsewhere(self, mine: Salted, group: int) -> NDArray[np.int64]:
        """Return for each digest a holder of it in another group, -1 where there is none."""
        if not len(self.digests):
            return np.full(len(mine), -1, dtype=np.int64)
        at = np.searchsorted(self.digests, mine).clip(max=len(self.digests) - 1)
        low, high = self.low[at], self.high[at]
        whose = np.where(self.groups[low] != group, low, high)
        there = (self.digests[at] == mine) & (self.groups[whose] != group)
        return np.where(there, whose, -1)


def _of_server(federation: Federation, salt: bytes) -> SaltedImages:
    """Return the digests of what lies with the server alone: parts that are measured there."""
    none = np.zeros(0, dtype=np.uint64)
    parts = [salted(digests(part.images), salt) for part in federation.parts]
    return SaltedImages(none, none, np.concatenate([none, *parts]))


def _said(counts: Mapping[tuple[str, str, str, str], int]) -> Iterator[str]:
    """Yield the largest counts in words."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for (client, fitted, other, held), count in ranked[:_SHOWN]:
        whose = f"client {other}" if other else "the server"
        does = "keeps for calibrators" if held == "calibration" else "holds out"
        yield f"client {client} {_WORDS[fitted]} {count} images that {whose} {does}"
    if len(ranked) > _SHOWN:
        yield f"and {len(ranked) - _SHOWN} more pairs"


def _untold(own: Iterable[str], given: Mapping[str, SaltedImages]) -> Iterator[str]:
    silent = [client for client in own if client not in given]
    if silent:
        names = ", ".join(silent[:_SHOWN]) + (" and more" if len(silent) > _SHOWN else "")
        yield (
            f"the images of client{'s' if len(silent) > 1 else ''} {names} were not compared with "
            "others': no digests were given"
        )


def _sampled(infos: Mapping[str, NodeInfo], given: Mapping[str, SaltedImages]) -> Iterator[str]:
    for client, images in given.items():
        info = infos[client]
        held = info.num_train + info.num_calibration + info.num_test
        held += sum(part.images for part in info.parts)
        told = len(images.train) + len(images.calibration) + len(images.test)
        if told < held:
            yield f"of client {client}, {told:,} of {held:,} images were compared with others'"
