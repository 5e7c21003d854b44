"""Pickles of arrays, as Python 2, numpy 1 and numpy 2 write them; and pickles that name code to run."""

import contextlib
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instseg.errors import UserError
from instseg.transfer import pickles

PYTHON_2 = (
    b"\x80\x02}q\x01U\x01wq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
    b"(K\x01K\x02\x85cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x89U\x08\x00\x00\x80\xbf\x00\x00\xc8Btbs."
)
"""``{"w": numpy.array([-1, 100], "float32")}``."""


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_come_back(protocol: int, tmp_path: Path) -> None:
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    content = {
        "model": OrderedDict(
            a=np.arange(6, dtype=np.float32).reshape(2, 3), b=fortran, c=np.array(3), d=np.zeros((0, 4))
        ),
        "scalar": np.float64(2.5),
        "big": np.array([1, 256], ">i2"),
        "plain": ["text", 1, None, True, (2.0,), b"\xff"],
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    content_read = pickles.read(path)
    for name, expected in content["model"].items():  # type: ignore[attr-defined]
        np.testing.assert_array_equal(content_read["model"][name], expected)
        assert content_read["model"][name].dtype == expected.dtype
    assert float(content_read["scalar"]) == 2.5 and content_read["big"].tolist() == [1, 256]
    assert content_read["plain"] == ["text", 1, None, True, [2.0], b"\xff"]


def test_python_2_wrote_bytes_as_text(tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    path.write_bytes(PYTHON_2)
    assert pickles.read(path)["w"].tolist() == [-1, 100]


class _Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", [os.system, os.mkdir, eval, getattr, np.load, np.frombuffer])
def test_nothing_is_run(call: Any, protocol: int, tmp_path: Path, refused: Any) -> None:
    made = tmp_path / "made"
    argument = {os.system: f"mkdir {made}", eval: f"__import__('os').mkdir({str(made)!r})"}.get(call, str(made))
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": [_Evil(call, argument)]}, protocol=protocol))
    refused(lambda: pickles.read(path), path, call.__name__, "nothing of it was run", error=UserError)
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"w": np.array([{}, None])}, "none of numbers"),
        ({"w": np.array(["text"])}, "none of numbers"),
        ({"w": np.zeros(2, [("a", "f4")])}, "none of numbers"),
        ({"w": np.array(["2020-01-01"], "datetime64[D]")}, "none of numbers"),
        ({"w": Path("x")}, "Path"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(content: Any, part: str, tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    refused(lambda: pickles.read(path), path, part, error=UserError)


def test_damaged_files_are_one_line(tmp_path: Path, refused: Any) -> None:
    whole = pickle.dumps({"w": np.arange(8.0), "v": [1, 2]}, protocol=2)
    path = tmp_path / "cut.pkl"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        refused(lambda: pickles.read(path), path, error=UserError)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x21]) + whole[place + 1 :])
        # some still are pickles
        with contextlib.suppress(UserError):
            pickles.read(path)
    # a number in the place of an array's bytes
    path.write_bytes(PYTHON_2.replace(b"U\x08\x00\x00\x80\xbf\x00\x00\xc8B", b"K\x08"))
    refused(lambda: pickles.read(path), path, "cut off or no pickle", error=UserError)
    # an array that says it is larger than it is
    path.write_bytes(PYTHON_2.replace(b"K\x02\x85cnumpy", b"K\x03\x85cnumpy"))
    refused(lambda: pickles.read(path), "8 bytes", error=UserError)
