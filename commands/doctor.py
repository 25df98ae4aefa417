"""``fl2ora doctor``: what this machine has, and what is wrong with it."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from pathlib import Path

import psutil

from fl2ora.commands.checks_table import Check, run_checks
from fl2ora.commands.consoles import console_for
from fl2ora.experiment.fingerprint import code_fingerprint, code_root, library_versions

_GIB = 2**30
_LEAST_DISK_GIB = 2
_LEAST_MEMORY_GIB = 4


def doctor() -> None:
    """Say what this machine has (versions, devices, Ray, Flower, disk) and what is wrong."""
    run_checks(console_for(stderr=False), "fl2ora doctor", _CHECKS)


def _python() -> tuple[str, str]:
    found = f"{platform.python_version()} at {sys.executable}"
    return found, "" if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed"


def _libraries() -> tuple[str, str]:
    versions = library_versions()
    missing = [name for name, version in versions.items() if version == "missing"]
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    return found, f"missing: {', '.join(missing)}" if missing else ""


def _flower() -> tuple[str, str]:
    version = library_versions()["flwr"]
    problem = "" if version.startswith("1.41.") else "flwr 1.41 is needed (>=1.41,<1.42)"
    tool = Path(sys.executable).parent / "flower-superlink"
    if not problem and not tool.exists() and shutil.which("flower-superlink") is None:
        problem = "flower-superlink is not on the path"
    return version, problem


def _ray() -> tuple[str, str]:
    version = importlib.import_module("ray").__version__
    return version, ""


def _devices() -> tuple[str, str]:
    torch = importlib.import_module("torch")
    names = [f"cpu ({os.cpu_count()} cores)"]
    names += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return ", ".join(names), ""


def _memory() -> tuple[str, str]:
    available = psutil.virtual_memory().available / _GIB
    problem = "" if available >= _LEAST_MEMORY_GIB else f"under {_LEAST_MEMORY_GIB} GiB available"
    return f"{available:.1f} GiB available", problem


def _disk() -> tuple[str, str]:
    free = shutil.disk_usage(Path.cwd()).free / _GIB
    problem = "" if free >= _LEAST_DISK_GIB else f"under {_LEAST_DISK_GIB} GiB free"
    return f"{free:.1f} GiB free in {Path.cwd()}", problem


def _code() -> tuple[str, str]:
    return f"{code_fingerprint()} at {code_root()}", ""


def _model() -> tuple[str, str]:
    clip = importlib.import_module("fl2ora.clip_tuning.clip").load_clip("embedded")
    count = sum(parameter.numel() for parameter in clip.model.parameters())
    return f"embedded CLIP, {count:,} parameters", ""


_CHECKS: dict[str, Check] = {
    "Python": _python,
    "libraries": _libraries,
    "Flower": _flower,
    "Ray": _ray,
    "devices": _devices,
    "memory": _memory,
    "disk": _disk,
    "code": _code,
    "model": _model,
}
