"""Models' detections on a data set, as COCO results."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from instseg import progress
from instseg.data.batches.loader import read_images, to_unit
from instseg.data.dataset import InstanceDataset
from instseg.detector.mask_rcnn import Detections, MaskRCNN, in_rle
from instseg.evaluation.coco import Results, to_results
from instseg.training.loop import autocast

_LARGE = 2**25
"""Pixels of an image from which on it is not brought to floats before it is resized."""


def predict(
    model: MaskRCNN,
    dataset: InstanceDataset,
    *,
    device: torch.device,
    batch_size: int = 4,
    workers: int = 0,
    precision: str = "float32",
    title: str = "evaluate",
) -> Results:
    """Detections on every image. Leaves the model in evaluation mode.

    Raises:
        DataError: an image cannot be read.
    """
    (results,) = predict_each(
        [model], dataset, device=device, batch_size=batch_size, workers=workers, precision=precision, title=title
    )
    return results


@torch.inference_mode()
def predict_each(
    models: Sequence[MaskRCNN],
    dataset: InstanceDataset,
    *,
    device: torch.device,
    batch_size: int = 4,
    workers: int = 0,
    precision: str = "float32",
    title: str = "evaluate",
) -> list[Results]:
    """:func:`predict` for models that share all but the mask head: the boxes are found once."""
    for model in models:
        model.eval()
    category_ids = [category["id"] for category in dataset.categories]
    results: list[Results] = [[] for _ in models]
    with progress.bar(total=len(dataset), desc=title, unit="img", nested=True) as bar:
        for indices, images in read_images(dataset, batch_size=batch_size, workers=workers):
            image_ids = [dataset.image_ids[i] for i in indices]
            batch = [to_unit(image, device) for image in images]
            with autocast(device, precision):
                found = models[0].detect_boxes(batch)
                for model, one in zip(models, results, strict=True):
                    masks = model.mask_head.predict(found.rois, found.labels)
                    one += to_results(in_rle(found.with_masks(masks), batch), image_ids, category_ids)
            bar.update(len(indices))
    return results


@torch.inference_mode()
def predict_in_boxes(
    model: MaskRCNN,
    dataset: InstanceDataset,
    detections: Sequence[dict[str, Any]],
    *,
    device: torch.device,
    batch_size: int = 4,
    workers: int = 0,
    precision: str = "float32",
    title: str = "shared boxes",
) -> Results:
    """A model's masks of objects that another one has found: its boxes, classes and scores, this one's masks.

    Leaves the model in evaluation mode.

    Args:
        model: whose masks are asked for.
        dataset: the images.
        detections: COCO results on them; what they say of masks is not read.
        device, batch_size, workers, precision, title: as for :func:`predict`.

    Raises:
        DataError: an image cannot be read.
    """
    model.eval()
    category_ids = [category["id"] for category in dataset.categories]
    label_of = {category_id: label for label, category_id in enumerate(category_ids, 1)}
    by_image: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in dataset.image_ids}
    for one in detections:
        by_image[one["image_id"]].append(one)
    results: Results = []
    with progress.bar(total=len(dataset), desc=title, unit="img", nested=True) as bar:
        for indices, images in read_images(dataset, batch_size=batch_size, workers=workers):
            image_ids = [dataset.image_ids[i] for i in indices]
            each = []
            for theirs in (by_image[image_id] for image_id in image_ids):
                xywh = torch.tensor([one["bbox"] for one in theirs], dtype=torch.float64).reshape(-1, 4)
                labels = torch.tensor([label_of[one["category_id"]] for one in theirs], dtype=torch.int64)
                found = {
                    "boxes": torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1).float(),
                    "labels": labels,
                    "scores": torch.tensor([one["score"] for one in theirs], dtype=torch.float64),
                }
                each.append({key: value.to(device) for key, value in found.items()})
            batch = [to_unit(image, device) for image in images]
            with autocast(device, precision):
                found_all = Detections(model.rois_for_boxes(batch, [one["boxes"] for one in each]), each)
                masks = model.mask_head.predict(found_all.rois, found_all.labels)
                results += to_results(in_rle(found_all.with_masks(masks), batch), image_ids, category_ids)
            bar.update(len(indices))
    return results


@torch.inference_mode()
def predict_image(
    model: MaskRCNN, pixels: np.ndarray, *, device: torch.device, precision: str = "float32"
) -> dict[str, Any]:
    """Detections on one image that may be of any size. Leaves the model in evaluation mode.

    Up to 33 million pixels it is what :func:`predict` finds. A larger image, whose floats would fill gigabytes, is
    brought to the network's size beforehand (bilinear, antialiased).

    Args:
        model: a trained detector.
        image: (H, W, 3) uint8.
        device: where the model is.
        precision: as the model was trained with.

    Returns:
        ``boxes, labels, scores`` (and ``mask_scores``) on the CPU and ``segmentations``, as
        :meth:`~instseg.detector.mask_rcnn.MaskRCNN.detect_rle` gives them, in the image's own pixels.
    """
    model.eval()
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    seen = image
    height, width = model.input_size(*pixels.shape[:2])
    # of a strip so thin that rounding down would leave nothing of it, a row of pixels is kept
    if pixels.shape[0] * pixels.shape[1] > _LARGE or min(height, width) == 1:
        resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        seen = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    with autocast(device, precision):
        (found,) = model.detect([to_unit(seen, device)])
        if seen is not image:
            scale = [image.shape[2] / seen.shape[2], image.shape[1] / seen.shape[1]] * 2
            found["boxes"] = found["boxes"] * torch.tensor(scale, device=device)
        (result,) = in_rle([found], [image])
    return result
