"""Fetching the data sets that are published as archives: what there is, how large it is, and where it goes."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from instseg.data.archives.download import download, unpack_zip
from instseg.data.sets import balloon, pennfudan
from instseg.errors import DataError, unknown_name
from instseg.progress import say

_SLACK = 1.02  # file systems give whole blocks to files


class Archive(NamedTuple):
    """One zip file.

    Attributes:
        url: where it is.
        top: the folder in it.
        size: in bytes; where ``sha256`` is None it is about so large and not checked.
        unpacked: about how many bytes ``top`` takes.
        sha256: of the file, in hex; None where nobody says.
    """

    url: str
    top: str
    size: int
    unpacked: int
    sha256: str | None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[-1]


class Source(NamedTuple):
    """A data set to fetch: the folder that holds it under a root, what is in that, and the archives it comes in."""

    folder: str
    parts: tuple[str, ...]
    archives: tuple[Archive, ...]


_COCO = "http://images.cocodataset.org"

# The publishers give no checksums. COCO's sizes and SHA-256 are those that independent public projects record
# alike, KerasCV's and ParlAI's lists of downloads among them; of balloon too few do, so it has none.
SOURCES: dict[str, Source] = {
    "balloon": Source(
        balloon.FOLDER,
        ("train", "val"),
        (
            Archive(
                balloon.URL,
                top=balloon.FOLDER,
                size=39_000_000,
                unpacked=40_000_000,
                sha256=None,
            ),
        ),
    ),
    # small ones first: what is wrong with the network or the disk shows at once
    "coco": Source(
        "coco",
        ("annotations", "val2017", "train2017"),
        (
            Archive(
                f"{_COCO}/annotations/annotations_trainval2017.zip",
                top="annotations",
                size=252_907_541,
                unpacked=850_000_000,
                sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            ),
            Archive(
                f"{_COCO}/zips/val2017.zip",
                top="val2017",
                size=815_585_330,
                unpacked=815_000_000,
                sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            ),
            Archive(
                f"{_COCO}/zips/train2017.zip",
                top="train2017",
                size=19_336_861_798,
                unpacked=19_330_000_000,
                sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            ),
        ),
    ),
    "pennfudan": Source(
        pennfudan.FOLDER,
        ("PNGImages", "PedMasks"),
        (
            Archive(
                pennfudan.URL,
                top=pennfudan.FOLDER,
                size=pennfudan.SIZE,
                unpacked=54_000_000,
                sha256=pennfudan.SHA256,
            ),
        ),
    ),
}


def fetch(name: str, root: Path, *, progress: bool = True) -> Path:
    """Bring a data set to ``root / <its folder>``, unless it is there or ``root`` is that folder.

    Free disk is checked first. A broken-off download goes on where it stopped, a killed unpacking begins again, and
    what is whole is kept. An archive is deleted once it is unpacked; one that lay there before, such as one that was
    downloaded by hand, is not.

    Args:
        name: one of :data:`SOURCES`.
        root: where to.
        progress: show progress bars.

    Returns:
        The data set's folder.

    Raises:
        UserError: no such data set.
        DataError: no room, no network, a wrong or damaged archive, half a data set that came from elsewhere, or
            another process is at it; in one line that says what to do.
    """
    if name not in SOURCES:
        raise unknown_name("data set to download", name, SOURCES)
    source = SOURCES[name]
    folder = root / source.folder
    for there in (folder, root):
        if all((there / part).is_dir() for part in source.parts):
            return there
    todo = [archive for archive in source.archives if not (_into(source, archive, root) / archive.top).is_dir()]
    if not todo:
        missing = next(part for part in source.parts if not (folder / part).is_dir())
        raise DataError(f"{folder} is there and has no {missing}: complete it, or move it away to have it fetched")
    with _alone(root):
        _check_room(name, todo, folder, root)
        for archive in todo:
            _bring(archive, root, _into(source, archive, root), progress)
    return folder


def _bring(archive: Archive, root: Path, into: Path, progress: bool) -> None:
    path = root / archive.name
    was_there = path.exists()
    size = archive.size if archive.sha256 else None
    download(archive.url, path, sha256=archive.sha256, size=size, progress=progress)
    # nobody else is here, so what an unpacking left behind is of no use to anybody
    unpack_zip(path, into, top=archive.top, stale=0, progress=progress)
    if was_there:
        say(f"{path} is unpacked and no longer needed; it was there before, so it is kept")
    else:
        path.unlink()


def _into(source: Source, archive: Archive, root: Path) -> Path:
    """The folder that an archive's top folder goes to."""
    return root if archive.top == source.folder else root / source.folder


def _check_room(name: str, archives: list[Archive], folder: Path, root: Path) -> None:
    """Raise a DataError where the disk can't hold what is to come; say how much that is where it can."""
    paths = [root / archive.name for archive in archives]
    have = [max(_size(path), _size(path.with_name(path.name + ".part"))) for path in paths]
    unpacked = [_SLACK * archive.unpacked for archive in archives]
    rest = [max(archive.size - there, 0) for archive, there in zip(archives, have, strict=True)]
    # an archive is gone before the next one comes
    needed = max(sum(unpacked[: i + 1]) + rest[i] for i in range(len(archives)))
    free = shutil.disk_usage(root).free
    if free < needed:
        raise DataError(
            f"{name} needs {_gigabytes(needed)} of free disk while it is unpacked, {root} has {_gigabytes(free)}: "
            "make room, or say data_root=DIR on another disk"
        )
    say(
        f"{name}: {_gigabytes(sum(rest))} to download, {_gigabytes(sum(unpacked))} when unpacked to {folder}, "
        f"{_gigabytes(free)} free; archives are deleted once unpacked"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _gigabytes(size: float) -> str:
    """In GiB, which is what data sets' own pages mean by GB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


@contextmanager
def _alone(root: Path) -> Iterator[None]:
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
            raise DataError(f"another process fetches a data set to {root}: wait until it is done") from None
        yield
