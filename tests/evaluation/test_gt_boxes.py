"""Masks in the boxes of the ground truth."""

from typing import Any

import numpy as np
import pytest
import small
import torch
from pycocotools import mask as coco_mask

from instseg.data.batches.loader import to_unit
from instseg.evaluation import gt_boxes
from instseg.evaluation.predict import Inference
from instseg.masks import paste


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
    masks = [_code(slice(0, 10), slice(0, 5)), _code(slice(5, 25), slice(5, 25))]
    mask_ious, boundary_ious = gt_boxes.ious(truth, masks)
    np.testing.assert_allclose(mask_ious, [0.5, 1.0])
    # the diagonal is 57 pixels, so a boundary is one pixel wide: 36 of the square, 26 of its half, 10 + 2 * 4 in common
    np.testing.assert_allclose(boundary_ious, [18 / (36 + 26 - 18), 1.0])
    summary = gt_boxes.summary(truth, mask_ious, boundary_ious)
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


def test_every_object_gets_its_own_mask_in_order() -> None:
    model, data = small.model().eval(), small.data("val", images=5)
    truth = data.ground_truth()
    truth["annotations"].reverse()
    (masks,) = gt_boxes.predict([model], data, truth, Inference(small.CPU, batch_size=2))
    for i, mask in zip(gt_boxes.objects(truth), masks, strict=True):
        annotation = truth["annotations"][i]
        image, _ = data[data.image_ids.index(annotation["image_id"])]
        x, y, w, h = annotation["bbox"]
        box, size = torch.tensor([[x, y, x + w, y + h]]), (image.shape[-2], image.shape[-1])
        label = 1 + [category["id"] for category in data.categories].index(annotation["category_id"])
        with torch.inference_mode():
            rois = model.rois_for_boxes([to_unit(image, small.CPU)], [box])
            alone = model.mask_head.predict(rois, torch.tensor([label])).probabilities
        assert paste.to_rles([alone], [box], [size]) == [[mask]]
