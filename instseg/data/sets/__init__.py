"""Data sets, one a file: ``sets/NAME.py`` holds the one :class:`InstanceDataset` that is built as ``NAME``.

Its constructor takes the split, ``train`` or ``val``, and, by keyword, what it needs of

- ``root``: the folder that holds the data set, or that holds the folder of it;
- ``images``: how many images of the split to use, the first by id; None: all;
- ``fold``: which fold is held out; a data set without this argument has fold 0 alone;
- ``files``: annotation files and folders by the keys in ``FILES``, an attribute of the class.

All other keyword arguments are the data set's own options. Several data sets have these:

- ``invalid``: whether instances that cannot be used are left out (``drop``, with a line for each) or an ``error``;
- ``folds``, ``split_seed``: how many folds images are dealt out to, and the seed of the order; see
  :class:`instseg.data.split.FoldSplit`.

It raises a UserError where an argument has no such value, and a DataError where a folder or file is missing or cannot
be used, in one line with the file and the id. A data set that can be downloaded says from where in ``SOURCE``, and has
the option ``download_dir``: where it lies when no root is given.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instseg import plugins
from instseg.data.archives.download import DEFAULT_DIR
from instseg.data.archives.fetch import Source, fetch
from instseg.data.dataset import InstanceDataset
from instseg.errors import UserError, unknown_name

_COMMON = ("root", "images", "fold", "files")


def names() -> list[str]:
    """Every data set that :func:`build` knows."""
    return plugins.names(__name__)


def dataset_class(name: str) -> type[InstanceDataset]:
    """The class of a data set; see :func:`instseg.plugins.load`."""
    return plugins.load(__name__, name, InstanceDataset, "data set")


def options(name: str) -> dict[str, Any]:
    """The options of a data set and their defaults."""
    dataset = dataset_class(name)
    own = {name: default for name, default in plugins.options(dataset).items() if name not in _COMMON}
    return own if dataset.SOURCE is None else {**own, "download_dir": DEFAULT_DIR}


def source(name: str) -> Source:
    """The archives that a data set is published in; a UserError where it can't be downloaded."""
    sources = {known: dataset_class(known).SOURCE for known in names()}
    if (published := sources.get(name)) is None:
        raise unknown_name("data set to download", name, (known for known in sources if sources[known] is not None))
    return published


def build(
    name: str,
    split: str,
    *,
    fold: int = 0,
    root: Path | None = None,
    images: int | None = None,
    files: Mapping[str, Path] | None = None,
    **chosen: Any,
) -> InstanceDataset:
    """A data set by name.

    The arguments are those of its constructor, as above; those that it does not need must be left out, except ``root``
    and ``images``. Without a ``root`` it is generated, or lies in the option ``download_dir``, where a small one is
    downloaded to unless it is there. ``chosen`` are its own options; see :func:`options`.

    Raises:
        UserError: an unknown name or option, or data that can't be used.
    """
    dataset, known = dataset_class(name), options(name)
    check_files(name, files or {})
    if unknown := [option for option in chosen if option not in known]:
        raise unknown_name(f"option of data set {name}:", unknown[0], known)
    accepted = inspect.signature(dataset).parameters
    if "fold" not in accepted and fold != 0:
        raise UserError(f"dataset.fold={fold}: {name} has fold 0 alone")
    if dataset.SOURCE is not None:
        download_dir = Path(chosen.pop("download_dir", DEFAULT_DIR)).expanduser()
        if root is None and dataset.SOURCE.automatic:
            fetch(dataset.SOURCE, download_dir)
        root = root or download_dir
    common = {"fold": fold, "root": root, "images": images, "files": files or {}}
    arguments: dict[str, Any] = {key: value for key, value in common.items() if key in accepted}
    return dataset(split, **arguments, **chosen)  # type: ignore[call-arg]


def check_files(name: str, files: Mapping[str, Any]) -> None:
    """Raise a UserError where files are given to a data set that does not take them."""
    for key in files:
        if key not in dataset_class(name).FILES:
            takers = " and ".join(other for other in names() if key in dataset_class(other).FILES)
            raise UserError(f"dataset.{key} is not for dataset {name}" + (f", but for {takers}" if takers else ""))
