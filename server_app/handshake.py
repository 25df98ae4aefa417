"""Before the first round: which nodes there are, and whether they can work together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from flwr.serverapp import Grid

from fl2ora.clip_tuning.digests import run_digests
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.fingerprint import code_fingerprint, code_root, library_versions
from fl2ora.federated_data.label_space import in_label_space
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.messages.hello import NodeInfo
from fl2ora.server_app.arrivals import MOST_SHARES, Peer, attending
from fl2ora.server_app.label_space import run_classes, without_data
from fl2ora.server_app.own_parts import own_parts, with_classes_of

_MOST_PROBLEMS = 20
_MOST_NAMED = 5


def shake_hands(
    grid: Grid, config: RunConfig, federation: Federation | None
) -> tuple[list[Peer], Federation]:
    """Wait for the nodes, ask each who it is, and return them sorted by client key.

    Nodes must have the server's code, libraries, classes in whatever order, templates, base
    weights, tokenizer, preprocessing and the method's files; shares of one dataset must be of one
    division.

    Args:
        grid: where the nodes are.
        config: of the run.
        federation: the server's data; None if it has none.

    Returns:
        The nodes, and the server's data with the classes of the run.

    Raises:
        UserError: another number of nodes than ``num-clients`` within ``start-timeout``, or nodes
            that cannot take part; all problems are listed, each naming both sides.
    """
    peers = attending(grid, config)
    peers = sorted(peers, key=lambda peer: natural_key(peer.client))
    infos = [peer.info for peer in peers if not peer.info.problem]
    names, templates, misfits = run_classes(federation, infos, config.label_space)
    data = without_data(names, templates) if federation is None else federation
    parts, unlike = own_parts(data, names, infos, config.label_space)
    problems = [
        *_together(problems_of(peers)),
        *misfits,
        *unlike,
        *_together(_differences(infos, config, templates)),
        *_claims(peers),
        *_duplicates(peers),
        *_partitions(peers),
    ]
    if problems:
        shown = [f"  - {problem}" for problem in problems[:_MOST_PROBLEMS]]
        if len(problems) > len(shown):
            shown.append(f"  - and {len(problems) - len(shown)} more")
        raise UserError("the nodes cannot train together:\n" + "\n".join(shown))
    return peers, with_classes_of(in_label_space(data, names), parts)


def natural_key(client: str) -> tuple[int, int, str]:
    """Sort clients named by numbers by value and before all others."""
    return (0, int(client), "") if client.isdecimal() else (1, 0, client)


def _together(problems: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield each problem once, after the clients that have it."""
    having: dict[str, list[str]] = {}
    for client, problem in problems:
        having.setdefault(problem, []).append(client)
    for problem, clients in having.items():
        names = ", ".join(clients[:_MOST_NAMED])
        if len(clients) > _MOST_NAMED:
            names += f" and {len(clients) - _MOST_NAMED} more"
        yield f"client{'s' if len(clients) > 1 else ''} {names}: {problem}"


def problems_of(peers: Iterable[Peer]) -> Iterator[tuple[str, str]]:
    """Yield clients, and what keeps each from working with this server."""
    versions = {name: _public(v) for name, v in library_versions().items()}
    for peer in peers:
        info = peer.info
        if info.fingerprint and info.fingerprint != code_fingerprint():
            yield (
                peer.client,
                f"its code {info.fingerprint} at {info.code_root} differs "
                f"from the server's {code_fingerprint()} at {code_root()}",
            )
        theirs = dict(info.versions)
        for name, version in versions.items():
            if name != "python" and name in theirs and _public(theirs[name]) != version:
                yield (peer.client, f"{name} {theirs[name]} differs from the server's {version}")
        if info.problem:
            yield peer.client, info.problem


def _differences(
    infos: Iterable[NodeInfo], config: RunConfig, templates: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield clients with another model than the server, or other templates than the run."""
    for info in infos:
        said = dict(info.digests)
        digests = run_digests(config.model, config.method, info.class_names, templates)
        for name, digest in digests.items():
            if said.get(name) != digest:
                yield (
                    info.client,
                    f"{name}: expected the server's, digest {digest}, "
                    f"found {said.get(name, 'none')}",
                )


def _duplicates(peers: Iterable[Peer]) -> Iterator[str]:
    for client, count in Counter(peer.client for peer in peers).items():
        if count > 1:
            yield (
                f"client key {client!r} is used by {count} nodes: give each node its own "
                "site=... or partition-id in --node-config"
            )


def _claims(peers: Iterable[Peer]) -> Iterator[str]:
    """What a node says of its data must be possible, since shares are looked up by it."""
    for info in (peer.info for peer in peers if not peer.info.problem):
        if (
            info.source == "partition"
            and not 0 <= info.partition < info.num_partitions <= MOST_SHARES
        ):
            yield (
                f"client {info.client}: expected a share of the run's dataset, found number "
                f"{info.partition} of {info.num_partitions}"
            )
        elif info.source not in ("partition", "own"):
            yield f"client {info.client}: expected own data or a partition, found {info.source!r}"
        if min(info.num_train, info.num_test, info.num_calibration) < 0 or not info.client:
            yield f"client {info.client!r}: expected a key and counts of at least 0"


def _partitions(peers: Iterable[Peer]) -> Iterator[str]:
    """Shares of one dataset must be shares of the same division, each held once."""
    sharing = [peer for peer in peers if peer.info.source == "partition" and not peer.info.problem]
    divisions = Counter(peer.info.num_partitions for peer in sharing)
    if len(divisions) > 1:
        found = ", ".join(f"{count} nodes say {number}" for number, count in divisions.items())
        yield (
            f"num-partitions: expected the same on every node, found {found}: the held-out images "
            "of one would be training images of another"
        )
    for partition, count in Counter(peer.info.partition for peer in sharing).items():
        if count > 1:
            names = ", ".join(p.client for p in sharing if p.info.partition == partition)
            yield (
                f"partition-id {partition} is used by {count} nodes ({names}): the held-out images "
                "of one would be training images of another"
            )


def _public(version: str) -> str:
    """Drop the local part: torch 2.13.0+cpu and 2.13.0+cu130 may work together."""
    return version.partition("+")[0]
