"""Models' detections on a data set, as COCO results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from instseg import progress
from instseg.data.batches.loader import read_images, to_unit
from instseg.data.dataset import InstanceDataset
from instseg.detector.mask_rcnn import Detections, MaskRCNN, in_rle
from instseg.device import autocast
from instseg.evaluation.coco import Results, to_results

_LARGE = 2**25
"""Pixels of an image above which it is resized before it is brought to floats."""


@dataclass(frozen=True)
class Inference:
    """How models are run over a data set: where they are, images at a time, processes that read images (0: this one
    does), and the precision that they were trained with (:class:`instseg.training.schedule.Schedule`)."""

    device: torch.device
    batch_size: int = 4
    workers: int = 0
    precision: str = "float32"


@torch.inference_mode()
def predict_each(
    models: Sequence[MaskRCNN],
    dataset: InstanceDataset,
    inference: Inference,
    *,
    boxes: Mapping[int, Mapping[str, Tensor]] | None = None,
    title: str = "evaluate",
) -> list[Results]:
    """Detections on every image, of models that share all but the mask head: trunk and boxes are computed once.

    Leaves the models in evaluation mode.

    Args:
        boxes: the objects whose masks are wanted: the id of each image -> ``boxes`` (n, 4) xyxy in pixels, ``labels``
            (n,) from 1 and ``scores`` (n,). None: those that the models' own box branch detects.
        title: text of the progress bar.

    Returns:
        For each model the results in the order of the images, and in each that of ``boxes``.

    Raises:
        DataError: an image cannot be read.
    """
    for model in models:
        model.eval()
    category_ids = [category["id"] for category in dataset.categories]
    results: list[Results] = [[] for _ in models]
    with progress.bar(total=len(dataset), desc=title, unit="img", nested=True) as bar:
        for indices, images in read_images(dataset, batch_size=inference.batch_size, workers=inference.workers):
            image_ids = [dataset.image_ids[i] for i in indices]
            batch = [to_unit(image, inference.device) for image in images]
            with autocast(inference.device, inference.precision):
                if boxes is None:
                    detections = models[0].detect_boxes(batch)
                else:
                    given = [{k: v.to(inference.device) for k, v in boxes[image_id].items()} for image_id in image_ids]
                    rois = models[0].rois_for_boxes(batch, [objects["boxes"] for objects in given])
                    detections = Detections(rois, given)
                for model, rows in zip(models, results, strict=True):
                    masks = model.mask_head.predict(detections.rois, detections.labels)
                    rows += to_results(in_rle(detections.with_masks(masks), batch), image_ids, category_ids)
            bar.update(len(indices))
    return results


def predict_in_boxes(
    model: MaskRCNN, dataset: InstanceDataset, results: Sequence[dict[str, Any]], inference: Inference
) -> Results:
    """A model's masks of the objects that another one has detected: boxes, classes and scores are the other's.

    Leaves the model in evaluation mode.

    Args:
        results: COCO results of the other model; their masks are not read.

    Raises:
        DataError: an image cannot be read.
    """
    # float32 corners that were stored as xywh come back exactly only in float64
    boxes = boxes_by_image(dataset, results, torch.float64)
    return predict_each([model], dataset, inference, boxes=boxes, title="shared boxes")[0]


def boxes_by_image(
    dataset: InstanceDataset, objects: Sequence[Mapping[str, Any]], dtype: torch.dtype
) -> dict[int, dict[str, Tensor]]:
    """COCO annotations or results as :func:`predict_each` takes them.

    Args:
        objects: each with ``image_id``, ``category_id`` and ``bbox`` (xywh); ``score`` is 1 where there is none.
        dtype: that corners are computed in.
    """
    label_of = {category["id"]: label for label, category in enumerate(dataset.categories, 1)}
    by_image: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in dataset.image_ids}
    for item in objects:
        by_image[item["image_id"]].append(item)
    boxes = {}
    for image_id, items in by_image.items():
        xywh = torch.tensor([item["bbox"] for item in items], dtype=dtype).reshape(-1, 4)
        boxes[image_id] = {
            "boxes": box_convert(xywh, "xywh", "xyxy").float(),
            "labels": torch.tensor([label_of[item["category_id"]] for item in items], dtype=torch.int64),
            "scores": torch.tensor([item.get("score", 1.0) for item in items], dtype=torch.float64),
        }
    return boxes


@torch.inference_mode()
def predict_image(
    model: MaskRCNN, pixels: np.ndarray, *, device: torch.device, precision: str = "float32"
) -> dict[str, Any]:
    """Detections on one image, (H, W, 3) uint8, of any size. Leaves the model, which is on ``device``, in evaluation
    mode.

    Up to 33 million pixels the result is that of :func:`predict_each`. A larger image, whose floats would fill
    gigabytes, is resized to the network's size beforehand (bilinear, antialiased).

    Returns:
        ``boxes, labels, scores`` (and ``mask_scores``) on the CPU and ``segmentations``, as
        :meth:`~instseg.detector.mask_rcnn.MaskRCNN.detect_rle` gives them, in the image's own pixels.
    """
    model.eval()
    image = resized = torch.from_numpy(pixels).permute(2, 0, 1)
    height, width = model.input_size(*pixels.shape[:2])
    # an image so thin that torchvision would round a side to 0 is resized here, too, to a side of 1
    if pixels.shape[0] * pixels.shape[1] > _LARGE or min(height, width) == 1:
        smaller = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        resized = torch.from_numpy(np.array(smaller)).permute(2, 0, 1)
    with autocast(device, precision):
        (detected,) = model.detect([to_unit(resized, device)])
        if resized is not image:
            scale = [image.shape[2] / resized.shape[2], image.shape[1] / resized.shape[1]] * 2
            detected["boxes"] = detected["boxes"] * torch.tensor(scale, device=device)
        (result,) = in_rle([detected], [image])
    return result
