"""The two engines of COCO's metrics: pycocotools, the measure of record, and faster-coco-eval, the same in C++."""

from functools import partial
from typing import Any

import numpy as np
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg.errors import unknown_name
from instseg.evaluation.kinds import METRIC_KINDS, Kind, MetricKind

DEFAULT = "faster_coco_eval"
ENGINES = (DEFAULT, "pycocotools")

_ONE = 1 / (1 + np.spacing(1))


def evaluator(truth: COCO, detected: COCO, kind: Kind, by: str = DEFAULT) -> COCOeval:
    """An evaluation by one of :data:`ENGINES` that is yet to be done; ``params`` may be changed first.

    Args:
        truth: the ground truth, as :func:`instseg.evaluation.coco.load` gives it.
        detected: the detections, each with its ``score`` and ``area``.

    Raises:
        UserError: there is no such engine.
    """
    if by not in ENGINES:
        raise unknown_name("engine", by, ENGINES)
    metric = METRIC_KINDS[kind]
    if metric.of_masks:
        encode(truth)
        encode(detected)
    # faster-coco-eval takes ids for doubles, which hold all whole numbers up to 2**53
    exact = all(abs(number) <= 2**53 for number in [*truth.imgs, *truth.cats])
    # threads would wait for one another: most of the work holds Python's lock
    fast = partial(_Fast, separate_eval=True, rle_iou_max_workers=1)
    evaluation = (fast if by == DEFAULT and exact else _Reference)(truth, detected, metric.iou_type)
    evaluation.kind = metric
    return evaluation


def encode(index: COCO) -> None:
    """Make RLE of all segmentations of an index, in place."""
    for annotation in index.anns.values():
        annotation["segmentation"] = index.annToRLE(annotation)


class _ByKind:
    """Has an engine's evaluation match by a kind's overlap where that is not COCO's IoU, which engines compute."""

    cocoGt: COCO
    cocoDt: COCO
    params: Any
    eval: dict[str, Any]
    kind: MetricKind

    def computeIoU(self, imgId: int, catId: int) -> Any:
        if self.kind.in_pycocotools:
            return super().computeIoU(imgId, catId)  # type: ignore[misc]
        detections, objects = (
            [entry for entry in index.imgToAnns[imgId] if entry["category_id"] == catId]
            for index in (self.cocoDt, self.cocoGt)
        )
        if not detections or not objects:
            return []
        best = sorted(detections, key=lambda entry: -entry["score"])[: self.params.maxDets[-1]]
        detected, targets = ([entry[self.kind.needs] for entry in entries] for entries in (best, objects))
        return self.kind.overlap(detected, targets, [entry["iscrowd"] for entry in objects], self.params.iouThrs.min())


class _Reference(_ByKind, COCOeval):
    """pycocotools' evaluation."""


class _Fast(_ByKind, COCOeval_faster):
    """faster-coco-eval's evaluation, to pycocotools' last bit."""

    summarize = COCOeval.summarize

    def evaluate(self) -> None:
        self._thresholds, self._counted = np.asarray(self.params.recThrs), self._count_objects()
        # for accumulate, which takes the parameters of evaluate
        self._all_thresholds = np.union1d(self._thresholds, 2 / np.unique(self._counted[self._counted > 1]))
        self.params.recThrs = self._all_thresholds
        super().evaluate()
        self.params.recThrs = self._thresholds

    def accumulate(self, p: None = None) -> None:
        """Accumulate the matches, and make the last bit of the precisions pycocotools'.

        pycocotools divides by the number of detections plus 2**-52, which tells in 1 / 1 alone: its precision of one
        right detection, if the next one is wrong, is 1 - 2**-52. faster-coco-eval says 1 there. If the next one is
        right, too, precision is 1 for both, and it is so at the recall of two objects, which is therefore also read.
        """
        super().accumulate()
        second = np.searchsorted(self._all_thresholds, 2 / np.maximum(self._counted, 1))
        second = np.minimum(second, len(self._all_thresholds) - 1)
        precision = self.eval["precision"]
        k, a = np.indices(self._counted.shape)
        alone = (precision[:, second, k, a] < 1) | (self._counted < 2)[..., None]
        kept = np.searchsorted(self._all_thresholds, self._thresholds)
        precision, scores = precision[:, kept], self.eval["scores"][:, kept]
        precision[(precision == 1) & alone[:, None]] = _ONE
        self.eval |= {"params": self.params, "counts": list(precision.shape), "precision": precision, "scores": scores}

    def _count_objects(self) -> NDArray[np.int64]:
        """(K, A) objects of each category and range of areas that are no crowd regions."""
        images, categories = set(self.params.imgIds), set(self.params.catIds)
        objects = [
            (entry["category_id"], entry["area"])
            for entry in self.cocoGt.anns.values()
            if entry["image_id"] in images and entry["category_id"] in categories and not entry["iscrowd"]
        ]
        index = np.searchsorted(sorted(categories), np.asarray([category for category, _ in objects], dtype=np.int64))
        areas = np.asarray([area for _, area in objects])
        in_ranges = [(low <= areas) & (areas <= high) for low, high in self.params.areaRng]
        return np.stack([np.bincount(index[chosen], minlength=len(categories)) for chosen in in_ranges], axis=1)
