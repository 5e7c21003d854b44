"""Data sets on disk (or from a seed) -> samples -> batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from instseg.data.coco import coco2017
from instseg.data.dataset import InstanceDataset
from instseg.data.download import DEFAULT_DIR
from instseg.data.generated import Generated
from instseg.data.pennfudan import FOLDS, PennFudan
from instseg.errors import UserError, unknown_name


def _generated(split: str, fold: int, root: Path | None, images: int | None, **options: Any) -> InstanceDataset:
    if images is None:
        raise UserError(f"dataset.{split}_pictures=null: say how many pictures to generate")
    return Generated(split, images=images, **options)


def _pennfudan(split: str, fold: int, root: Path | None, images: int | None, **options: Any) -> InstanceDataset:
    if "download_dir" in options:
        options["download_dir"] = Path(options["download_dir"])
    return PennFudan(split, root=root, fold=fold, images=images, **options)


def _coco(split: str, fold: int, root: Path | None, images: int | None, **options: Any) -> InstanceDataset:
    download_dir = Path(options.pop("download_dir", DEFAULT_DIR))
    return coco2017(split, root=root or download_dir, limit=images, **options)


_BUILDERS: dict[str, Callable[..., InstanceDataset]] = {
    "generated": _generated,
    "pennfudan": _pennfudan,
    "coco": _coco,
}
_OPTIONS = {
    "generated": ("size", "seed", "figures"),
    "pennfudan": ("download_dir",),
    "coco": ("invalid", "download_dir"),
}
_FOLDS = {"pennfudan": FOLDS}


def names() -> list[str]:
    """Every data set that :func:`build` knows."""
    return sorted(_BUILDERS)


def build(
    name: str, split: str, *, fold: int = 0, root: Path | None = None, images: int | None = None, **options: Any
) -> InstanceDataset:
    """A data set by name.

    Args:
        name: one of :func:`names`.
        split: ``train`` or ``val``.
        fold: which fold is held out, where the data set has folds.
        root: the folder that holds the data set, or that holds the folder of it; None: generated, downloaded, or
            fetched before to the option ``download_dir`` (see :mod:`instseg.data.fetch`).
        images: how many pictures of the split to use; None: all.
        options: the data set's own.

    Raises:
        UserError: an unknown name or option, or data that can't be used.
    """
    if name not in _BUILDERS:
        raise unknown_name("data set", name, _BUILDERS)
    folds = _FOLDS.get(name, 1)
    if not 0 <= fold < folds:
        raise UserError(f"dataset.fold={fold}: {name} has {f'folds 0 to {folds - 1}' if folds > 1 else 'fold 0 alone'}")
    for option in options:
        if option not in _OPTIONS[name]:
            raise unknown_name(f"option of data set {name}:", option, _OPTIONS[name])
    if images is not None and images < 1:
        raise UserError(f"dataset.{split}_pictures={images}: must be 1 or more, or null for all")
    return _BUILDERS[name](split, fold, root, images, **options)


__all__ = ["InstanceDataset", "build", "names"]
