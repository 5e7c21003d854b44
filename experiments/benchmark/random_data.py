"""Random images with random objects, the same for every implementation."""

import torch
from torch import Tensor

from instseg.data.batches.loader import Batch

SEED = 0


def batch(size: tuple[int, int], count: int, instances: int, classes: int) -> Batch:
    """A training batch as :func:`instseg.data.batches.loader.training_batches` gives it.

    Args:
        size: (H, W) of every image, in pixels.
        count: images.
        instances: objects in each: ellipses of one colour on noise, sides an eighth to a half of the image's.
        classes: the background included; labels are drawn from the others.

    Returns:
        Images (3, H, W) uint8, and targets with ``boxes``, ``labels``, ``masks``, ``area``, ``iscrowd``, ``image_id``.
    """
    generator = torch.Generator().manual_seed(SEED)
    images, targets = [], []
    for image_id in range(count):
        found = boxes(size, instances, generator)
        masks = ellipses(found, size)
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        for mask in masks:
            colour = torch.randint(0, 256, (3, 1), generator=generator, dtype=torch.uint8)
            image[:, mask] = colour
        images.append(image)
        targets.append(
            {
                "boxes": found,
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
    extent = torch.tensor([size[1], size[0]])
    sides = extent * (1 / 8 + 3 / 8 * torch.rand(count, 2, generator=generator))
    corners = (extent - sides) * torch.rand(count, 2, generator=generator)
    return torch.cat([corners, corners + sides], dim=1)


def detections(size: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """(count, 4) random xyxy boxes inside an image of ``size``, as many small ones as large ones: the logarithms of
    the sides are uniform between a fiftieth and a half of the image's."""
    extent = torch.tensor([size[1], size[0]])
    sides = extent / 2 * 25 ** -torch.rand(count, 2, generator=generator)
    corners = (extent - sides) * torch.rand(count, 2, generator=generator)
    return torch.cat([corners, corners + sides], dim=1)


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
