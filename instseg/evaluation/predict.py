"""Models' detections on a data set, as COCO results."""

from collections.abc import Sequence
from typing import Any

import torch

from instseg import progress
from instseg.data.dataset import InstanceDataset
from instseg.data.loader import pictures, to_unit
from instseg.detector.mask_rcnn import Found, MaskRCNN, in_rle
from instseg.evaluation.coco import Results, to_results
from instseg.training.loop import autocast


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
    """Detections on every picture. Leaves the model in evaluation mode.

    Raises:
        DataError: a picture cannot be read.
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
        for indices, images in pictures(dataset, batch_size=batch_size, workers=workers):
            image_ids = [dataset.image_ids[i] for i in indices]
            batch = [to_unit(image, device) for image in images]
            with autocast(device, precision):
                found = models[0].find(batch)
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
        dataset: the pictures.
        detections: COCO results on them; what they say of masks is not read.
        device, batch_size, workers, precision, title: as for :func:`predict`.

    Raises:
        DataError: a picture cannot be read.
    """
    model.eval()
    category_ids = [category["id"] for category in dataset.categories]
    label_of = {category_id: label for label, category_id in enumerate(category_ids, 1)}
    by_image: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in dataset.image_ids}
    for one in detections:
        by_image[one["image_id"]].append(one)
    results: Results = []
    with progress.bar(total=len(dataset), desc=title, unit="img", nested=True) as bar:
        for indices, images in pictures(dataset, batch_size=batch_size, workers=workers):
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
                found_all = Found(model.rois_in(batch, [one["boxes"] for one in each]), each)
                masks = model.mask_head.predict(found_all.rois, found_all.labels)
                results += to_results(in_rle(found_all.with_masks(masks), batch), image_ids, category_ids)
            bar.update(len(indices))
    return results
