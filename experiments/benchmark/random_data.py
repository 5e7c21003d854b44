"""Random images, objects and results, the same for every implementation."""

from typing import Any

import torch
from torch import Tensor

from instseg.data.batches.loader import Batch
from instseg.evaluation.coco import Results
from instseg.masks import paste

SEED = 0


def batch(size: tuple[int, int], count: int, instances: int, classes: int) -> Batch:
    """A training batch as :func:`instseg.data.batches.loader.training_batches` gives it: ``count`` images (3, H, W)
    uint8 of ``size`` (H, W), each with ``instances`` ellipses, of one colour each, on noise. ``classes`` counts the
    background."""
    generator = torch.Generator().manual_seed(SEED)
    images, targets = [], []
    for image_id in range(count):
        objects = boxes(size, instances, generator)
        masks = ellipses(objects, size)
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        for mask in masks:
            image[:, mask] = torch.randint(0, 256, (3, 1), generator=generator, dtype=torch.uint8)
        images.append(image)
        targets.append(
            {
                "boxes": objects,
                "labels": torch.randint(1, classes, (instances,), generator=generator),
                "masks": masks.to(torch.uint8),
                "area": masks.flatten(1).sum(1).float(),
                "iscrowd": torch.zeros(instances, dtype=torch.int64),
                "image_id": image_id,
            }
        )
    return images, targets


def boxes(size: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """(count, 4) random xyxy boxes inside an image of ``size``, sides an eighth to a half of the image's."""
    return _boxes(1 / 8 + 3 / 8 * torch.rand(count, 2, generator=generator), size, generator)


def detections(size: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """(count, 4) random xyxy boxes inside an image of ``size``, as many small ones as large ones: the logarithms of
    the sides are uniform between a fiftieth and a half of the image's."""
    return _boxes(25 ** -torch.rand(count, 2, generator=generator) / 2, size, generator)


def _boxes(shares: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Boxes at random places, their widths and heights these shares (N, 2) of the image's."""
    extent = torch.tensor([size[1], size[0]])
    sides = extent * shares
    corners = (extent - sides) * torch.rand(len(shares), 2, generator=generator)
    return torch.cat([corners, corners + sides], dim=1)


def coco_results(
    size: tuple[int, int], images: int, instances: int, classes: int, detections: int, *, jitter: float, right: float
) -> tuple[dict[str, Any], Results]:
    """The content of a random annotation file in COCO's format, and results near its objects.

    Args:
        size: (H, W) of every image, in pixels.
        images, instances, detections: numbers of images, and of objects and detections in each.
        classes: the background included.
        jitter: standard deviation of the sides of the detections' boxes from those of an object, in sides of it.
        right: share of the detections that get the class of their object; the others get a random one.
    """
    generator = torch.Generator().manual_seed(SEED)
    truth: dict[str, Any] = {
        "images": [{"id": i, "height": size[0], "width": size[1]} for i in range(1, images + 1)],
        "categories": [{"id": c, "name": str(c)} for c in range(1, classes)],
        "annotations": [],
    }
    results: Results = []
    for image_id in range(1, images + 1):
        objects = boxes(size, instances, generator)
        labels = torch.randint(1, classes, (instances,), generator=generator)
        for shape, label in zip(_shapes(objects, size), labels.tolist(), strict=True):
            annotation = {"id": len(truth["annotations"]) + 1, "image_id": image_id, "category_id": label, "iscrowd": 0}
            truth["annotations"].append({**annotation, **shape, "area": shape["bbox"][2] * shape["bbox"][3]})
        index = torch.randint(instances, (detections,), generator=generator)
        near = objects[index]
        near += jitter * (near[:, 2:] - near[:, :2]).repeat(1, 2) * torch.randn(detections, 4, generator=generator)
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        predicted = torch.randint(1, classes, (detections,), generator=generator)
        if right:
            predicted = torch.where(torch.rand(detections, generator=generator) < right, labels[index], predicted)
        scores = torch.rand(detections, generator=generator)
        for shape, label, score in zip(_shapes(near, size), predicted.tolist(), scores.tolist(), strict=True):
            results.append({"image_id": image_id, "category_id": label, "score": score, **shape})
    return truth, results


def _shapes(inside: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
    """``bbox`` and ``segmentation`` of the ellipses in boxes."""
    xywh = torch.cat([inside[:, :2], inside[:, 2:] - inside[:, :2]], dim=1).tolist()
    rles = paste.encode(ellipses(inside, size).numpy())
    return [{"bbox": box, "segmentation": rle} for box, rle in zip(xywh, rles, strict=True)]


def ellipses(inside: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool: the ellipse that fills each of N boxes."""
    centre, half = (inside[:, :2] + inside[:, 2:]) / 2, (inside[:, 2:] - inside[:, :2]) / 2
    y, x = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    across = ((x - centre[:, :1]) / half[:, :1]) ** 2
    down = ((y - centre[:, 1:]) / half[:, 1:]) ** 2
    return down[:, :, None] + across[:, None] <= 1


def blobs(count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, size, size) smooth probabilities, high in the middle as a trained head's are, each of its own shape."""
    noise = torch.nn.functional.interpolate(
        torch.randn(count, 1, 5, 5, generator=generator), size=(size, size), mode="bicubic", align_corners=False
    )[:, 0]
    axis = torch.linspace(-1, 1, size)
    hill = 3 - 5 * (axis[:, None] ** 2 + axis[None] ** 2)
    return torch.sigmoid(hill + 1.5 * noise)
