"""COCO's metrics: pycocotools' numbers, by pycocotools itself or by faster-coco-eval; and boundary AP."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg.evaluation.checks import check_ground_truth as check_ground_truth
from instseg.evaluation.checks import check_results as check_results
from instseg.evaluation.engine import DEFAULT as DEFAULT_ENGINE
from instseg.evaluation.engine import Kind as Kind
from instseg.evaluation.engine import evaluator

Results = list[dict[str, Any]]

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve numbers in pycocotools' order; sizes split at 32² and 96² pixels."""
KINDS: tuple[Kind, ...] = ("box", "mask", "boundary")
"""What detections are matched by: IoU of boxes, of masks, or the smaller one of masks' and boundaries' IoU."""
IOU_TYPES: dict[Kind, str] = {"box": "bbox", "mask": "segm"}
"""pycocotools' names of the kinds that it knows."""

_SCORED = ("image_id", "category_id", "score", "bbox", "segmentation")


def evaluate(ground_truth: dict[str, Any], results: Results, kind: Kind, engine: str = DEFAULT_ENGINE) -> COCOeval:
    """Match detections with ground truth and accumulate, as pycocotools does from files.

    Areas of detections are those of their boxes, for masks too, wherever the results hold boxes: that is what
    pycocotools' ``loadRes`` does with such a file.

    Args:
        ground_truth: COCO's annotation dict; ids of annotations may be 0.
        results: COCO's results list; ``bbox`` xywh and ``segmentation`` RLE as far as ``kind`` needs them. Where
            all of them have a ``mask_score``, masks are sorted by it in place of ``score``.
        kind: ``"box"``, ``"mask"`` or ``"boundary"``.
        engine: one of :data:`instseg.evaluation.engine.ENGINES`; the numbers are the same.

    Returns:
        The evaluation after ``evaluate``, ``accumulate`` and ``summarize``; its ``stats`` are fractions. It has
        matches image by image (``evalImgs``) by pycocotools alone.

    Raises:
        DataError: the results don't fit the ground truth; one line.
    """
    check_results(ground_truth, results, kind)
    truth = load(ground_truth)
    evaluation = evaluator(truth, load_results(truth, results, kind), kind, engine)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def load(ground_truth: dict[str, Any]) -> COCO:
    """pycocotools' index of an annotation dict, with annotations of its own that are numbered from 1.

    pycocotools marks what is matched by the annotation's id, so an object of id 0 would count as missed.
    """
    annotations = ground_truth["annotations"]
    return _indexed({**ground_truth, "annotations": [{**a, "id": i} for i, a in enumerate(annotations, 1)]})


def load_results(truth: COCO, results: Results, kind: Kind) -> COCO:
    """pycocotools' index of results without fault (see :func:`check_results`), with the scores of a kind."""
    if not results:
        # loadRes can't take an empty list
        return _indexed({**truth.dataset, "annotations": []})
    # loadRes takes results with a caption or keypoints for others than these
    scored = [{key: result[key] for key in _SCORED if key in result} for result in results]
    for one, score in zip(scored, scores(results, kind), strict=True):
        one["score"] = score
    with contextlib.redirect_stdout(io.StringIO()):
        return truth.loadRes(scored)


def scores(results: Results, kind: Kind) -> list[float]:
    """What results are sorted by: masks and boundaries by ``mask_score`` where results have it."""
    rated = kind != "box" and bool(results) and "mask_score" in results[0]
    return [result["mask_score" if rated else "score"] for result in results]


def metrics(evaluation: COCOeval) -> dict[str, float | None]:
    """COCO's twelve numbers in percent, None where there is nothing to measure (pycocotools' −1)."""
    return {
        name: None if value < 0 else 100 * float(value) for name, value in zip(NAMES, evaluation.stats, strict=True)
    }


def summary(evaluation: COCOeval) -> str:
    """pycocotools' own twelve lines."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        evaluation.summarize()
    return text.getvalue().rstrip()


def to_results(detections: Sequence[dict[str, Any]], image_ids: Sequence[int], category_ids: Sequence[int]) -> Results:
    """COCO results of :meth:`instseg.detector.MaskRCNN.detect_rle`'s detections.

    Where the head rates its masks, ``mask_score`` is the class score times the mask's (Huang et al., *Mask Scoring
    R-CNN*, CVPR 2019); ``score`` is the class score in any case.

    Args:
        detections: one dict an image.
        image_ids: one id an image.
        category_ids: the category of label 1, of label 2 and so on.
    """
    results: Results = []
    for found, image_id in zip(detections, image_ids, strict=True):
        boxes = found["boxes"].double().numpy()
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
        rows = zip(xywh, found["labels"].tolist(), found["scores"].tolist(), found["segmentations"], strict=True)
        first = len(results)
        for box, label, score, segmentation in rows:
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category_ids[label - 1],
                    "bbox": box,
                    "score": score,
                    "segmentation": segmentation,
                }
            )
        if "mask_scores" in found:
            products = (found["scores"].double() * found["mask_scores"].double()).tolist()
            for result, product in zip(results[first:], products, strict=True):
                result["mask_score"] = product
    return results


def _indexed(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    # loadRes copies info as it is
    coco.dataset = {"info": {}, **dataset}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
