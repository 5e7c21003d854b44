"""Images in which the colour of a pixel says which instance of which image it shows."""

from typing import Any

import torch
from torchvision import tv_tensors

from instseg.data.dataset import InstanceDataset, Sample, make_target

HEIGHT, WIDTH = 48, 64
BACKGROUND = 255


class Coloured(InstanceDataset):
    """Overlapping rectangles; a later one hides those before. Red is 40 times the label, green 9 times the image's
    number, blue the instance's number. Every third image has a crowd region as its first instance."""

    def __init__(self, images: int = 6, instances: int = 11) -> None:
        self.name = "coloured"
        self.categories = [{"id": i, "name": str(i)} for i in range(1, 5)]
        self.image_ids = list(range(images))
        self.skipped: list[str] = []
        self._instances = instances

    def __getitem__(self, index: int) -> Sample:
        dice = torch.Generator().manual_seed(index)
        owner = torch.full((HEIGHT, WIDTH), BACKGROUND)
        labels = torch.randint(1, 5, (self._instances,), generator=dice)
        for number in range(self._instances):
            x, y, w, h = (int(torch.randint(low, high, (), generator=dice)) for low, high in SIDES)
            owner[max(y, 0) : y + h, max(x, 0) : x + w] = number
        seen = [n for n in range(self._instances) if (owner == n).sum() >= 12]
        masks = torch.stack([owner == n for n in seen])
        label = torch.cat([labels, torch.zeros(BACKGROUND + 1 - self._instances, dtype=torch.int64)])[owner]
        image = torch.stack([40 * label, torch.full_like(owner, 9 * index), owner]).to(torch.uint8)
        boxes = torch.tensor([box_of(mask) for mask in masks], dtype=torch.float32)
        iscrowd = torch.tensor([int(index % 3 == 2 and i == 0) for i in range(len(seen))])
        return tv_tensors.Image(image), make_target(boxes, labels[seen], masks, index, iscrowd)

    def ground_truth(self) -> dict[str, Any]:
        raise NotImplementedError

    def trainable_indices(self) -> list[int]:
        return list(range(len(self)))

    def sizes(self) -> list[tuple[int, int]]:
        return [(HEIGHT, WIDTH)] * len(self)

    def fingerprint(self) -> str:
        return ""

    def describe(self, index: int) -> str:
        return str(index)


SIDES = ((-6, WIDTH - 4), (-6, HEIGHT - 4), (10, 30), (10, 30))


def box_of(mask: torch.Tensor) -> list[int]:
    """xyxy of what is set, x2 and y2 one past the last column and row."""
    y, x = mask.nonzero().unbind(1)
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]
