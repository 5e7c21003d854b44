"""Masks in the boxes of the ground truth."""

from typing import Any

import numpy as np
import pytest
import small
import torch
from pycocotools import mask as coco_mask

from instseg.data.batches.loader import to_unit
from instseg.evaluation import gt_boxes


def _code(rows: slice, columns: slice) -> dict[str, Any]:
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[rows, columns] = 1
    code = coco_mask.encode(np.asfortranarray(mask))
    return {"size": [40, 40], "counts": code["counts"].decode()}


def _truth() -> dict[str, Any]:
    shapes = [(slice(0, 10), slice(0, 10)), (slice(0, 40), slice(0, 40)), (slice(5, 25), slice(5, 25))]
    annotations: list[dict[str, Any]] = [
        {
            "id": i,
            "image_id": 7,
            "category_id": 1,
            "iscrowd": int(i == 1),
            "area": (rows.stop - rows.start) * (columns.stop - columns.start),
            "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
            "segmentation": _code(rows, columns),
        }
        for i, (rows, columns) in enumerate(shapes)
    ]
    annotations.append({**annotations[0], "id": 3, "bbox": [3, 3, 0, 5]})
    return {"images": [{"id": 7, "height": 40, "width": 40}], "categories": [{"id": 1}], "annotations": annotations}


def test_crowds_and_empty_boxes_are_no_objects() -> None:
    assert gt_boxes.objects(_truth()) == [0, 2]


def test_ious_by_hand() -> None:
    truth = _truth()
    # half of the first, whose id is 0; all of the other
    of_masks, of_boundaries = gt_boxes.ious(
        truth, [_code(slice(0, 10), slice(0, 5)), _code(slice(5, 25), slice(5, 25))]
    )
    np.testing.assert_allclose(of_masks, [0.5, 1.0])
    # the diagonal is 57 pixels, so a boundary is one pixel wide: 36 of the square, 26 of its half, 10 + 2 * 4 in common
    np.testing.assert_allclose(of_boundaries, [18 / (36 + 26 - 18), 1.0])
    summary = gt_boxes.summary(truth, of_masks, of_boundaries)
    assert summary == {
        "objects": 2,
        "mask_IoU": pytest.approx(75.0),
        "boundary_IoU": pytest.approx(100 * (18 / 44 + 1) / 2),
        "mask_IoU_small": pytest.approx(75.0),
        "mask_IoU_medium": None,
        "mask_IoU_large": None,
    }


def test_nothing_to_score_is_none() -> None:
    truth = {**_truth(), "annotations": []}
    assert gt_boxes.summary(truth, *gt_boxes.ious(truth, []))["mask_IoU"] is None


def test_a_mask_in_a_box_is_the_one_that_a_detection_there_has() -> None:
    model, data = small.model().eval(), small.data("val", images=5)
    model.roi_heads.score_thresh = 0.0
    images = [to_unit(data[i][0], small.CPU) for i in range(3)]
    with torch.inference_mode():
        detected = model.detect_rle(images)
        assert all(len(found["boxes"]) for found in detected)
        masks = model.masks_in(images, [f["boxes"] for f in detected], [f["labels"] for f in detected])
    same = total = 0
    for found, there in zip(detected, masks, strict=True):
        overlaps = [
            coco_mask.iou([a], [b], [0])[0, 0] if coco_mask.area(a) + coco_mask.area(b) else 1.0
            for a, b in zip(found["segmentations"], there, strict=True)
        ]
        same, total = same + sum(iou > 0.98 for iou in overlaps), total + len(overlaps)
    # boxes are rounded when they come back from the network's input
    assert same == total > 0


def test_every_object_gets_its_own_mask_in_order() -> None:
    model, data = small.model().eval(), small.data("val", images=5)
    truth = data.ground_truth()
    truth["annotations"].reverse()
    masks = gt_boxes.predict(model, data, truth, device=small.CPU, batch_size=2)
    for i, mask in zip(gt_boxes.objects(truth), masks, strict=True):
        annotation = truth["annotations"][i]
        index = data.image_ids.index(annotation["image_id"])
        x, y, w, h = annotation["bbox"]
        label = 1 + [c["id"] for c in data.categories].index(annotation["category_id"])
        with torch.inference_mode():
            ((alone,),) = model.masks_in(
                [to_unit(data[index][0], small.CPU)], [torch.tensor([[x, y, x + w, y + h]])], [torch.tensor([label])]
            )
        assert alone == mask
