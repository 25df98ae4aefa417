"""The classes of a run from those of the server and of the nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from fl2ora.experiment.errors import UserError, listed, nearest, shown
from fl2ora.federated_data.checks import check_names
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation, HeldOutPart
from fl2ora.messages.hello import NodeInfo

_SHOWN = 3  # names of each kind that a message quotes
_LONGEST = 1000  # signs of a class name or template from a node


def run_classes(
    federation: Federation | None, infos: Sequence[NodeInfo], label_space: str
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Return the run's class names, its templates, and what speaks against them.

    Names are the server's in their order; where it has no data, those of the first client. With the
    label space ``union``, those of the clients that are not among them follow.

    Args:
        federation: the server's data, None if it has none.
        infos: of the nodes that can take part, sorted by client.
        label_space: ``same`` or ``union``.
    """
    if not infos:
        return (), (), []
    first = infos[0] if federation is None else federation
    whose = f"client {infos[0].client}'s" if federation is None else "the server's"
    names = tuple(first.class_names)
    if label_space == "union":
        names = tuple(dict.fromkeys([*names, *(n for info in infos for n in info.class_names)]))
    problems = [
        problem
        for info in infos
        for problem in differences(f"{info.client}: ", info.class_names, names, whose, label_space)
    ]
    if len(names) == 1:
        problems.append(f"classes: expected at least two to tell apart, found {listed(names)}")
    for part in federation.parts if federation is not None else ():
        if len(part.class_names) < 2:
            problems.append(
                f"held-out part {part.name!r}: expected at least two classes to tell apart, found "
                f"{listed(part.class_names)}"
            )
    if federation is None or names != federation.class_names:
        problems += unusable(names, first.templates)
    return names, tuple(first.templates), problems


def differences(
    client: str, own: Sequence[str], names: Sequence[str], whose: str, label_space: str
) -> Iterator[str]:
    """Say which classes of a node the run has not, and which of the run's it has not.

    Args:
        client: its key, and what else is to stand before what is said of it, ``"a: "``.
        own: its classes.
        names: the run's.
        whose: these are.
        label_space: ``same`` or ``union``.
    """
    known, there = set(names), set(own)
    strange = [name for name in own if name not in known]
    missing = [name for name in names if name not in there]
    if len(there) != len(own):
        yield f"client {client}expected class names that differ, found one twice"
    elif label_space == "same" and (strange or missing):
        said = [
            f"{shown(name)} is not among them{nearest(name, names)}" for name in strange[:_SHOWN]
        ]
        said += [f"and {len(strange) - _SHOWN} more"] if len(strange) > _SHOWN else []
        lacking = ", ".join(shown(name) for name in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        said += [f"it lacks {lacking}{more}"] if missing else []
        yield (
            f"client {client}its {len(own)} classes differ from {whose} "
            f"{len(names)}: {'; '.join(said)} (label-space = 'union' takes all there are)"
        )


def unusable(names: tuple[str, ...], templates: tuple[str, ...]) -> Iterator[str]:
    """Say what is wrong with names and templates that come from nodes."""
    for text in (*names, *templates):
        if not text.isprintable() or len(text) > _LONGEST:
            yield (
                f"classes and templates of the nodes: expected printable texts of at most "
                f"{_LONGEST} signs, found {shown(text)}"
            )
            return
    try:
        check_names(HeldOutPart("", _no_images(), names, templates))
    except UserError as error:
        yield f"classes of the nodes: {error}"


def _no_images() -> LabelledImages:
    nothing = torch.zeros(0, dtype=torch.int64)
    return LabelledImages(torch.zeros((0, 3, 1, 1), dtype=torch.uint8), nothing, nothing)


def without_data(class_names: tuple[str, ...], templates: tuple[str, ...]) -> Federation:
    """Return what a server has that has no data."""
    return Federation(_no_images(), (), class_names, templates, ("all",))
