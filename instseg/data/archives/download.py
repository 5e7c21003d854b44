"""Fetching and unpacking a data set's archive, so that an interruption never leaves half of it as whole."""

import hashlib
import http.client
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from instseg.errors import DataError
from instseg.progress import bar

DEFAULT_DIR = "data"
"""Where data sets are fetched to, and looked for, when no root is given."""
_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte
_DELAY = 2.0  # seconds before a progress bar is shown
_MAX_GROWTH = 50  # an image archive unpacks to little more than its own size


def download(url: str, path: Path, *, sha256: str | None = None, size: int | None = None) -> Path:
    """Fetch ``url`` to ``path``, whose folder is made; a file that is there already is checked and kept.

    The bytes go to ``path`` + ``.part``, which gets its name only when whole and checked. A ``.part`` left by
    a transfer that broke off is continued where the server supports it; give ``sha256`` (in hex) or ``size`` (in bytes)
    to be sure that the two pieces belong together.

    Raises:
        DataError: the file cannot be fetched or is not the one expected; the line says how to get it by hand.
    """
    if path.exists():
        if fault := _fault(path, sha256, size):
            raise DataError(f"{path} {fault}; delete it to have it fetched again from {url}")
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        known = sha256 is not None or size is not None
        if not (known and part.exists() and _fault(part, sha256, size) is None):
            _fetch(url, part, path)
        fault = _fault(part, sha256, size)
        if fault:
            part.unlink()
        else:
            part.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {part}: {_reason(error)}") from None
    if fault:
        raise DataError(f"the file at {url} {fault}; it was not kept: {_by_hand(path)}")
    return path


def unpack_zip(archive: Path, folder: Path, *, top: str) -> Path:
    """Unpack the folder ``top`` of a zip file to ``folder / top``; where that exists already, do nothing.

    The members go to a temporary folder beside it that gets its name only when whole; temporary folders that a killed
    process left are removed, so only one process may unpack to ``folder`` at a time. Safe members outside ``top`` are
    ignored.

    Raises:
        DataError: the archive is damaged, has no ``top``, would grow to more than 50 times its size, or has a
            member that is encrypted, a link, or would land outside ``folder``. Nothing is left behind.
    """
    whole = folder / top
    if whole.exists():
        return whole
    prefix = f".{top}.unpacking-"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        with (
            zipfile.ZipFile(archive) as file,
            tempfile.TemporaryDirectory(prefix=prefix, dir=folder, ignore_cleanup_errors=True) as temporary,
        ):
            members = _checked_members(file, archive, top)
            for member in bar(iterable=members, desc=f"unpack {archive.name}", unit=" files", delay=_DELAY):
                try:
                    file.extract(member, temporary)
                except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                    line = f"{archive}: member {member.filename!r} cannot be unpacked: {_reason(error)}"
                    raise DataError(line) from None
            (Path(temporary) / top).rename(whole)
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive} is truncated or no zip file ({_reason(error)}); delete it and try again") from None
    except OSError as error:
        raise DataError(f"cannot unpack {archive} to {whole}: {_reason(error)}") from None
    return whole


def _fetch(url: str, part: Path, path: Path) -> None:
    """Complete ``part`` from ``url``."""
    response, have = _open(url, part.stat().st_size if part.exists() else 0, path)
    length = response.headers.get("Content-Length")
    total = have + int(length) if length and length.isdecimal() else None
    again = f"run again to go on from there, or {_by_hand(path)}"
    with (
        response,
        part.open("ab" if have else "wb") as file,
        bar(total=total, initial=have, unit="B", unit_scale=True, desc=path.name) as shown,
    ):
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise DataError(f"the download of {url} broke off: {_reason(error)}; {again}") from None
            if not chunk:
                break
            file.write(chunk)
            shown.update(len(chunk))
            have += len(chunk)
    if total is not None and have < total:
        raise DataError(f"the download of {url} broke off after {have} of {total} bytes; {again}")


def _open(url: str, start: int, path: Path) -> tuple[Any, int]:
    """The response, and the byte that it begins with: ``start``, or 0 where the server can't go on from there."""
    headers = {"User-Agent": "instseg", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _open(url, 0, path)
        raise DataError(f"cannot download {url}: HTTP {error.code} {error.reason}; {_by_hand(path)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"cannot download {url}: {_reason(error)}; {_by_hand(path)}") from None
    if not start or response.status != http.client.PARTIAL_CONTENT:
        return response, 0
    if response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        return response, start
    response.close()
    return _open(url, 0, path)


def _fault(path: Path, sha256: str | None, size: int | None) -> str | None:
    """What is wrong with a whole file, or None."""
    actual_size = path.stat().st_size
    if size is not None and actual_size != size:
        return f"has {actual_size} bytes, not the expected {size}"
    if sha256 is not None:
        digest = hashlib.sha256()
        title = f"check {path.name}"
        with (
            path.open("rb") as file,
            bar(total=actual_size, unit="B", unit_scale=True, desc=title, delay=_DELAY) as shown,
        ):
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                shown.update(len(chunk))
        if digest.hexdigest() != sha256.lower():
            return f"has SHA-256 {digest.hexdigest()}, not the expected {sha256.lower()}"
    return None


def _checked_members(file: zipfile.ZipFile, archive: Path, top: str) -> list[zipfile.ZipInfo]:
    """The members under ``top``, after all members have been checked."""
    members = file.infolist()
    for member in members:
        # ZipInfo turns os.sep into "/" and cuts names at NUL; the name as stored is what must be harmless.
        name = member.orig_filename
        kind = stat.S_IFMT(member.external_attr >> 16)
        fault = None
        if name.startswith(("/", "\\")) or ":" in name or "\0" in name:
            fault = "has an absolute or impossible path"
        elif ".." in PurePosixPath(name.replace("\\", "/")).parts:
            fault = "would be unpacked outside the folder"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "is a link or device"
        elif member.flag_bits & 1:
            fault = "is encrypted"
        if fault:
            raise DataError(f"{archive}: member {name!r} {fault}; nothing was unpacked")
    # zipfile never writes more than the stated size of a member, so a lying header is harmless.
    total, limit = sum(member.file_size for member in members), _MAX_GROWTH * archive.stat().st_size
    if total > limit:
        raise DataError(
            f"{archive} would unpack to {total} bytes, more than {_MAX_GROWTH} times its own size; nothing was unpacked"
        )
    wanted = [member for member in members if PurePosixPath(member.filename).parts[:1] == (top,)]
    if not any(not member.is_dir() for member in wanted):
        raise DataError(f"{archive} has no folder {top} with files in it")
    return wanted


def _by_hand(path: Path) -> str:
    return f"download it by hand and put it at {path}"


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):  # URLError wraps what went wrong
        error = inner
    text = str(getattr(error, "strerror", None) or inner or error)
    return " ".join(text.split()) or type(error).__name__
