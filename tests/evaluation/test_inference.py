"""Predictions on a data set: of given boxes as of detected ones, in batches of any size."""

import pytest
import small
from pycocotools import mask as coco_mask

from instseg.evaluation.predict import Inference, predict_each, predict_in_boxes


def test_masks_in_given_boxes_are_those_of_detections_there() -> None:
    model, data = small.model(), small.data("val", images=5)
    model.options.box_score_thresh = 0.0
    (detections,) = predict_each([model], data, small.INFERENCE)
    assert not model.training
    assert len(detections) == 5 * model.options.box_detections_per_img
    in_boxes = predict_in_boxes(model, data, detections[::-1], Inference(small.CPU, batch_size=2))
    by_image = {image_id: [d for d in detections[::-1] if d["image_id"] == image_id] for image_id in data.image_ids}
    expected = [detection for image_id in data.image_ids for detection in by_image[image_id]]
    for result, detection in zip(in_boxes, expected, strict=True):
        assert (result["image_id"], result["category_id"]) == (detection["image_id"], detection["category_id"])
        assert (result["bbox"], result["score"]) == (pytest.approx(detection["bbox"]), detection["score"])
        masks = result["segmentation"], detection["segmentation"]
        # boxes are rounded when they are scaled back from the network's input
        empty = sum(map(coco_mask.area, masks)) == 0
        assert empty or coco_mask.iou([masks[0]], [masks[1]], [0])[0, 0] > 0.98


def test_images_without_boxes_have_no_results() -> None:
    model, data = small.model(), small.data("val", images=3)
    model.options.box_score_thresh = 0.0
    (detections,) = predict_each([model], data, small.INFERENCE)
    second = [result for result in detections if result["image_id"] == data.image_ids[1]]
    assert [r["bbox"] for r in predict_in_boxes(model, data, second, small.INFERENCE)] == [r["bbox"] for r in second]
    assert predict_in_boxes(model, data, [], small.INFERENCE) == []
