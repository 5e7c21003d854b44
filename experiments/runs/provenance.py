"""Where a number comes from: code, libraries, machine."""

import platform
import re
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "torchvision", "pycocotools", "numpy", "hydra-core")


def provenance(device: torch.device) -> dict[str, Any]:
    """Commit, whether the code differs from it, device, and versions, as they are when this is called."""
    commit, dirty = _code()
    return {
        "commit": commit,
        "dirty": dirty,
        "device": device_name(device),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }


def now() -> str:
    """The time, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with the number of threads torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name.*?:(.*)", info.read_text() if info.exists() else "", re.MULTILINE)
    processor = " ".join(model[1].split()) if model else platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} threads"


@lru_cache
def _code() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this code lies in, and whether its code was changed since; None, None where it
    is no checkout. Asked once a process, so that all its runs say the same."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[2])]
    queries = ["rev-parse", "HEAD"], ["status", "--porcelain", "--", "experiments", "heads", "instseg"]
    try:
        commit, changed = (
            subprocess.run([*git, *query], capture_output=True, text=True, check=True).stdout.strip()
            for query in queries
        )
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(changed)
