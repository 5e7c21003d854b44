"""Pickles of numpy arrays, read without running anything that they ask for."""

import pickle
from collections import OrderedDict
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from instseg.errors import UserError

KINDS = "biuf"
"""numpy's letters of booleans, whole numbers and floats: what may stand in an array."""


def read(path: Path) -> Any:
    """The content of a pickle that holds nothing but numbers, texts, plain containers and numpy arrays of numbers.

    What makes an array in the file is never called: own code puts the bytes together. Arrays come out as
    ``numpy.ndarray``, read-only. Texts of Python 2 are taken for Latin-1, as Caffe2's and detectron2's files want it.

    Raises:
        UserError: the file is no pickle, is cut off, or wants anything else.
    """
    try:
        with path.open("rb") as file:
            return _plain(_Reader(file, encoding="latin1").load())
    except _Refused as error:
        raise UserError(f"{path}: {error}") from None
    # a pickle that is damaged may end in nearly any error
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path} is cut off or no pickle ({reason})") from error


class _Refused(Exception):
    pass


class _Type:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: Any, *_: Any) -> None:
        self._code, self._order = str(code), "|"

    def __setstate__(self, state: Any) -> None:
        self._order = str(state[1])

    def get(self) -> np.dtype[Any]:
        """The type itself, where it is one of numbers."""
        found = np.dtype(self._order.replace("|", "") + self._code)
        if found.kind not in KINDS:
            raise _Refused(f"an array of {self._code!r} in it is none of numbers; nothing of the file is used")
        return found


class _Array:
    """Stands for ``numpy.ndarray``."""

    value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.value = _array(data, kind, shape, "F" if fortran else "C")


def _array(data: Any, kind: Any, shape: Any, order: str = "C") -> np.ndarray[Any, Any]:
    if not isinstance(kind, _Type):
        raise _Refused("an array in it has no type; nothing of the file is used")
    dtype = kind.get()
    content = data.encode("latin1") if isinstance(data, str) else bytes(data)
    shape = tuple(int(n) for n in shape)
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != len(content):
        raise _Refused(f"an array in it says {shape} and has {len(content)} bytes; nothing of the file is used")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if order == "F" else "C")


def _empty(*_: Any) -> _Array:
    """Stands for numpy's ``_reconstruct``, whose array gets its content afterwards."""
    return _Array()


def _scalar(kind: Any, data: Any = b"") -> np.ndarray[Any, Any]:
    return _array(data, kind, ())


def _bytes(text: str, encoding: str = "latin1") -> bytes:
    """Stands for ``codecs.encode``, by which Python 3 writes bytes into old pickles."""
    if encoding != "latin1":
        raise _Refused(f"it wants a text encoded as {encoding!r}; nothing of the file is used")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stands for ``bytes``, by which Python 3 writes none of them into old pickles."""
    return b""


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _bytes,
    ("__builtin__", "bytes"): _no_bytes,
    # numpy 1 and numpy 2
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Refused(
                f"it wants {module}.{name}, and only numpy arrays of numbers and plain containers are read, as "
                "anything else could run code; nothing of it was run"
            )
        return _KNOWN[module, name]


def _plain(value: Any) -> Any:
    """Containers with their arrays in place."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, _Array):
        if value.value is None:
            raise _Refused("an array in it has no content; nothing of the file is used")
        return value.value
    return value
