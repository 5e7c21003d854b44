"""Pickles of numpy arrays, read without calling anything that they name."""

import pickle
from collections import OrderedDict
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from instseg.errors import UserError


def read(path: Path) -> Any:
    """The content of a pickle that holds nothing but numbers, texts, plain containers and numpy arrays of numbers.

    The functions that the file names to make its arrays are never called: stand-ins of this module collect the bytes.
    Arrays come out as read-only ``numpy.ndarray``, tuples as lists. Texts of Python 2 are read as Latin-1, which the
    files of Caffe2 and detectron2 need.

    Raises:
        UserError: the file is no pickle, is cut off, or wants anything else.
    """
    try:
        with path.open("rb") as file:
            return _plain(_Reader(file, encoding="latin1").load())
    except _Refused as error:
        raise UserError(f"{path}: {error}") from None
    # a damaged pickle may raise nearly anything
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path} is cut off or no pickle ({reason})") from error


class _Refused(Exception):
    pass


class _DataType:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = str(code), "|"

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])


class _Array:
    """Stands for ``numpy.ndarray``."""

    value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Literal["C", "F"] = "C") -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _DataType):
        raise _Refused("an array in it has no type; nothing of the file is used")
    numbers = np.dtype(dtype.order.replace("|", "") + dtype.code)
    # booleans, whole numbers and floats
    if numbers.kind not in "biuf":
        raise _Refused(f"an array of {dtype.code!r} in it is none of numbers; nothing of the file is used")
    # bytes() of a number would be as many zeros
    content = data.encode("latin1") if isinstance(data, str) else bytes(memoryview(data))
    shape = tuple(int(n) for n in shape)
    if min(shape, default=0) < 0 or prod(shape) * numbers.itemsize != len(content):
        raise _Refused(f"an array in it says {shape} and has {len(content)} bytes; nothing of the file is used")
    return np.frombuffer(content, numbers).reshape(shape, order=order)


def _bytes(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise _Refused(f"it wants a text encoded as {encoding!r}; nothing of the file is used")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DataType,
    ("collections", "OrderedDict"): OrderedDict,
    # Python 3 writes bytes, and empty bytes, by these in old protocols
    ("_codecs", "encode"): _bytes,
    ("__builtin__", "bytes"): lambda: b"",
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
    # the array gets its content afterwards
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = lambda *_: _Array()
    _KNOWN[f"{_core}.multiarray", "scalar"] = lambda dtype, data=b"": _array(data, dtype, ())
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = _array


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
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, _Array):
        if value.value is None:
            raise _Refused("an array in it has no content; nothing of the file is used")
        return value.value
    return value
