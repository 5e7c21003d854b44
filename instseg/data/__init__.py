"""Data sets on disk (or from a seed) -> samples -> batches."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from instseg.data.archives.download import DEFAULT_DIR
from instseg.data.dataset import InstanceDataset
from instseg.data.sets.balloon import Balloon
from instseg.data.sets.coco import coco2017
from instseg.data.sets.coco_json import FILES, coco_json
from instseg.data.sets.generated import Generated
from instseg.data.sets.open_images import OpenImages
from instseg.data.sets.pennfudan import FOLDS, PennFudan
from instseg.errors import UserError, unknown_name


def _generated(split: str, fold: int, root: Path | None, images: int | None, **options: Any) -> InstanceDataset:
    if images is None:
        raise UserError(f"dataset.{split}_images=null: say how many images to generate")
    return Generated(split, images=images, **options)


def _pennfudan(split: str, fold: int, root: Path | None, images: int | None, **options: Any) -> InstanceDataset:
    if "download_dir" in options:
        options["download_dir"] = Path(options["download_dir"])
    return PennFudan(split, root=root, fold=fold, images=images, **options)


def _coco(split: str, fold: int, root: Path | None, images: int | None, **options: Any) -> InstanceDataset:
    download_dir = Path(options.pop("download_dir", DEFAULT_DIR))
    return coco2017(split, root=root or download_dir, limit=images, **options)


def _balloon(split: str, fold: int, root: Path | None, images: int | None, **options: Any) -> InstanceDataset:
    download_dir = Path(options.pop("download_dir", DEFAULT_DIR))
    return Balloon(split, root=root or download_dir, images=images, **options)


def _open_images(split: str, fold: int, root: Path | None, images: int | None, **options: Any) -> InstanceDataset:
    return OpenImages(split, root=root, fold=fold, images=images, **options)


def _coco_json(
    split: str, fold: int, root: Path | None, images: int | None, files: Mapping[str, Path], **options: Any
) -> InstanceDataset:
    return coco_json(split, files, fold=fold, limit=images, **options)


_BUILDERS: dict[str, Callable[..., InstanceDataset]] = {
    "generated": _generated,
    "pennfudan": _pennfudan,
    "coco": _coco,
    "balloon": _balloon,
    "open_images": _open_images,
    "coco_json": _coco_json,
}
_OPTIONS = {
    "generated": ("size", "seed", "figures"),
    "pennfudan": ("download_dir",),
    "coco": ("invalid", "download_dir"),
    "balloon": ("invalid", "download_dir"),
    "open_images": ("classes", "folds", "split_seed", "invalid"),
    "coco_json": ("folds", "split_seed", "invalid"),
}
_FOLDS = {"pennfudan": FOLDS}
_FILES = {"coco_json": FILES}


def names() -> list[str]:
    """Every data set that :func:`build` knows."""
    return sorted(_BUILDERS)


def build(
    name: str,
    split: str,
    *,
    fold: int = 0,
    root: Path | None = None,
    images: int | None = None,
    files: Mapping[str, Path] | None = None,
    **options: Any,
) -> InstanceDataset:
    """A data set by name.

    Args:
        name: one of :func:`names`.
        split: ``train`` or ``val``.
        fold: which fold is held out, where the data set has folds.
        root: the folder that holds the data set, or that holds the folder of it; None: generated, downloaded, or
            fetched before to the option ``download_dir`` (see :mod:`instseg.data.archives.fetch`).
        images: how many images of the split to use; None: all.
        files: annotation files and folders, for data sets that take them (``coco_json``).
        options: the data set's own.

    Raises:
        UserError: an unknown name or option, or data that can't be used.
    """
    if name not in _BUILDERS:
        raise unknown_name("data set", name, _BUILDERS)
    check_files(name, files or {})
    folds = _FOLDS.get(name, 1)
    # the others have as many as their options say
    if "folds" not in _OPTIONS[name] and not 0 <= fold < folds:
        raise UserError(f"dataset.fold={fold}: {name} has {f'folds 0 to {folds - 1}' if folds > 1 else 'fold 0 alone'}")
    for option in options:
        if option not in _OPTIONS[name]:
            raise unknown_name(f"option of data set {name}:", option, _OPTIONS[name])
    if images is not None and images < 1:
        raise UserError(f"dataset.{split}_images={images}: must be 1 or more, or null for all")
    if name in _FILES:
        options["files"] = files or {}
    return _BUILDERS[name](split, fold, root, images, **options)


def check_files(name: str, files: Mapping[str, Any]) -> None:
    """Raise a UserError where files are given to a data set that does not take them."""
    for key in files:
        if key not in _FILES.get(name, ()):
            takers = " and ".join(sorted(other for other, keys in _FILES.items() if key in keys))
            raise UserError(f"dataset.{key} is not for dataset {name}" + (f", but for {takers}" if takers else ""))


__all__ = ["InstanceDataset", "build", "check_files", "names"]
