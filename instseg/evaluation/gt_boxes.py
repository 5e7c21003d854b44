"""Masks in the boxes of the ground truth: how well a head segments where no box of its own comes between."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from instseg import progress
from instseg.data.batches.loader import read_images, to_unit
from instseg.data.dataset import InstanceDataset
from instseg.detector.mask_rcnn import MaskRCNN
from instseg.evaluation import coco, engine
from instseg.masks import boundary
from instseg.masks.rle import RLE
from instseg.training.loop import autocast

SIZES = coco.SIZES
Floats = NDArray[np.float64]


def objects(truth: dict[str, Any]) -> list[int]:
    """Which of the annotations of a ground truth are objects with a box: crowd regions have no mask to predict."""
    return [
        i
        for i, one in enumerate(truth["annotations"])
        if not one.get("iscrowd") and min(one["bbox"][2:], default=0) > 0
    ]


def predict(
    model: MaskRCNN,
    dataset: InstanceDataset,
    truth: dict[str, Any],
    *,
    device: torch.device,
    batch_size: int = 4,
    workers: int = 0,
    precision: str = "float32",
    title: str = "true boxes",
) -> list[RLE]:
    """The mask of each of the :func:`objects` of a data set's ground truth, in its own box and of its own class.

    Leaves the model in evaluation mode.

    Raises:
        DataError: an image cannot be read.
    """
    (masks,) = predict_each(
        [model], dataset, truth, device=device, batch_size=batch_size, workers=workers, precision=precision, title=title
    )
    return masks


@torch.inference_mode()
def predict_each(
    models: Sequence[MaskRCNN],
    dataset: InstanceDataset,
    truth: dict[str, Any],
    *,
    device: torch.device,
    batch_size: int = 4,
    workers: int = 0,
    precision: str = "float32",
    title: str = "true boxes",
) -> list[list[RLE]]:
    """:func:`predict` for models that share all but the mask head: the trunk runs once."""
    for model in models:
        model.eval()
    label_of = {category["id"]: label for label, category in enumerate(dataset.categories, 1)}
    by_image: dict[int, list[int]] = {image_id: [] for image_id in dataset.image_ids}
    chosen = objects(truth)
    for i in chosen:
        by_image[truth["annotations"][i]["image_id"]].append(i)
    found: list[dict[int, RLE]] = [{} for _ in models]
    with progress.bar(total=len(dataset), desc=title, unit="img", nested=True) as bar:
        for indices, images in read_images(dataset, batch_size=batch_size, workers=workers):
            here = [by_image[dataset.image_ids[i]] for i in indices]
            annotations = [[truth["annotations"][i] for i in one] for one in here]
            xywh = [torch.tensor([a["bbox"] for a in one], dtype=torch.float32).reshape(-1, 4) for one in annotations]
            boxes = [torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], dim=1).to(device) for b in xywh]
            labels = [
                torch.tensor([label_of[a["category_id"]] for a in one], dtype=torch.int64, device=device)
                for one in annotations
            ]
            batch = [to_unit(image, device) for image in images]
            with autocast(device, precision):
                rois = models[0].rois_for_boxes(batch, boxes)
                for model, mine in zip(models, found, strict=True):
                    for positions, codes in zip(here, model.masks_for_rois(rois, batch, boxes, labels), strict=True):
                        mine |= zip(positions, codes, strict=True)
            bar.update(len(indices))
    return [[mine[i] for i in chosen] for mine in found]


def ious(truth: dict[str, Any], masks: Sequence[RLE]) -> tuple[Floats, Floats]:
    """IoU of the masks, and of their boundaries (Cheng et al., *Boundary IoU*, CVPR 2021), with those of the
    :func:`objects` of a ground truth: (N,) each, in [0, 1]."""
    index = coco.load(truth)
    engine.encode(index)
    of_masks, of_boundaries = [], []
    for i, mask in zip(objects(truth), masks, strict=True):
        true = index.anns[i + 1]["segmentation"]
        of_masks.append(float(coco_mask.iou([mask], [true], [0])[0, 0]))
        a, b = boundary.boundaries([mask, true])
        of_boundaries.append(boundary.iou(a, b))
    return np.asarray(of_masks), np.asarray(of_boundaries)


def summary(truth: dict[str, Any], of_masks: Floats, of_boundaries: Floats) -> dict[str, Any]:
    """Means over objects in percent, None where there is none: ``mask_IoU`` and ``boundary_IoU``, the former by
    COCO's sizes too, and the number of ``objects``."""
    areas = np.asarray([truth["annotations"][i]["area"] for i in objects(truth)], dtype=np.float64)

    def mean(values: Floats) -> float | None:
        return 100 * float(values.mean()) if len(values) else None

    by_size = {
        f"mask_IoU_{name}": mean(of_masks[(low <= areas) & (areas < high)]) for name, (low, high) in SIZES.items()
    }
    return {"objects": len(areas), "mask_IoU": mean(of_masks), "boundary_IoU": mean(of_boundaries), **by_size}
