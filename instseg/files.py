"""Files that are either complete or absent."""

import os
from pathlib import Path


def write_atomically(path: Path, data: str | bytes) -> Path:
    """Write a whole file or nothing, so that no reader ever sees half of it; makes the folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
