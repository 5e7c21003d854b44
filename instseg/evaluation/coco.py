"""COCO's metrics: pycocotools' numbers, by pycocotools itself or by faster-coco-eval; and boundary AP."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager, redirect_stdout
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_convert

from instseg.evaluation.checks import check_ground_truth as check_ground_truth
from instseg.evaluation.checks import check_results as check_results
from instseg.evaluation.engine import DEFAULT as DEFAULT_ENGINE
from instseg.evaluation.engine import evaluator
from instseg.evaluation.kinds import METRIC_KINDS
from instseg.evaluation.kinds import Kind as Kind

Results = list[dict[str, Any]]

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""In pycocotools' order."""
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
"""COCO's ranges of areas, in square pixels: from the first number up to, and without, the second."""
KINDS: tuple[Kind, ...] = tuple(METRIC_KINDS)
"""In the order of tables; :mod:`instseg.evaluation.kinds` says what each is."""
IOU_TYPES: dict[Kind, str] = {kind.name: kind.iou_type for kind in METRIC_KINDS.values() if kind.in_pycocotools}
"""pycocotools' names of the kinds that it knows."""


def evaluate(ground_truth: dict[str, Any], results: Results, kind: Kind, engine: str = DEFAULT_ENGINE) -> COCOeval:
    """Match detections with ground truth and accumulate, as pycocotools does from files.

    Areas of detections are those of their boxes, for masks too, wherever the results hold boxes, as ``loadRes`` has it.

    Args:
        ground_truth: COCO's annotation dict.
        results: COCO's results list; ``bbox`` xywh and ``segmentation`` RLE as far as ``kind`` needs them. Where
            all of them have a ``mask_score``, masks are sorted by it in place of ``score``.
        engine: one of :data:`instseg.evaluation.engine.ENGINES`; the numbers are the same.

    Returns:
        The evaluation after ``summarize``; its ``stats`` are fractions. Only pycocotools' own has matches image by
        image (``evalImgs``).

    Raises:
        DataError: the results don't fit the ground truth; one line.
    """
    check_results(ground_truth, results, kind)
    truth = load(ground_truth)
    evaluation = evaluator(truth, load_results(truth, results, kind), kind, engine)
    with quiet():
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def load(ground_truth: dict[str, Any]) -> COCO:
    """pycocotools' index of an annotation dict, with annotations of its own that are numbered from 1.

    pycocotools marks what is matched by the annotation's id, so an object of id 0 would count as missed.
    """
    annotations = ground_truth["annotations"]
    return index({**ground_truth, "annotations": [{**a, "id": i} for i, a in enumerate(annotations, 1)]})


def load_results(truth: COCO, results: Results, kind: Kind) -> COCO:
    """pycocotools' index of results without fault (see :func:`check_results`), with the scores of a kind."""
    if not results:
        # loadRes can't take an empty list
        return index({**truth.dataset, "annotations": []})
    # loadRes takes results with a caption or keypoints for others than these
    keys = ("image_id", "category_id", "bbox", "segmentation")
    scored = [
        {**{key: result[key] for key in keys if key in result}, "score": score}
        for result, score in zip(results, scores(results, kind), strict=True)
    ]
    with quiet():
        return truth.loadRes(scored)


def scores(results: Results, kind: Kind) -> list[float]:
    """What results are sorted by: kinds of masks by ``mask_score`` where results have it."""
    rated = METRIC_KINDS[kind].of_masks and bool(results) and "mask_score" in results[0]
    return [result["mask_score" if rated else "score"] for result in results]


def metrics(evaluation: COCOeval) -> dict[str, float | None]:
    """COCO's twelve numbers in percent, None where there is nothing to measure (pycocotools' −1)."""
    stats = zip(NAMES, evaluation.stats, strict=True)
    return {name: None if value < 0 else 100 * float(value) for name, value in stats}


def summary(evaluation: COCOeval) -> str:
    """pycocotools' own twelve lines."""
    with quiet() as text:
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
    for image, image_id in zip(detections, image_ids, strict=True):
        columns = {
            "category_id": [category_ids[label - 1] for label in image["labels"].tolist()],
            "bbox": box_convert(image["boxes"].double(), "xyxy", "xywh").tolist(),
            "score": image["scores"].tolist(),
            "segmentation": image["segmentations"],
        }
        if "mask_scores" in image:
            columns["mask_score"] = (image["scores"].double() * image["mask_scores"].double()).tolist()
        rows = zip(*columns.values(), strict=True)
        results += [{"image_id": image_id, **dict(zip(columns, row, strict=True))} for row in rows]
    return results


def index(dataset: dict[str, Any]) -> COCO:
    """pycocotools' index of an annotation dict, of which no entry is copied."""
    coco = COCO()
    # loadRes asks for info
    coco.dataset = {"info": {}, **dataset}
    with quiet():
        coco.createIndex()
    return coco


def quiet() -> AbstractContextManager[io.StringIO]:
    """Inside, what pycocotools prints is kept from the terminal."""
    return redirect_stdout(io.StringIO())
