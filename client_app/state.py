"""What a client keeps between rounds: in Flower's context, and in the node's folder if it has one.

Flower keeps a context's state in the memory of the SuperNode process, so it is lost when the node
restarts. A node config with ``state-dir`` also writes it to disk, under the run and the client, and
a restarted node goes on from there.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from flwr.app import ArrayRecord, Context

from fl2ora.clip_tuning.adapter import Adapter, AdapterError, load_adapter, save_adapter
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import user_path


class ClientState:
    """Named adapters of one client in one run.

    Args:
        context: Flower's, of this node, whose config ``check_node_config`` has passed.
        client: the client's key.
    """

    def __init__(self, context: Context, client: str) -> None:
        self._records = context.state
        folder = str(context.node_config.get("state-dir", ""))
        self._folder = (
            user_path(folder) / str(context.run_id) / quote(client, safe="") if folder else None
        )

    def load(self, name: str) -> Adapter:
        """Return what was kept under ``name``; empty if nothing was.

        Raises:
            UserError: the file is there but damaged.
        """
        record = self._records.array_records.get(name)
        if record is not None:
            return dict(record.to_torch_state_dict())
        path = self._path(name)
        if path is None or not path.exists():
            return {}
        try:
            return load_adapter(path)
        except AdapterError as error:
            raise UserError(f"client state: {error}") from error

    def keep(self, name: str, adapter: Adapter) -> None:
        """Keep ``adapter`` under ``name``; the file is replaced in one step or not at all."""
        self._records[name] = ArrayRecord(adapter)
        path = self._path(name)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            save_adapter(adapter, fresh)
            os.replace(fresh, path)

    def _path(self, name: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{name}.safetensors"
