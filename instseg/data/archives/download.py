"""Fetching and unpacking a data set's archive, so that an interruption never leaves half of it as whole."""

import hashlib
import http.client
import shutil
import stat
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from instseg.errors import DataError
from instseg.progress import bar

DEFAULT_DIR = "data"
"""Where data sets are fetched to, and looked for, when no root is given."""
_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte
_STALE = 3600.0  # seconds after which a temporary folder can only be a killed run's
_DELAY = 2.0  # seconds before a progress bar is shown
_MAX_GROWTH = 50  # an image archive unpacks to little more than its own size


def download(
    url: str, path: Path, *, sha256: str | None = None, size: int | None = None, progress: bool = True
) -> Path:
    """Fetch ``url`` to ``path``; a file that is there already is checked and kept.

    The bytes go to ``path`` + ``.part``, which gets its name only when whole and checked. A ``.part`` left by
    a transfer that broke off is continued where the server supports it; give ``sha256`` or ``size`` to be sure
    that the two pieces belong together.

    Args:
        url: http, https or file address.
        path: where the file goes; its folder is made.
        sha256: the file's SHA-256 in hex.
        size: the file's size in bytes.
        progress: show a progress bar (on terminals only).

    Returns:
        ``path``.

    Raises:
        DataError: the file cannot be fetched or is not the one expected; the line says how to get it by hand.
    """
    if path.exists():
        if fault := _fault(path, sha256, size, progress):
            raise DataError(f"{path} {fault}; delete it to have it fetched again from {url}")
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        known = sha256 is not None or size is not None
        if not (known and part.exists() and _fault(part, sha256, size, progress) is None):
            _fetch(url, part, path, progress)
        fault = _fault(part, sha256, size, progress)
        if fault:
            part.unlink()
        else:
            part.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {part}: {_reason(error)}") from None
    if fault:
        raise DataError(f"the file at {url} {fault}; it was not kept: {_by_hand(path)}")
    return path


def unpack_zip(archive: Path, folder: Path, *, top: str, stale: float = _STALE, progress: bool = True) -> Path:
    """Unpack the folder ``top`` of a zip file to ``folder / top``; where that exists already, do nothing.

    The members go to a temporary folder beside it that gets its name only when whole. Temporary folders of
    killed runs are removed once they are old. Safe members outside ``top`` are ignored.

    Args:
        archive: the zip file.
        folder: where ``top`` goes; it is made.
        top: the folder's name in the archive.
        stale: age in seconds from which a temporary folder can only be a killed run's.
        progress: show a progress bar.

    Returns:
        ``folder / top``.

    Raises:
        DataError: the archive is damaged, has no ``top``, would grow to more than 50 times its size, or has a
            member that is encrypted, a link, or would land outside ``folder``. Nothing is left behind.
    """
    whole = folder / top
    if whole.exists():
        return whole
    prefix = f".{top}.unpacking-"
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{prefix}*"):
            if time.time() - left.stat().st_mtime >= stale:
                shutil.rmtree(left, ignore_errors=True)
        with zipfile.ZipFile(archive) as file:
            members = _checked_members(file, archive, top)
            temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
            title = f"unpack {archive.name}"
            for member in bar(iterable=members, desc=title, unit=" files", delay=_DELAY, disable=not progress):
                _extract(file, member, temporary, archive)
        (temporary / top).rename(whole)
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive} is truncated or no zip file ({_reason(error)}); delete it and try again") from None
    except OSError as error:
        if not whole.exists():  # else another process has unpacked it meanwhile
            raise DataError(f"cannot unpack {archive} to {whole}: {_reason(error)}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return whole


def _fetch(url: str, part: Path, path: Path, progress: bool) -> None:
    """Complete ``part`` from ``url``."""
    have = part.stat().st_size if part.exists() else 0
    response = _open(url, have, path)
    if response is None:  # the server has nothing from there on, so the part does not belong to this file
        part.unlink()
        have = 0
        response = _open(url, have, path)
        assert response is not None
    with response:
        if getattr(response, "status", None) != http.client.PARTIAL_CONTENT:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else None
        with (
            part.open("ab" if have else "wb") as file,
            bar(total=total, initial=have, unit="B", unit_scale=True, desc=path.name, disable=not progress) as shown,
        ):
            for chunk in _chunks(response, url, path):
                file.write(chunk)
                shown.update(len(chunk))
                have += len(chunk)
    if total is not None and have < total:
        raise DataError(
            f"the download of {url} broke off after {have} of {total} bytes; run again to go on from there, "
            f"or {_by_hand(path)}"
        )


def _open(url: str, start: int, path: Path) -> Any:
    """The response from byte ``start`` on, or None where the server has no such bytes or other ones."""
    headers = {"User-Agent": "instseg"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise DataError(f"cannot download {url}: HTTP {error.code} {error.reason}; {_by_hand(path)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"cannot download {url}: {_reason(error)}; {_by_hand(path)}") from None
    if start and response.status == http.client.PARTIAL_CONTENT:
        given = response.headers.get("Content-Range", "")
        if not given.startswith(f"bytes {start}-"):
            response.close()
            return None
    return response


def _chunks(response: Any, url: str, path: Path) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(
                f"the download of {url} broke off: {_reason(error)}; run again to go on from there, or {_by_hand(path)}"
            ) from None
        if not chunk:
            return
        yield chunk


def _fault(path: Path, sha256: str | None, size: int | None, progress: bool) -> str | None:
    """What is wrong with a whole file, or None."""
    actual_size = path.stat().st_size
    if size is not None and actual_size != size:
        return f"has {actual_size} bytes, not the expected {size}"
    if sha256 is not None:
        digest = hashlib.sha256()
        with (
            path.open("rb") as file,
            bar(
                total=actual_size,
                unit="B",
                unit_scale=True,
                desc=f"check {path.name}",
                delay=_DELAY,
                disable=not progress,
            ) as shown,
        ):
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                shown.update(len(chunk))
        actual = digest.hexdigest()
        if actual != sha256.lower():
            return f"has SHA-256 {actual}, not the expected {sha256.lower()}"
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


def _extract(file: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, archive: Path) -> None:
    try:
        file.extract(member, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive}: member {member.filename!r} cannot be unpacked: {_reason(error)}") from None


def _by_hand(path: Path) -> str:
    return f"download it by hand and put it at {path}"


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):  # URLError wraps what went wrong
        error = inner
    text = str(getattr(error, "strerror", None) or inner or error)
    return " ".join(text.split()) or type(error).__name__
