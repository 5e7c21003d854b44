"""From the names in an annotation file to the files in a folder, whatever tool wrote them."""

import os
from pathlib import Path
from urllib.parse import unquote


class FileFinder:
    """Finds files by listing each folder once, as asking for every file takes minutes on network disks.

    Tools write names relative to folders of their own, with Windows' separators or percent-encoded as in a URL. So a
    name is tried as it is written, then without its first folder, and so on; then decoded.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[str, set[str]] = {}

    def find(self, name: str) -> str | None:
        """The file's path relative to the folder, with forward slashes; None where there is none."""
        for text in dict.fromkeys((name, unquote(name))):
            parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
            if ".." in parts:
                parts = parts[len(parts) - parts[::-1].index("..") :]
            for start in range(len(parts)):
                if parts[-1] in self._files("/".join(parts[start:-1])):
                    return "/".join(parts[start:])
        return None

    def elsewhere(self, name: str) -> Path | None:
        """A subfolder that has a file of this name, whatever folders the name begins with; slow."""
        last = unquote(name).replace("\\", "/").rpartition("/")[2]
        return next((Path(at) for at, _, files in os.walk(self._folder) if last in files), None)

    def _files(self, parent: str) -> set[str]:
        if parent not in self._listed:
            try:
                self._listed[parent] = set(os.listdir(self._folder / parent))  # noqa: PTH208
            except (OSError, ValueError):
                self._listed[parent] = set()
        return self._listed[parent]
