"""The files of a study's runs, each read once and checked: what is wrong with one is a ``DataError`` that names it.

Ground truths and stored images are kept, as all runs share them: of COCO's validation images that is one index of
36,000 annotations. Predictions are not: a run on COCO has up to 500,000, near a gigabyte, so whoever reads them
(:mod:`experiments.report.predictions`, once for all sections) takes what is needed and drops the rest.
"""

import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO

from instseg.errors import DataError
from instseg.evaluation import coco, gt_boxes
from instseg.files import faults_of, read_json

PREDICTIONS = "predictions.json"
GT_BOXES = "true_boxes.json"
"""In a run's folder: ``mask_iou`` and ``boundary_iou`` of each object of the ground truth that is no crowd region."""

Floats = NDArray[np.float64]
Images = dict[int, NDArray[np.uint8]]
"""By image id, (H, W, 3) each."""


@dataclass
class StudyFiles:
    """Reads the files of the study in ``folder``, ``results/<study>``."""

    folder: Path
    _truths: dict[str, COCO] = field(default_factory=dict, init=False)
    _images: dict[str, Images] = field(default_factory=dict, init=False)

    def run(self, name: str) -> Path:
        """The folder of a run."""
        return self.folder / "runs" / name

    def ground_truth(self, name: str | None) -> COCO:
        """The index of a ground truth file, all segmentations as RLE; its name is its path from the study's folder, as
        ``result.json`` has it."""
        if name is None:
            raise DataError(f"{self.folder}: result.json names no ground truth")
        if name not in self._truths:
            self._truths[name] = _index(self.folder / name)
        return self._truths[name]

    def predictions(self, run: str, truth: COCO) -> coco.Results:
        """What a run predicted: COCO results that fit the ground truth, segmentations as RLE."""
        path = self.run(run) / PREDICTIONS
        return checked_results(path, read_json(path), truth)

    def gt_box_ious(self, run: str, truth: COCO) -> tuple[Floats, Floats] | None:
        """IoU of a run's masks, and of their boundaries, in the boxes of the ground truth's objects; None where the
        run was not scored so."""
        path = self.run(run) / GT_BOXES
        if not path.is_file():
            return None
        content = read_json(path)
        objects = len(gt_boxes.objects(truth.dataset))
        ious = []
        for key in ("mask_iou", "boundary_iou"):
            values = content.get(key) if isinstance(content, dict) else None
            if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
                raise DataError(f"{path}: it has no list of numbers {key!r}")
            if len(values) != objects:
                raise DataError(f"{path}: {key} has {len(values)} numbers; the ground truth has {objects} objects")
            ious.append(np.asarray(values, dtype=np.float64))
        return ious[0], ious[1]

    def images(self, ground_truth: str) -> Images:
        """The stored images of a ground truth, in the order of their ids; empty where there are none."""
        if ground_truth not in self._images:
            self._images[ground_truth] = _stored_images((self.folder / ground_truth).with_suffix(""))
        return self._images[ground_truth]


def checked_results(path: Path, results: Any, truth: COCO) -> coco.Results:
    """Results that a file holds, segmentations as RLE; a ``DataError`` where they don't fit the ground truth."""
    with faults_of(path):
        for kind in coco.KINDS:
            coco.check_results(truth.dataset, results, kind)
    for result in results:
        result["segmentation"] = truth.annToRLE(result)
    return results


def number(value: Any) -> float:
    """A metric as a float; None, nan and COCO's -1 ("no such objects") are nan."""
    value = math.nan if value is None else float(value)
    return math.nan if value < 0 else value


def _index(path: Path) -> COCO:
    content = read_json(path)
    with faults_of(path):
        coco.check_ground_truth(content, coco.KINDS)
    truth = coco.load(content)
    for annotation in truth.anns.values():
        annotation["segmentation"] = truth.annToRLE(annotation)
    return truth


def _stored_images(stem: Path) -> Images:
    # the second is the name that they were stored by before
    candidates = (stem.with_name(f"{stem.name}-{word}.npz") for word in ("images", "pictures"))
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        return {}
    try:
        with np.load(path) as arrays:
            images = {int(name.removeprefix("image_")): arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: can't be used ({str(error).splitlines()[0]}); delete it") from error
    if any(image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 for image in images.values()):
        raise DataError(f"{path}: can't be used (an image is no (H, W, 3) array of uint8); delete it")
    return dict(sorted(images.items()))
