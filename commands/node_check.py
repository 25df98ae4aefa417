"""``fl2ora node check``: whether a machine can take part in a run, before it joins."""

from __future__ import annotations

import shutil
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fl2ora.commands.checks_table import Check, run_checks
from fl2ora.commands.consoles import console_for
from fl2ora.commands.settings import read_settings
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.experiment.config import RunConfig, Value
from fl2ora.experiment.errors import UserError, shown
from fl2ora.experiment.fingerprint import code_fingerprint, code_root, library_versions
from fl2ora.experiment.paths import user_path

if TYPE_CHECKING:
    from fl2ora.client_app.node import Node

_CONNECT_SECONDS = 10.0
_LEAST_DISK_GIB = 1.0
_GIB = 2**30
_SOON = 14 * 24 * 3600  # seconds before a certificate ends that are worth a word


def check(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", show_default=False)] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set one key of the run; repeatable."),
    ] = None,
    node_config: Annotated[
        str, typer.Option(help="As flower-supernode takes it: KEY=VALUE ..., or a TOML file.")
    ] = "",
    superlink: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the SuperLink listens.")
    ] = "",
    root_certificates: Annotated[
        Path | None, typer.Option(help="The authority's certificate, for TLS.")
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(help="This node's key: --auth-supernode-private-key.")
    ] = None,
    verbose: Verbose = None,
) -> None:
    """Say what would keep this machine from taking part in a run, before it joins one.

    FILE and --set are those of the run; the other options those of flower-supernode. What is asked
    for is checked: the way to the SuperLink and its certificate, the key, the node config, this
    node's images, the model, one step of training on the device, and the disk.
    """
    set_verbosity(verbose)
    node = _Checked(read_settings(file, assignments or []), node_config)
    checks: dict[str, Check] = {"code": node.code}
    if superlink:
        checks["SuperLink"] = lambda: _connection(superlink, root_certificates)
    if private_key is not None:
        checks["key"] = lambda: _key(private_key)
    checks["node config"] = node.config
    if node.is_described():  # nothing else can be tried without
        checks |= {"data": node.data, "model": node.model, "training": node.training}
        checks["disk"] = node.disk
    run_checks(console_for(stderr=False), "fl2ora node check", checks)


class _Checked:
    """The node that the options describe; each method is one check of it."""

    def __init__(self, settings: Mapping[str, Value], text: str) -> None:
        self._settings = settings
        self._text = text

    @cached_property
    def _node(self) -> Node:
        from fl2ora.client_app.node import Node

        config = RunConfig.from_flat(self._settings)
        return Node.from_configs(config.flat(), self._values, node_id=0)

    @cached_property
    def _values(self) -> dict[str, Any]:
        from flwr.common.config import parse_config_args

        try:
            return parse_config_args([self._text] if self._text else None)
        except OSError as error:
            raise UserError(f"{self._text}: cannot be read: {error.strerror}") from None
        except Exception as error:  # Flower's parser raises what its parser of TOML does
            raise UserError(f"expected KEY=VALUE ... or a TOML file: {error}") from None

    def is_described(self) -> bool:
        """Return whether the run's settings and the node's config are right."""
        try:
            return self._node is not None
        except UserError:
            return False

    def code(self) -> tuple[str, str]:
        versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
        return f"{code_fingerprint()} at {code_root()}; {versions}", ""

    def config(self) -> tuple[str, str]:
        node = self._node
        held = "own images" if node.partition is None else f"share {node.partition}"
        kept = "" if "state-dir" in self._values else "; no state-dir: a restart forgets its state"
        return f"{node.key!r}, {held}{kept}", ""

    def data(self) -> tuple[str, str]:
        data, federation = self._node.data, self._node.federation
        names = federation.class_names
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        found = (
            f"{len(data.train):,} images to train on, {len(data.test):,} to test on, "
            f"{len(data.calibration):,} for calibrators; {len(names)} classes: {shown}"
        )
        return found, "" if len(data.train) else "no image to train on"

    def model(self) -> tuple[str, str]:
        model = self._node.classifier().clip
        count = sum(parameter.numel() for parameter in model.parameters())
        return f"{self._node.config.model}, {count:,} parameters, on {self._node.device}", ""

    def training(self) -> tuple[str, str]:
        """Train on one batch, which needs the memory that all others will."""
        import torch

        from fl2ora.client_app.tasks import training_plan
        from fl2ora.client_app.training import local_train
        from fl2ora.messages.train import TrainTask

        node = self._node
        if not len(node.data.train):
            return "nothing to train on", ""
        few = node.data.train.select(
            torch.arange(min(len(node.data.train), node.config.batch_size))
        )
        classifier = node.classifier()
        adapter = classifier.export()
        plan = replace(training_plan(node, TrainTask(adapter)), epochs=1)
        began = time.monotonic()
        try:
            with classifier.as_client({}):
                update, _ = local_train(classifier, few, plan, reference=node.reference)
        except RuntimeError as error:  # torch's of a device whose memory is too small is one
            return "", f"one batch of {len(few)} images: {error}"
        finally:
            classifier.restore(adapter)
        memory = ""
        if node.device.type == "cuda":
            memory = f", {torch.cuda.max_memory_allocated(node.device) / _GIB:.1f} GiB of the GPU's"
        seconds = time.monotonic() - began
        loss = update.metrics.get("loss", float("nan"))
        return f"{len(few)} images in {seconds:.1f} s{memory}, loss {loss:.3f}", ""

    def disk(self) -> tuple[str, str]:
        folders = [self._values[key] for key in ("state-dir", "cache-dir") if self._values.get(key)]
        found, problems = [], []
        for folder in [Path.cwd(), *map(Path, folders)]:
            there = next(path for path in (folder, *folder.parents) if path.exists())
            free = shutil.disk_usage(there).free / _GIB
            found.append(f"{free:.1f} GiB free in {there}")
            if free < _LEAST_DISK_GIB:
                problems.append(f"under {_LEAST_DISK_GIB:g} GiB free in {there}")
        return ", ".join(found), ", ".join(problems)


def _connection(address: str, authority: Path | None) -> tuple[str, str]:
    """Connect as a SuperNode would, and verify the certificate."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        return "", f"expected HOST:PORT, found {shown(address)}"
    try:
        context = None
        if authority is not None:
            context = ssl.create_default_context(cafile=str(user_path(str(authority))))
    except ssl.SSLError:
        return "", f"{authority}: expected certificates in PEM form"
    except UserError as error:
        return "", f"--root-certificates: {error}"
    except OSError as error:
        return "", f"{authority}: cannot be read: {error.strerror}"
    name = host.strip("[]")
    try:
        with socket.create_connection((name, int(port)), _CONNECT_SECONDS) as plain:
            if context is None:
                return f"{address} answers; TLS was not tried: no --root-certificates", ""
            with context.wrap_socket(plain, server_hostname=name) as secure:
                certificate = secure.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return "", f"{address}: its certificate does not fit {authority}: {error.verify_message}"
    except (OSError, UnicodeError) as error:
        return "", f"{shown(address)[1:-1]}: no connection: {error}"
    left = ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()
    problem = f"its certificate ends in {left / 86400:.0f} days" if left < _SOON else ""
    return f"{address}, certificate until {certificate['notAfter']}", problem


def _key(path: Path) -> tuple[str, str]:
    """Read the key as a SuperNode does, and say what must be registered."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_ssh_private_key,
    )

    wanted = "expected an ECDSA key without passphrase: ssh-keygen -t ecdsa -b 384 -N '' -f FILE"
    try:
        path = user_path(str(path))
        key = load_ssh_private_key(path.read_bytes(), None)
    except UserError as error:
        return "", f"--private-key: {error}"
    except OSError as error:
        return "", f"{path}: cannot be read: {error.strerror}"
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "", f"{path}: {wanted}"
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return "", f"{path}: {wanted}"
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    loose = path.stat().st_mode & 0o077
    problem = f"{path} can be read by others: chmod 600" if loose else ""
    return f"registered must be: {public[:32]}...{public[-12:]}", problem
