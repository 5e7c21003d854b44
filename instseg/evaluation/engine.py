"""The two engines of COCO's metrics: pycocotools, the measure of record, and faster-coco-eval, the same in C++."""

from typing import Any, Literal

import numpy as np
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg.errors import unknown_name
from instseg.masks import boundary

Kind = Literal["box", "mask", "boundary"]

DEFAULT = "faster_coco_eval"
ENGINES = (DEFAULT, "pycocotools")

_EXACT = 2**53  # above it, not every whole number is a double
_ONE = 1 / (1 + np.spacing(1))
_PARAMETERS = ("imgIds", "catIds", "iouThrs", "recThrs", "maxDets", "areaRng", "areaRngLbl", "useCats")


def evaluator(truth: COCO, detected: COCO, kind: Kind, by: str = DEFAULT) -> COCOeval:
    """An evaluation that is yet to be done; ``params`` may be changed first.

    After ``evaluate``, pycocotools' holds the matches in ``evalImgs``; the other one, being quicker, does not.

    Args:
        truth: the ground truth, as :func:`instseg.evaluation.coco.load` gives it.
        detected: the detections, each with its ``score`` and ``area``.
        kind: ``"box"``, ``"mask"`` or ``"boundary"``.
        by: one of :data:`ENGINES`.

    Raises:
        UserError: there is no such engine.
    """
    if by not in ENGINES:
        raise unknown_name("engine", by, ENGINES)
    if kind != "box":
        encode(truth)
        encode(detected)
    # faster-coco-eval takes ids for doubles
    exact = all(-_EXACT <= number <= _EXACT for ids in (truth.imgs, truth.cats) for number in ids)
    if by == "pycocotools" or not exact:
        return (_Boundary if kind == "boundary" else COCOeval)(truth, detected, "bbox" if kind == "box" else "segm")
    return _Fast(truth, detected, kind)


def encode(index: COCO) -> None:
    """Make RLE of all segmentations of an index, in place."""
    for annotation in index.anns.values():
        annotation["segmentation"] = index.annToRLE(annotation)


class _BoundaryIoU:
    """Has an evaluation of masks match by :func:`boundary.limited`."""

    def computeIoU(self, imgId: int, catId: int) -> Any:
        masks = super().computeIoU(imgId, catId)  # type: ignore[misc]
        if len(masks) == 0:
            return masks
        found, objects = (
            [one for one in index.imgToAnns[imgId] if one["category_id"] == catId]
            for index in (self.cocoDt, self.cocoGt)  # type: ignore[attr-defined]
        )
        best = sorted(found, key=lambda one: -one["score"])[: len(masks)]
        return boundary.limited(
            masks,
            [one["segmentation"] for one in best],
            [one["segmentation"] for one in objects],
            [one["iscrowd"] for one in objects],
            at_least=self.params.iouThrs.min(),  # type: ignore[attr-defined]
        )


class _Boundary(_BoundaryIoU, COCOeval):
    pass


class _FastBoundary(_BoundaryIoU, COCOeval_faster):
    pass


class _Fast(COCOeval):
    """pycocotools' evaluation with the work done by faster-coco-eval, to the same last bit."""

    def __init__(self, truth: COCO, detected: COCO, kind: Kind) -> None:
        super().__init__(truth, detected, "bbox" if kind == "box" else "segm")
        self._engine = _FastBoundary if kind == "boundary" else COCOeval_faster

    def evaluate(self) -> None:
        # threads would wait for one another: most of the work holds Python's lock
        options = {"separate_eval": True, "rle_iou_max_workers": 1}
        self._fast = self._engine(self.cocoGt, self.cocoDt, self.params.iouType, **options)
        for name in _PARAMETERS:
            setattr(self._fast.params, name, getattr(self.params, name))
        self._fast.evaluate()

    def accumulate(self, p: None = None) -> None:
        """Accumulate the matches, and make the last bit of the precisions pycocotools'.

        pycocotools divides by the number of detections plus 2**-52, which tells in 1 / 1 alone: its precision of one
        right detection, if the next one is wrong, is 1 - 2**-52. faster-coco-eval says 1 there. If the next one is
        right, too, precision is 1 for both, and it is so at the recall of two objects, which is read here therefore.
        """
        counted = self._counted()
        thresholds = np.asarray(self.params.recThrs)
        parameters = self._fast._paramsEval
        parameters.recThrs = np.union1d(thresholds, 2 / np.unique(counted[counted > 1]))
        self._fast.accumulate()
        second = np.searchsorted(parameters.recThrs, 2 / np.maximum(counted, 1))
        second = np.minimum(second, len(parameters.recThrs) - 1)
        precision = self._fast.eval["precision"]
        k, a = np.indices(counted.shape)
        alone = (precision[:, second, k, a] < 1) | (counted < 2)[..., None]
        kept = np.searchsorted(parameters.recThrs, thresholds)
        precision, scores = precision[:, kept], self._fast.eval["scores"][:, kept]
        precision[(precision == 1) & alone[:, None]] = _ONE
        self.eval = {
            "params": self.params,
            "counts": list(precision.shape),
            "precision": precision,
            "recall": self._fast.eval["recall"],
            "scores": scores,
        }

    def _counted(self) -> NDArray[np.int64]:
        """(K, A) objects of each category and range of areas that are no crowd regions."""
        images, categories = set(self.params.imgIds), {c: k for k, c in enumerate(self.params.catIds)}
        objects = [
            (categories[one["category_id"]], one["area"])
            for one in self.cocoGt.anns.values()
            if one["image_id"] in images and one["category_id"] in categories and not one["iscrowd"]
        ]
        index = np.asarray([k for k, _ in objects], dtype=np.int64)
        areas = np.asarray([area for _, area in objects], dtype=np.float64)
        per_range = [
            np.bincount(index[(low <= areas) & (areas <= high)], minlength=len(categories))
            for low, high in self.params.areaRng
        ]
        return np.stack(per_range, axis=1)
