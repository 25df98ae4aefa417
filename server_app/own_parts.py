"""The held-out parts that nodes with data of their own measure themselves, and their classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fl2ora.experiment.errors import shown
from fl2ora.federated_data.label_space import relabelled
from fl2ora.federated_data.protocols.base import Federation, HeldOutPart
from fl2ora.messages.hello import NodeInfo
from fl2ora.messages.own_parts import PartInfo
from fl2ora.server_app.label_space import differences, unusable


@dataclass(frozen=True)
class OwnPart:
    """A part that lies on nodes.

    Attributes:
        name: of the part, as the protocol calls it.
        class_names: of the run for this part, in label order.
        other: they are other classes than those trained on.
        images: how many each node has, by client; of some it may be none.
    """

    name: str
    class_names: tuple[str, ...]
    other: bool
    images: Mapping[str, int]


def own_parts(
    federation: Federation, names: Sequence[str], infos: Sequence[NodeInfo], label_space: str
) -> tuple[dict[str, OwnPart], list[str]]:
    """Return the parts of the nodes by name, and what speaks against them.

    The classes of a part are those trained on, or, as in ``base_to_new``, others: then the server's
    of the same part in their order, else the first client's; with the label space ``union``, those
    of the clients that are not among them follow.

    Args:
        federation: the server's data; without parts if it has none.
        names: the classes of the run.
        infos: of the nodes that can take part, sorted by client.
        label_space: ``same`` or ``union``.
    """
    found, problems = {}, []
    central = {part.name: _central(part, federation) for part in federation.parts}
    for name in dict.fromkeys(part.name for info in infos for part in info.parts):
        holders = {i.client: p for i in infos for p in i.parts if p.name == name}
        classes, wrong = _classes(name, holders, central.get(name), label_space)
        images = {client: holder.images for client, holder in holders.items()}
        found[name] = OwnPart(name, classes or tuple(names), bool(classes), images)
        problems += wrong
        if classes:
            problems += _trained_on(name, federation, infos)
        if name not in central:
            problems += _nobody_has(holders)
    return found, problems


def with_classes_of(federation: Federation, parts: Mapping[str, OwnPart]) -> Federation:
    """Return the server's data with parts of other classes in those of the run."""

    def widened(part: HeldOutPart) -> HeldOutPart:
        own = parts.get(part.name)
        if own is None or not own.other or own.class_names == part.class_names:
            return part
        images = relabelled(part.images, part.class_names, own.class_names)
        return replace(part, images=images, class_names=own.class_names)

    return replace(federation, parts=tuple(map(widened, federation.parts)))


def _central(part: HeldOutPart, federation: Federation) -> PartInfo:
    """Return the server's part as a node would describe it."""
    images = len(part.images)
    trained = federation.class_names, federation.templates
    if (part.class_names, part.templates) == trained:
        return PartInfo(part.name, images)
    return PartInfo(part.name, images, part.class_names, part.templates)


def _classes(
    name: str,
    holders: Mapping[str, PartInfo],
    central: PartInfo | None,
    label_space: str,
) -> tuple[tuple[str, ...], list[str]]:
    """Return a part's classes, none where they are those trained on, and what is wrong."""
    what = f"held-out part {shown(name)}: " if name else "held-out images: "
    client, first = next(iter(holders.items()))
    whose = f"client {client}'s"
    if central is not None:
        whose, first = "the server's", central
    problems = [
        f"client {client}: {what}expected the same templates as {whose} and, as there, "
        f"{'other classes than' if first.class_names else 'the classes that'} are trained on"
        for client, part in holders.items()
        if bool(part.class_names) != bool(first.class_names) or part.templates != first.templates
    ]
    if problems or not first.class_names:
        return (), problems
    names = first.class_names
    if label_space == "union":
        names = tuple(
            dict.fromkeys([*names, *(n for p in holders.values() for n in p.class_names)])
        )
    for client, part in holders.items():
        problems += differences(f"{client}: {what}", part.class_names, names, whose, label_space)
    return names, [*problems, *unusable(names, first.templates)]


def _trained_on(name: str, federation: Federation, infos: Sequence[NodeInfo]) -> Iterator[str]:
    """Refuse classes that are new to whoever holds them out, and trained on by another client."""
    holders = [
        ("the server", part.class_names, federation.class_names)
        for part in federation.parts
        if part.name == name
    ]
    holders += [
        (f"client {info.client}", part.class_names, info.class_names)
        for info in infos
        for part in info.parts
        if part.name == name
    ]
    for whose, held_out, trained in holders:
        new = set(held_out)
        if new & set(trained):  # never meant to be new
            continue
        for info in infos:
            both = [class_name for class_name in info.class_names if class_name in new]
            if both:
                yield (
                    f"client {info.client}: trains on {shown(both[0])}, which {whose} holds out "
                    f"as new in part {shown(name)}"
                )
                return


def _nobody_has(holders: Mapping[str, PartInfo]) -> Iterator[str]:
    """Refuse a part that the protocol asks for and that no node can have an image of."""
    client, first = next(iter(holders.items()))
    if first.lacking and not any(part.images for part in holders.values()):
        yield f"client {client}: {first.lacking}, and no other node has images to hold out"
