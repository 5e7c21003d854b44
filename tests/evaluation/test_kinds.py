"""A kind of AP is one entry: a kind added by a test is scored, matched and checked like the others."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scores import random_boxes

from instseg.evaluation import coco
from instseg.evaluation.engine import ENGINES
from instseg.evaluation.kinds import METRIC_KINDS, MetricKind, iou
from instseg.evaluation.matches import match
from instseg.statistics.resampling import average_precision


def dice(*shapes: Any) -> NDArray[np.float64]:
    overlap = iou(*shapes)
    return np.where(np.asarray(shapes[2]) == 1, overlap, 2 * overlap / (1 + overlap))


@pytest.mark.parametrize(("needs", "like"), [("bbox", "box"), ("segmentation", "mask")])
def test_an_added_kind_is_scored_and_matched(
    needs: Any, like: str, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    monkeypatch.setitem(METRIC_KINDS, "dice", MetricKind("dice", needs, dice))
    truth, results = random_boxes(1, 5, 1)
    reference, fast = (coco.evaluate(truth, results, "dice", engine) for engine in reversed(ENGINES))
    assert list(reference.stats) == list(fast.stats)
    assert 100 * fast.stats[0] == pytest.approx(average_precision(match(coco.load(truth), results, "dice"))[0])
    # Dice is above 0.75 exactly where IoU is above 0.6
    by_iou = coco.evaluate(truth, results, like)
    assert np.array_equal(fast.eval["precision"][5], by_iou.eval["precision"][2])
    lacking = [{key: value for key, value in result.items() if key != needs} for result in results]
    refused(lambda: coco.evaluate(truth, lacking, "dice"), f"has no {needs}")


def test_what_tables_logs_and_older_results_have() -> None:
    assert coco.KINDS[:3] == ("box", "mask", "boundary")
    assert coco.IOU_TYPES == {"box": "bbox", "mask": "segm"}
    assert METRIC_KINDS["box"].logged and METRIC_KINDS["mask"].logged and not METRIC_KINDS["boundary"].logged
    # older results lack boundary AP; without box or mask AP a result is damaged
    assert [METRIC_KINDS[kind].optional for kind in ("box", "mask", "boundary")] == [False, False, True]
