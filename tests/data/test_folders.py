"""Which files of a folder are taken for images."""

import os
from pathlib import Path
from typing import Any

import pytest

from instseg.data.folders import endings, list_images


def names(folder: Path, found: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found]


def test_images_are_known_by_their_endings(tmp_path: Path) -> None:
    (tmp_path / "inner" / "deep").mkdir(parents=True)
    for name in (
        "b.JPG",
        "a.png",
        "c.heic",
        "notes.txt",
        "data.h5",
        "none",
        ".hidden.png",
        "inner/d.tif",
        "inner/deep/e",
    ):
        (tmp_path / name).touch()
    flat = list_images(tmp_path)
    assert names(tmp_path, flat.paths) == ["a.png", "b.JPG", "c.heic"]
    assert (flat.others, flat.subfolders, flat.unread) == (4, 1, [])
    deep = list_images(tmp_path, recursive=True)
    assert names(tmp_path, deep.paths) == ["a.png", "b.JPG", "c.heic", "inner/d.tif"]
    assert (deep.others, deep.subfolders) == (5, 0)
    without = list_images(tmp_path, recursive=True, leave_out=tmp_path / "inner")
    assert names(tmp_path, without.paths) == ["a.png", "b.JPG", "c.heic"]


def test_broken_links_are_named_and_pipes_are_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "round").symlink_to(tmp_path)
    found = list_images(tmp_path, recursive=True)
    assert names(tmp_path, found.paths) == ["gone.png"]
    assert found.others == 1


def test_folders_that_can_not_be_read_are_named(tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    listing = os.scandir

    def scandir(path: str) -> Any:
        if Path(path) == shut:
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    shut = tmp_path / "shut"
    assert list_images(tmp_path, recursive=True).unread == [f"folder {shut} can't be read: Permission denied"]
    shut = tmp_path
    refused(lambda: list_images(tmp_path), tmp_path, "can't be read")


def test_endings_are_small_and_begin_with_a_dot() -> None:
    assert {".jpg", ".jpeg", ".png", ".tif", ".webp", ".gif", ".heic", ".avif"} <= endings()
    assert all(ending.startswith(".") and ending == ending.lower() for ending in endings())
    assert not {".txt", ".json", ".pdf", ".h5", ".mpg"} & endings()
