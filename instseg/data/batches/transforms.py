"""The augmentation of training images, by ``torchvision.transforms.v2``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from instseg.data.batches.copy_paste import paste
from instseg.data.batches.instances import outside, sanitized, without_crowds
from instseg.data.dataset import Sample, Target

PADDING = (124, 116, 104)
"""The mean colour of ImageNet's images, which is what batches are padded with."""


@dataclass(kw_only=True)
class Augmentation:
    """What changes training images; by default only a flip. It is also the node ``augmentation`` of the configuration.

    With ``scale``, ``crop`` or ``copy_paste`` instances that keep fewer than ``min_area`` pixels are dropped, the boxes
    of those that were cut or covered are put around what is left, and ``area`` is that of the masks as they are.

    Attributes:
        flip, vertical_flip: probabilities of the flips left to right and upside down.
        scale: None: the short side becomes one of the data set's sizes at random. Else the image is fitted into a
            square, of ``crop`` or else of the largest side, and becomes this many times as large, from the range [low,
            high]. [0.1, 2.0] with a crop is large-scale jitter (Ghiasi et al., CVPR 2021).
        crop: side in pixels of a square that is cut from the image at random; what is smaller is padded.
        photometric: probability of each of five distortions: brightness, contrast, saturation, hue, channel order.
        jpeg: probability of JPEG compression.
        jpeg_quality: its quality, from the range [low, high] of 1 to 100.
        copy_paste: probability that objects of a second image, moved in the same way, are pasted on top.
        min_area: in pixels of the image as it becomes, 1 or more.
        min_visible: least share of an object's pixels that pasted ones may leave, else it is dropped.
    """

    flip: float = 0.5
    vertical_flip: float = 0.0
    scale: list[float] | None = None
    crop: int | None = None
    photometric: float = 0.0
    jpeg: float = 0.0
    jpeg_quality: list[int] = field(default_factory=lambda: [30, 95])
    copy_paste: float = 0.0
    min_area: int = 10
    min_visible: float = 0.1


class TrainTransform:
    """(image, target) -> (image, target), with random choices from torch's generator.

    Args:
        min_size: sizes of the short side, in pixels, to choose from.
        max_size: of the long side, in pixels.
        options: those of :class:`Augmentation`; another name is a TypeError.
    """

    def __init__(self, *, min_size: Sequence[int], max_size: int, **options: Any) -> None:
        self.options = augmentation = Augmentation(**options)
        # geometric transforms, of image, boxes and masks alike
        self.moves: list[v2.Transform] = [v2.RandomHorizontalFlip(augmentation.flip)]
        if augmentation.vertical_flip:
            self.moves.append(v2.RandomVerticalFlip(augmentation.vertical_flip))
        side = augmentation.crop or max_size
        if augmentation.scale is None:
            self.moves.append(v2.RandomShortestSize(list(min_size), max_size=max_size, antialias=True))
        else:
            low, high = augmentation.scale
            self.moves.append(_ScaleJitter((side, side), (low, high), antialias=True))
        if augmentation.crop is not None:
            self.moves.append(_crop((augmentation.crop, augmentation.crop)))
        # transforms of the image alone: before the moves, or after them where the image has more pixels than a moved
        # one, as their cost grows with the pixels
        self.colours: list[v2.Transform] = []
        if augmentation.photometric:
            self.colours.append(v2.RandomPhotometricDistort(p=augmentation.photometric))
        if augmentation.jpeg:
            self.colours.append(v2.RandomApply([v2.JPEG(list(augmentation.jpeg_quality))], p=augmentation.jpeg))
        self.pixels = side**2
        self.drops = augmentation.scale is not None or augmentation.crop is not None or augmentation.copy_paste > 0

    def __call__(
        self, sample: Sample, partner: Callable[[], Sample] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """A training sample: without crowds, transformed, as plain tensors.

        Args:
            sample: as a data set gives it.
            partner: called for an image to paste from; None: from the same one.

        Returns:
            (3, H, W) uint8, and the target (see :class:`instseg.data.dataset.InstanceDataset`), which may have lost
            all of its instances.
        """
        image, target = self._move(sample)
        options = self.options
        if options.copy_paste and torch.rand(()) < options.copy_paste:
            height, width = image.shape[-2:]
            moved = self._move(sample if partner is None else partner(), _crop((height, width)))
            image, target = paste((image, target), moved, min_area=options.min_area, min_visible=options.min_visible)
        target = {k: v.as_subclass(torch.Tensor) if isinstance(v, torch.Tensor) else v for k, v in target.items()}
        return image.as_subclass(torch.Tensor), target

    def _move(self, sample: Sample, *further: v2.Transform) -> Sample:
        """The sample without crowds, moved and coloured."""
        image, target = sample
        large = image.shape[-2:].numel() > self.pixels
        moves = PackedMasks(*self.moves, *further)
        image, target = moves(image if large else self._coloured(image), without_crowds(target))
        if self.drops:
            target = sanitized(target, outside(target["boxes"], image.shape), self.options.min_area)
        return self._coloured(image) if large else image, target

    def _coloured(self, image: tv_tensors.Image) -> tv_tensors.Image:
        if not self.colours:
            return image
        for change in self.colours:
            image = change(image)
        # channels last, which v2 resizes in less time, to the same values
        return tv_tensors.Image(image.permute(1, 2, 0).contiguous().permute(2, 0, 1))


class PackedMasks(v2.Transform):
    """Transforms applied in turn to eight masks at a time: each mask is one bit of the uint8 planes they transform.

    That is exact where masks are resampled by nearest neighbour and filled with 0, as by v2's geometric transforms,
    and takes a quarter of the time. Transforms that add, drop or reorder instances must not be among them.
    """

    def __init__(self, *transforms: v2.Transform) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, image: tv_tensors.Image, target: Target) -> Sample:
        masks = target["masks"].as_subclass(torch.Tensor)
        n = len(masks)
        # with the strides of the masks, so that packing goes through memory in order
        planes = torch.zeros_like(masks[: -(-n // 8)])
        for k in range(n):
            planes[k // 8] |= masks[k] << k % 8
        target = {**target, "masks": tv_tensors.Mask(planes.contiguous())}
        for transform in self.transforms:
            image, target = transform(image, target)
        planes = target["masks"].as_subclass(torch.Tensor)
        masks = planes.new_empty((n, *planes.shape[1:]))
        for k in range(n):
            torch.bitwise_right_shift(planes[k // 8], k % 8, out=masks[k])
        return image, {**target, "masks": tv_tensors.Mask(masks.bitwise_and_(1))}


class _ScaleJitter(v2.ScaleJitter):
    """v2's, but no side of a long and thin image becomes 0 pixels."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = super().make_params(flat_inputs)["size"]
        return {"size": (max(height, 1), max(width, 1))}


def _crop(size: tuple[int, int]) -> v2.Transform:
    """A random crop of (H, W), padded where the image is smaller; boxes may then reach beyond it."""
    fill = {tv_tensors.Image: PADDING, "others": 0}
    return v2.Compose([v2.SetClampingMode(None), v2.RandomCrop(size, pad_if_needed=True, fill=fill)])
