"""Fetching data sets that are published as archives, with room on the disk checked before."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from instseg.data.archives.download import download, unpack_zip
from instseg.errors import DataError
from instseg.progress import say

_SLACK = 1.02  # file systems give whole blocks to files


class Archive(NamedTuple):
    """One zip file."""

    url: str
    top: str  # the folder in it
    size: int  # in bytes; where ``sha256`` is None it is about so large and not checked
    unpacked: int  # about how many bytes ``top`` takes
    sha256: str | None = None  # of the file, in hex; None where nobody publishes it

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[-1]


class Source(NamedTuple):
    """Where a data set is published."""

    folder: str  # the name of the data set's folder
    parts: tuple[str, ...]  # the folders in it
    archives: tuple[Archive, ...]  # what they are unpacked from, in the order of downloading
    automatic: bool = False  # so small that it is downloaded when it is used and no root is given


def fetch(source: Source, root: Path) -> Path:
    """Bring a data set to ``root / source.folder``, unless it is there or ``root`` is that folder.

    Free disk is checked first. A broken-off download goes on where it stopped, a killed unpacking begins again, and
    what is whole is kept. An archive is deleted once it is unpacked; one that lay there before, such as one that was
    downloaded by hand, is not.

    Returns:
        The data set's folder.

    Raises:
        DataError: no room, no network, a wrong or damaged archive, half a data set that came from elsewhere, or
            another process is fetching to ``root``; in one line that says what to do.
    """
    folder = root / source.folder
    for path in (folder, root):
        if all((path / part).is_dir() for part in source.parts):
            return path
    into = {archive: root if archive.top == source.folder else folder for archive in source.archives}
    todo = [archive for archive in source.archives if not (into[archive] / archive.top).is_dir()]
    if not todo:
        missing = next(part for part in source.parts if not (folder / part).is_dir())
        raise DataError(f"{folder} is there and has no {missing}: complete it, or move it away to have it fetched")
    with _locked(root):
        _check_room(todo, folder, root)
        for archive in todo:
            path = root / archive.name
            by_hand = path.exists()
            size = archive.size if archive.sha256 else None
            download(archive.url, path, sha256=archive.sha256, size=size)
            unpack_zip(path, into[archive], top=archive.top)
            if by_hand:
                say(f"{path} is unpacked and no longer needed; it was there before, so it is kept")
            else:
                path.unlink()
    return folder


def _check_room(archives: list[Archive], folder: Path, root: Path) -> None:
    """Raise a DataError where the disk can't hold what is to be fetched; else say how much that is."""
    unpacked = [_SLACK * archive.unpacked for archive in archives]
    rest = []
    for archive in archives:
        paths = [root / archive.name, root / f"{archive.name}.part"]
        have = max((path.stat().st_size for path in paths if path.exists()), default=0)
        rest.append(max(archive.size - have, 0))
    # an archive is gone before the next one comes
    needed = max(sum(unpacked[: i + 1]) + rest[i] for i in range(len(archives)))
    free = shutil.disk_usage(root).free
    if free < needed:
        raise DataError(
            f"{folder.name} needs {_gigabytes(needed)} of free disk while it is unpacked, {root} has "
            f"{_gigabytes(free)}: make room, or say data_root=DIR on another disk"
        )
    say(
        f"{folder.name}: {_gigabytes(sum(rest))} to download, {_gigabytes(sum(unpacked))} when unpacked to {folder}, "
        f"{_gigabytes(free)} free; archives are deleted once unpacked"
    )


def _gigabytes(size: float) -> str:
    """In GiB, which is what data sets' own pages mean by GB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold a lock on ``root``, which is made; the system releases it even when the process is killed."""
    path = root / ".fetch.lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = path.open("a")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"another process is fetching a data set to {root}: wait until it is done") from None
        yield
