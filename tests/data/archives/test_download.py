"""Downloads and archives against a server on this machine, with all that can go wrong with them."""

import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from instseg.data.archives.download import download, unpack_zip

CONTENT = np.random.default_rng(0).bytes(1_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Refused = Callable[..., str]


class Handler(BaseHTTPRequestHandler):
    """``/whole`` and ``/breaks`` know Range, ``/plain`` and ``/shifted`` do not do as asked; ``/breaks`` ends
    halfway unless asked to go on."""

    asked: list[str | None]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.asked.append(asked)
        if self.path == "/none":
            self.send_error(404)
            return
        start = int(re.findall(r"\d+", asked)[0]) if asked and self.path != "/plain" else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            said = 0 if self.path == "/shifted" else start
            self.send_header("Content-Range", f"bytes {said}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = len(CONTENT) // 2 if self.path == "/breaks" and not start else len(CONTENT)
        self.wfile.write(CONTENT[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_checked_and_not_fetched_again(server: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    for _ in range(2):
        assert download(f"{server}/whole", path, sha256=SHA256.upper(), size=len(CONTENT)) == path
        assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["a.bin"]
    assert Handler.asked == [None]


def test_a_broken_off_transfer_goes_on_where_it_stopped(server: str, tmp_path: Path, refused: Refused) -> None:
    path, url, half = tmp_path / "a.bin", f"{server}/breaks", len(CONTENT) // 2
    refused(lambda: download(url, path, sha256=SHA256), url, "broke off", half, len(CONTENT), path)
    assert not path.exists()
    assert part_of(path).stat().st_size == half
    download(url, path, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert not part_of(path).exists()
    assert Handler.asked == [None, f"bytes={half}-"]


@pytest.mark.parametrize("route", ["plain", "shifted"])
def test_a_server_that_does_not_go_on_sends_the_whole_file(server: str, tmp_path: Path, route: str) -> None:
    path = tmp_path / "a.bin"
    part_of(path).write_bytes(CONTENT[:1000])
    download(f"{server}/{route}", path, sha256=SHA256)
    assert path.read_bytes() == CONTENT


def test_a_part_that_is_whole_or_too_long_is_not_in_the_way(server: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    part_of(path).write_bytes(CONTENT)
    download(f"{server}/whole", path, sha256=SHA256)
    assert Handler.asked == []
    path.unlink()
    part_of(path).write_bytes(CONTENT + b"more")
    download(f"{server}/whole", path, sha256=SHA256)
    assert path.read_bytes() == CONTENT


def test_another_file_than_expected_is_not_kept(server: str, tmp_path: Path, refused: Refused) -> None:
    path, url = tmp_path / "a.bin", f"{server}/whole"
    refused(lambda: download(url, path, sha256="0" * 64), url, path, SHA256, "0" * 64)
    refused(lambda: download(url, path, size=5), url, path, "5", len(CONTENT))
    part_of(path).write_bytes(b"x" * 1000)  # of another file: the pieces do not belong together
    refused(lambda: download(url, path, sha256=SHA256), url, "SHA-256")
    assert names(tmp_path) == []
    download(url, path, sha256=SHA256)


def test_a_wrong_file_that_is_there_is_named_and_left_alone(server: str, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"mine")
    refused(lambda: download(f"{server}/whole", path, sha256=SHA256), path, "delete it")
    assert path.read_bytes() == b"mine"


def test_network_trouble_is_one_line_with_the_way_by_hand(server: str, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "a.bin"
    by_hand = f"download it by hand and put it at {path}"
    refused(lambda: download(f"{server}/none", path), f"{server}/none", "404", by_hand)
    closed = "http://127.0.0.1:9/a.bin"
    refused(lambda: download(closed, path), closed, "refused", by_hand)
    refused(lambda: download("no-address", path), "no-address", by_hand)
    (tmp_path / "file").touch()
    refused(lambda: download(f"{server}/whole", tmp_path / "file" / "a.bin"), "cannot write")
    assert not path.exists()


FILES = {f"set/images/{i}.txt": os.urandom(2000) for i in range(20)}


def make_zip(path: Path, more: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in (FILES | (more or {})).items():
            file.writestr(name, content)
    return path


def assert_nothing_unpacked(folder: Path) -> None:
    assert [name for name in names(folder) if not name.endswith(".zip")] == []


def test_a_folder_is_unpacked_whole_and_once(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"__MACOSX/junk": b"junk"})
    folder = tmp_path / "out"
    assert unpack_zip(archive, folder, top="set") == folder / "set"
    assert names(folder) == ["set"]
    for name, content in FILES.items():
        assert (folder / name).read_bytes() == content
    (folder / "set" / "images" / "0.txt").write_bytes(b"changed")
    unpack_zip(archive, folder, top="set")
    assert (folder / "set" / "images" / "0.txt").read_bytes() == b"changed"


@pytest.mark.parametrize(
    "name", ["../evil.txt", "set/../../evil.txt", "/evil.txt", "..\\evil.txt", "\\evil.txt", "C:\\evil.txt"]
)
def test_a_member_that_leaves_the_folder_is_refused(tmp_path: Path, refused: Refused, name: str) -> None:
    folder = tmp_path / "deep" / "out"
    folder.mkdir(parents=True)
    archive = make_zip(folder / "a.zip", {name: b"evil"})
    refused(lambda: unpack_zip(archive, folder, top="set"), archive, "evil.txt")
    assert_nothing_unpacked(folder)
    assert not list(tmp_path.rglob("evil*"))


def test_a_link_in_an_archive_is_refused(tmp_path: Path, refused: Refused) -> None:
    archive = make_zip(tmp_path / "a.zip")
    link = zipfile.ZipInfo("set/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(link, "/etc/passwd")
    refused(lambda: unpack_zip(archive, tmp_path, top="set"), archive, "set/link", "link")
    assert_nothing_unpacked(tmp_path)


def test_an_archive_that_grows_without_bound_is_refused(tmp_path: Path, refused: Refused) -> None:
    archive = make_zip(tmp_path / "a.zip", {"set/zeros": bytes(20_000_000)})
    refused(lambda: unpack_zip(archive, tmp_path, top="set"), archive, "50 times")
    assert_nothing_unpacked(tmp_path)


def test_a_damaged_or_foreign_archive_is_refused(tmp_path: Path, refused: Refused) -> None:
    archive = make_zip(tmp_path / "a.zip")
    refused(lambda: unpack_zip(archive, tmp_path, top="other"), archive, "no folder other")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    refused(lambda: unpack_zip(archive, tmp_path, top="set"), archive, "truncated")
    at = whole.index(b"set/images/7.txt") + 500
    archive.write_bytes(whole[:at] + bytes(40) + whole[at + 40 :])
    refused(lambda: unpack_zip(archive, tmp_path, top="set"), archive, "set/images/7.txt")
    refused(lambda: unpack_zip(tmp_path / "none.zip", tmp_path, top="set"), "none.zip", "No such file")
    assert_nothing_unpacked(tmp_path)


def killed(code: str, *arguments: object) -> None:
    """Run code that kills itself."""
    result = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=False)
    assert result.returncode == -signal.SIGKILL


def test_a_killed_unpacking_is_not_taken_for_whole(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip")
    killed(
        """
import os, signal, sys, zipfile
from pathlib import Path
from instseg.data.archives.download import unpack_zip
extract, count = zipfile.ZipFile.extract, 0
def extract_some(*arguments):
    global count
    count += 1
    if count > 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return extract(*arguments)
zipfile.ZipFile.extract = extract_some
unpack_zip(Path(sys.argv[1]), Path(sys.argv[1]).parent, top="set")
""",
        archive,
    )
    (left,) = [p for p in tmp_path.iterdir() if p != archive]
    assert left.name.startswith(".set.")
    assert len(list(left.rglob("*.txt"))) == 10
    unpack_zip(archive, tmp_path, top="set")
    assert len(list((tmp_path / "set").rglob("*.txt"))) == len(FILES)
    assert not left.exists()


def test_a_killed_download_goes_on_later(server: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    killed(
        """
import http.client, os, signal, sys
from pathlib import Path
from instseg.data.archives.download import download
read, count = http.client.HTTPResponse.read, 0
def read_some(*arguments):
    global count
    count += 1
    if count > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(*arguments)
http.client.HTTPResponse.read = read_some
download(sys.argv[1], Path(sys.argv[2]))
""",
        f"{server}/whole",
        path,
    )
    assert not path.exists()
    assert part_of(path).exists()
    download(f"{server}/whole", path, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert Handler.asked[1] is not None
