"""Data sets from a server on this machine: whole ones, broken-off ones, and all that stands in the way of them."""

import hashlib
import io
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from instseg import data
from instseg.data.archives.fetch import Archive, Source, fetch
from instseg.errors import UserError

Refused = Callable[..., str]
PARTS = ("annotations", "val2017", "train2017")
FILES: dict[str, bytes] = {}


def zipped(*folders: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for folder in folders:
            for i in range(3):
                file.writestr(f"{folder}/{i}.jpg", np.random.default_rng(i).bytes(3000))
    return content.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Serves ``FILES`` with Range; of those in ``breaks`` only the first half, unless asked to go on."""

    breaks: set[str]
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        name, asked = self.path.rsplit("/", 1)[-1], self.headers.get("Range")
        self.asked.append((name, asked))
        if name not in FILES:
            self.send_error(404)
            return
        content = FILES[name]
        start = int(re.findall(r"\d+", asked)[0]) if asked else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : len(content) // 2 if name in self.breaks and not start else None])

    def log_message(self, format: str, *args: object) -> None:
        pass


class Served(NamedTuple):
    """A server's address, and two data sets on it: one of archives with a checksum, and one without."""

    url: str
    coco: Source
    balloon: Source


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "*")
    Handler.breaks, Handler.asked = set(), []
    FILES.clear()
    FILES.update({f"{top}.zip": zipped(top) for top in PARTS})
    FILES["balloon.zip"] = zipped("balloon/train", "balloon/val")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{running.server_port}"
        coco = Source("coco", PARTS, tuple(archive(url, top, checked=True) for top in PARTS))
        yield Served(url, coco, Source("balloon", ("train", "val"), (archive(url, "balloon", checked=False),)))
        running.shutdown()
        thread.join()


def archive(url: str, top: str, *, checked: bool) -> Archive:
    content = FILES[f"{top}.zip"]
    digest = hashlib.sha256(content).hexdigest() if checked else None
    return Archive(f"{url}/{top}.zip", top, len(content), 9000, digest)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".fetch.lock")


def test_archives_become_the_readers_layout_and_are_deleted(server: Served, tmp_path: Path) -> None:
    root = tmp_path / "new"
    for _ in range(2):
        assert fetch(server.coco, root) == root / "coco"
    assert names(root) == ["coco"]
    assert names(root / "coco") == sorted(PARTS)
    assert names(root / "coco" / "val2017") == ["0.jpg", "1.jpg", "2.jpg"]
    assert [name for name, _ in Handler.asked] == [f"{top}.zip" for top in PARTS]


def test_an_archive_may_be_the_data_set_s_folder(server: Served, tmp_path: Path) -> None:
    assert fetch(server.balloon, tmp_path) == tmp_path / "balloon"
    assert names(tmp_path) == ["balloon"]
    assert names(tmp_path / "balloon") == ["train", "val"]


def test_what_is_there_is_not_fetched(server: Served, tmp_path: Path) -> None:
    for part in PARTS:
        (tmp_path / "coco" / part).mkdir(parents=True)
    assert fetch(server.coco, tmp_path) == tmp_path / "coco"
    # as the readers take it: the data set's own folder
    assert fetch(server.coco, tmp_path / "coco") == tmp_path / "coco"
    assert Handler.asked == []
    shutil.rmtree(tmp_path / "coco" / "val2017")
    fetch(server.coco, tmp_path)
    assert [name for name, _ in Handler.asked] == ["val2017.zip"]


def test_a_broken_off_download_goes_on(server: Served, tmp_path: Path, refused: Refused) -> None:
    Handler.breaks.add("val2017.zip")
    refused(lambda: fetch(server.coco, tmp_path), "val2017.zip", "broke off", "run again")
    assert names(tmp_path) == ["coco", "val2017.zip.part"]
    assert names(tmp_path / "coco") == ["annotations"]
    Handler.asked.clear()
    fetch(server.coco, tmp_path)
    half = len(FILES["val2017.zip"]) // 2
    assert Handler.asked == [("val2017.zip", f"bytes={half}-"), ("train2017.zip", None)]
    assert names(tmp_path) == ["coco"]


def test_a_killed_unpacking_begins_again_and_leaves_nothing(server: Served, tmp_path: Path) -> None:
    left = tmp_path / "coco" / ".val2017.unpacking-x" / "val2017"
    left.mkdir(parents=True)
    (left / "0.jpg").write_bytes(b"half")
    fetch(server.coco, tmp_path)
    assert names(tmp_path / "coco") == sorted(PARTS)
    assert (tmp_path / "coco" / "val2017" / "0.jpg").stat().st_size == 3000


def test_an_archive_fetched_by_hand_is_used_and_kept(
    server: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "val2017.zip").write_bytes(FILES["val2017.zip"])
    fetch(server.coco, tmp_path)
    assert names(tmp_path) == ["coco", "val2017.zip"]
    assert "val2017.zip" not in [name for name, _ in Handler.asked]
    assert "no longer needed" in capfd.readouterr().err


def test_without_room_nothing_is_fetched(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    archives = server.coco.archives
    # all folders, and the last archive beside them: the others are gone by then
    needed = 1.02 * sum(archive.unpacked for archive in archives) + archives[-1].size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    refused(lambda: fetch(server.coco, tmp_path), "coco needs", "free disk", tmp_path, "data_root=")
    assert Handler.asked == [] and names(tmp_path) == []
    # what is there already needs no room
    (tmp_path / "train2017.zip.part").write_bytes(FILES["train2017.zip"][:1000])
    fetch(server.coco, tmp_path)


def test_a_wrong_or_damaged_archive_is_refused(server: Served, tmp_path: Path, refused: Refused) -> None:
    right = FILES["val2017.zip"]
    FILES["val2017.zip"] = right[:-1] + b"x"
    refused(lambda: fetch(server.coco, tmp_path), f"{server.url}/val2017.zip", "SHA-256", "by hand")
    FILES["balloon.zip"] = FILES["balloon.zip"][:4000]
    refused(lambda: fetch(server.balloon, tmp_path), tmp_path / "balloon.zip", "truncated", "delete it")
    assert names(tmp_path) == ["balloon.zip", "coco"]
    FILES["val2017.zip"] = right
    fetch(server.coco, tmp_path)


def test_without_a_network_the_way_by_hand_is_said(server: Served, tmp_path: Path, refused: Refused) -> None:
    del FILES["annotations.zip"]
    by_hand = f"put it at {tmp_path / 'annotations.zip'}"
    refused(lambda: fetch(server.coco, tmp_path), f"{server.url}/annotations.zip", "404", by_hand)
    (tmp_path / "file").touch()
    refused(lambda: fetch(server.coco, tmp_path / "file"), "cannot write", tmp_path / "file")


def test_half_a_data_set_from_elsewhere_is_not_touched(server: Served, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "balloon" / "train").mkdir(parents=True)
    refused(lambda: fetch(server.balloon, tmp_path), tmp_path / "balloon", "has no val", "move it away")


def test_two_processes_do_not_fetch_to_one_folder(server: Served, tmp_path: Path, refused: Refused) -> None:
    code = (
        f"import fcntl, time; lock = open({str(tmp_path / '.fetch.lock')!r}, 'a'); fcntl.lockf(lock, fcntl.LOCK_EX); "
        "print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        refused(lambda: fetch(server.balloon, tmp_path), "another process", tmp_path, "wait")
        other.kill()
    fetch(server.balloon, tmp_path)


def test_only_published_ones_can_be_fetched(refused: Refused) -> None:
    refused(lambda: data.source("generated"), "'generated'", "balloon, coco, pennfudan", error=UserError)


@pytest.mark.parametrize("name", ["balloon", "coco", "pennfudan"])
def test_every_source_is_sound(name: str) -> None:
    source = data.source(name)
    # only what is small is downloaded unasked
    assert source.automatic == (name == "pennfudan")
    for archive in source.archives:
        assert archive.url.endswith(".zip") and archive.size > 1e6 and archive.unpacked >= 0.99 * archive.size
        assert archive.sha256 is None or re.fullmatch("[0-9a-f]{64}", archive.sha256)
        # what it unpacks to is where it is looked for
        assert archive.top == source.folder or archive.top in source.parts
