"""What a client keeps between rounds: in Flower's context, and in a folder where there is one.

Flower keeps a context's state in the memory of the SuperNode process, so it is lost when the node
restarts, and with the run when the server does. So it is written to a folder too: to the node
config's ``state-dir``; without one, and if the node holds a share of the run's own dataset and sees
the run's directory, as every node of a simulation does, to ``clients`` in there.

Each round leaves a file of its own. A round that was lost when the server ended is no longer one of
the run: what was kept in it is passed over, see ``Lineage``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from flwr.app import ArrayRecord, ConfigRecord, Context

from fl2ora.clip_tuning.adapter import Adapter, AdapterError, load_adapter, save_adapter
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import user_path
from fl2ora.messages.lineage import Lineage
from fl2ora.messages.train import DISK, MEMORY
from fl2ora.reporting.run_directory import shared_directory
from fl2ora.reporting.whole_files import flush, whole_file
from fl2ora.strategies.named_parts import join_parts, take_part

_STAMP, _ROUND = "kept", "round"
_LONGEST = 150  # characters of a folder's name

logger = logging.getLogger(__name__)


class _Version(NamedTuple):
    """A file: the round and the run it was kept in."""

    round: int
    run_id: int

    @property
    def name(self) -> str:
        return f"{self.round:07d}-{self.run_id}.safetensors"


class ClientState:
    """Named adapters of one client in one run, by the round they were kept in.

    Args:
        context: Flower's, of this node, whose config ``check_node_config`` has passed.
        client: the client's key.
        lineage: what was kept in interrupted runs and still counts; None: nothing.

    Attributes:
        place: where ``keep`` has put what it was given: ``DISK``, ``MEMORY``, or empty for nothing.
    """

    def __init__(self, context: Context, client: str, lineage: Lineage | None = None) -> None:
        self._context, self._client, self._lineage = context, client, lineage or Lineage()
        self.place = ""

    def load(self, before: int) -> dict[str, Adapter]:
        """Return what was last kept before a round, by name; empty if nothing was.

        Raises:
            UserError: the file is there but damaged.
        """
        records = self._context.state
        stamp = records.config_records.get(_STAMP)
        in_memory = -1 if stamp is None else int(stamp[_ROUND])  # type: ignore[arg-type]
        newest = self._newest(before - 1)
        if 0 <= in_memory < before and (newest is None or in_memory >= newest.round):
            return {
                str(name): dict(record.to_torch_state_dict())
                for name, record in records.array_records.items()
            }
        if newest is None or self._folder is None:
            return {}
        path = self._folder / newest.name
        try:
            joined = load_adapter(path)
        except AdapterError as error:
            raise UserError(f"client state: {error}") from error
        return {name: take_part(joined, name) for name in {key.split("/")[0] for key in joined}}

    def keep(self, server_round: int, parts: Mapping[str, Adapter]) -> None:
        """Keep ``parts`` by name, all of them or none; nothing where there is none.

        Without room on the disk they are kept in memory alone, with a warning.
        """
        if not parts:
            return
        records = self._context.state
        for name in records.array_records.keys() - parts.keys():
            del records[name]
        for name, adapter in parts.items():
            records[name] = ArrayRecord(adapter)
        records[_STAMP] = ConfigRecord({_ROUND: server_round})
        self.place = MEMORY
        try:
            self._write(_Version(server_round, self._context.run_id), join_parts(parts))
        except OSError as error:
            logger.warning("Client %s: its state is kept in memory alone: %s", self._client, error)

    @cached_property
    def _folder(self) -> Path | None:
        context = self._context
        state_dir = str(context.node_config.get("state-dir", ""))
        if state_dir:
            origin = str(self._lineage.origin(context.run_id))
            return user_path(state_dir) / origin / _folder_name(self._client)
        if "dataset" in context.node_config:
            return None
        run = shared_directory(context.run_config, context.run_id)
        return None if run is None else run / "clients" / _folder_name(self._client)

    def _versions(self) -> list[_Version]:
        """Return the files that count, the newest one last."""
        if self._folder is None or not self._folder.is_dir():
            return []
        found = []
        for path in self._folder.glob("*-*.safetensors"):
            number, _, run_id = path.stem.partition("-")
            if number.isdecimal() and run_id.isdecimal():
                found.append(_Version(int(number), int(run_id)))
        here = self._context.run_id
        return sorted(v for v in found if self._lineage.counts(v.run_id, v.round, here))

    def _newest(self, last: int) -> _Version | None:
        return max((v for v in self._versions() if v.round <= last), default=None)

    def _write(self, version: _Version, joined: Adapter) -> None:
        """Write a file, then take away those that no resume can ask for."""
        folder = self._folder
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / version.name) as part:
            save_adapter(joined, part)
            flush(part)
        self.place = DISK
        rounds = self._lineage.checkpoints
        wanted = {version.name, *(v.name for v in map(self._newest, rounds) if v is not None)}
        for path in folder.iterdir():
            if path.name not in wanted:
                path.unlink(missing_ok=True)


def _folder_name(client: str) -> str:
    """Return a name that leads to no other folder and that file systems take."""
    name = quote(client, safe="").replace(".", "%2E")
    if len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]}-{hashlib.sha256(client.encode()).hexdigest()[:16]}"
