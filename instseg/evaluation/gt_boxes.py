"""Masks in the boxes of the ground truth: how well a head segments where no box of its own comes between."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from instseg.data.dataset import InstanceDataset
from instseg.detector.mask_rcnn import MaskRCNN
from instseg.evaluation import coco, engine
from instseg.evaluation.predict import Inference, boxes_by_image, predict_each
from instseg.masks import boundary
from instseg.masks.rle import RLE

SIZES = coco.SIZES
Floats = NDArray[np.float64]


def objects(truth: dict[str, Any]) -> list[int]:
    """Indices of the annotations that are objects with a box; crowd regions have no mask to predict."""
    return [
        i
        for i, annotation in enumerate(truth["annotations"])
        if not annotation.get("iscrowd") and min(annotation["bbox"][2:], default=0) > 0
    ]


def predict(
    models: Sequence[MaskRCNN], dataset: InstanceDataset, truth: dict[str, Any], inference: Inference
) -> list[list[RLE]]:
    """The masks of models that share all but the mask head: for each model that of each of the :func:`objects` of a
    data set's ground truth, in its own box and of its own class.

    Leaves the models in evaluation mode.

    Raises:
        DataError: an image cannot be read.
    """
    annotations = [truth["annotations"][i] for i in objects(truth)]
    boxes = boxes_by_image(dataset, annotations, torch.float32)
    results = predict_each(models, dataset, inference, boxes=boxes, title="ground-truth boxes")
    # results come image by image, and in each image in the annotations' order
    image_index = {image_id: i for i, image_id in enumerate(dataset.image_ids)}
    order = np.argsort([image_index[annotation["image_id"]] for annotation in annotations], kind="stable")
    rank = np.argsort(order)
    return [[rows[i]["segmentation"] for i in rank] for rows in results]


def ious(truth: dict[str, Any], masks: Sequence[RLE]) -> tuple[Floats, Floats]:
    """IoU of the masks, and of their boundaries (Cheng et al., *Boundary IoU*, CVPR 2021), with those of the
    :func:`objects` of a ground truth: (N,) each, in [0, 1]."""
    index = coco.load(truth)
    engine.encode(index)
    mask_ious, boundary_ious = [], []
    for i, mask in zip(objects(truth), masks, strict=True):
        true = index.anns[i + 1]["segmentation"]
        mask_ious.append(float(coco_mask.iou([mask], [true], [0])[0, 0]))
        boundary_ious.append(boundary.iou(*boundary.boundaries([mask, true])))
    return np.asarray(mask_ious), np.asarray(boundary_ious)


def summary(truth: dict[str, Any], mask_ious: Floats, boundary_ious: Floats) -> dict[str, Any]:
    """Means over objects in percent, None where there is none: ``mask_IoU`` and ``boundary_IoU``, the former by
    COCO's sizes too, and the number of ``objects``."""
    areas = np.asarray([truth["annotations"][i]["area"] for i in objects(truth)], dtype=np.float64)

    def mean(values: Floats) -> float | None:
        return 100 * float(values.mean()) if len(values) else None

    by_size = {
        f"mask_IoU_{name}": mean(mask_ious[(low <= areas) & (areas < high)]) for name, (low, high) in SIZES.items()
    }
    return {"objects": len(areas), "mask_IoU": mean(mask_ious), "boundary_IoU": mean(boundary_ious), **by_size}
