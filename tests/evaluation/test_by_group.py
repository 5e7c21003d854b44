"""AP of groups of objects, against pycocotools on truths that hold one group alone."""

import math
from typing import Any

import numpy as np
import pytest
from scores import coco_eval

from instseg.evaluation import by_group, coco
from instseg.masks import paste


def block(x: int, y: int, side: int) -> dict[str, Any]:
    mask = np.zeros((1, 120, 400), dtype=np.uint8)
    mask[0, y : y + side, x : x + side] = 1
    return {"bbox": [float(x), float(y), float(side), float(side)], "segmentation": paste.encode(mask)[0]}


def study(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]], list[int], list[int]]:
    """Objects far apart, and shaken, doubled or missing detections of them; the group of each."""
    random = np.random.default_rng(seed)
    annotations, results, groups, of_result = [], [], [], []
    for image in range(6):
        for place in range(6):
            category, group = int(random.integers(1, 3)), int(random.integers(0, 3))
            x, y = 10 + 64 * place, 30
            shape = block(x, y, 40) | {"image_id": image, "category_id": category}
            annotations.append(shape | {"id": len(annotations), "area": 1600.0, "iscrowd": 0})
            groups.append(group)
            for _ in range(random.integers(0, 3)):
                dx, dy = random.integers(-9, 10, 2).tolist()
                results.append(shape | block(x + dx, y + dy, 40) | {"score": float(random.random())})
                of_result.append(group)
    truth = {
        "images": [{"id": i, "height": 120, "width": 400} for i in range(6)],
        "categories": [{"id": c, "name": str(c)} for c in (1, 2)],
        "annotations": annotations,
    }
    return truth, results, groups, of_result


def alone(
    truth: dict[str, Any], results: list[dict[str, Any]], groups: list[int], of_results: list[int], group: int
) -> float:
    kept = [a for a, g in zip(truth["annotations"], groups, strict=True) if g == group]
    # pycocotools takes the id 0 for no match
    with_ids = [annotation | {"id": number} for number, annotation in enumerate(kept, 1)]
    chosen = [dict(result) for result, g in zip(results, of_results, strict=True) if g == group]
    return 100 * float(coco_eval(truth | {"annotations": with_ids, "info": {}}, chosen, "mask").stats[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_each_group_has_the_ap_of_its_objects_alone(seed: int) -> None:
    truth, results, groups, of_result = study(seed)
    expected = [alone(truth, results, groups, of_result, group) for group in range(3)]
    assert len(set(expected)) == 3
    # a detection of nothing is in no group, a crowd region neither
    nothing = results[0] | block(10, 75, 40) | {"score": 0.99, "image_id": 5}
    crowd = truth["annotations"][0] | block(200, 78, 40) | {"iscrowd": 1}
    truth["annotations"].append(crowd)
    given = np.asarray([*groups, by_group.NO_GROUP])
    ap = by_group.mask_ap(coco.index(truth), [*results, nothing], given, 4)
    assert ap[:3] == pytest.approx(expected)
    assert math.isnan(ap[3])


def test_what_misses_an_object_counts_in_that_object_s_group() -> None:
    truth, _, _, _ = study(0)
    small = [a | {"category_id": 1, "id": i} for i, a in enumerate(truth["annotations"][:2])]
    truth["annotations"] = small
    hits = [{**a, "score": 0.5} for a in small]
    # more sure than the hit, and off the second object by half: one false alarm before one hit is a precision of 1/2
    miss = hits[1] | block(10 + 64 + 25, 30, 40) | {"score": 0.9}
    ap = by_group.mask_ap(coco.index(truth), [miss, *hits], np.asarray([0, 1]), 2)
    assert ap == pytest.approx([100.0, 50.0])


def test_masks_are_ranked_by_their_own_scores() -> None:
    truth, _, _, _ = study(0)
    truth["annotations"] = [truth["annotations"][0]]
    hit = truth["annotations"][0] | {"score": 0.4}
    miss = hit | block(10 + 25, 30, 40) | {"score": 0.9}
    assert by_group.mask_ap(coco.index(truth), [miss, hit], np.asarray([0]), 1) == pytest.approx([50.0])
    own = [miss | {"mask_score": 0.1}, hit | {"mask_score": 0.3}]
    assert by_group.mask_ap(coco.index(truth), own, np.asarray([0]), 1) == pytest.approx([100.0])
    assert by_group.mask_ap(coco.index(truth), [], np.asarray([0]), 1) == [0.0]
