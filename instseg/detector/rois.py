"""Regions of interest (RoIs) of one batch: heads ask them for the features that they want."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instseg.detector.roi_align import Pyramid, roi_align
from instseg.device import no_autocast, on_device

ROI_LEVELS = (2, 3, 4, 5)
"""Pyramid levels that RoIs are taken from (P6 serves the RPN alone)."""


def fpn_levels(boxes: Tensor) -> Tensor:
    """The pyramid level that fits each box: eq. 1 of Lin et al., *Feature Pyramid Networks*, CVPR 2017.

    Args:
        boxes: (R, 4) xyxy in pixels of the network's input.

    Returns:
        (R,) int64 in 2..5; a box of 224 × 224 pixels lies on level 4.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # a broken box (NaN) must still give a level that exists
    level = torch.floor(4 + torch.log2(area.sqrt() / 224) + 1e-6).nan_to_num(ROI_LEVELS[0])
    return level.clamp(ROI_LEVELS[0], ROI_LEVELS[-1]).long()


class RoIs:
    """Regions of one batch over its feature pyramid; heads ask it for the features they want.

    Args:
        pyramid: level -> (B, C, H / 2^level, W / 2^level) features of the batch.
        boxes: one (n_i, 4) xyxy tensor an image, in pixels of the network's input. R is the sum of the n_i.
    """

    def __init__(self, pyramid: Mapping[int, Tensor], boxes: list[Tensor]) -> None:
        self.pyramid = pyramid if isinstance(pyramid, Pyramid) else Pyramid(pyramid)
        self.boxes = boxes
        self._aligned: dict[tuple[int, int | None], Tensor] = {}
        self._sampled: dict[int, tuple[Tensor, Tensor]] = {}
        self._kept: dict[nn.Module, Tensor] = {}

    def __len__(self) -> int:
        return sum(len(boxes) for boxes in self.boxes)

    def over(self, maps: Mapping[int, Tensor]) -> "RoIs":
        """The same boxes over other maps of the same sizes, such as maps with fewer channels made of the pyramid's."""
        return RoIs(Pyramid(maps, self.pyramid.aligned), self.boxes)

    @torch.compiler.disable
    def align(self, size: int, level: int | None = None) -> Tensor:
        """RoIAlign (He et al., *Mask R-CNN*, ICCV 2017) as torchvision does it, two samples a bin and axis, or half a
        cell off where the pyramid is ``aligned``.

        Args:
            size: height and width of the grid laid over each box.
            level: the pyramid level to read for every box; None reads the level that fits each box.

        Returns:
            (R, C, size, size) in memory format channels_last, remembered for the next head that asks for the same.
        """
        key = (size, level)
        if key not in self._aligned:
            boxes = torch.cat(self.boxes)
            image = torch.cat([torch.full((len(b),), i, device=b.device) for i, b in enumerate(self.boxes)])
            if level is not None:
                self._features(level)
            levels = fpn_levels(boxes) if level is None else torch.full_like(image, level)
            self._aligned[key] = roi_align(self.pyramid, boxes, image, levels, size)
        return self._aligned[key]

    @torch.compiler.disable
    def sample(self, points: Tensor, level: int) -> Tensor:
        """Features at points inside the boxes, bilinear between the centres of the map's cells
        (Kirillov et al., *PointRend*, CVPR 2020).

        :meth:`align` keeps the original Mask R-CNN's convention, half a cell away from this one.

        Args:
            points: (R, P, 2) as (x, y), (0, 0) a box's top left corner and (1, 1) its bottom right one.
            level: the pyramid level to read.

        Returns:
            (R, C, P), remembered until other points are asked for on the same level.
        """
        if level in self._sampled and self._sampled[level][0] is points:
            return self._sampled[level][1]
        features = self._features(level)
        height, width = features.shape[-2:]
        extent = on_device((width * 2**level, height * 2**level), points.device, torch.float32)
        parts = []
        # a bfloat16 position would be off by a fifth of a cell
        with no_autocast(points.device):
            for i, (boxes, p) in enumerate(zip(self.boxes, points.split([len(b) for b in self.boxes]), strict=True)):
                xy = boxes[:, None, :2] + p * (boxes[:, None, 2:] - boxes[:, None, :2])
                grid = (xy.float() / extent * 2 - 1)[None]
                values = F.grid_sample(features[i : i + 1].float(), grid, align_corners=False)[0]
                parts.append(values.transpose(0, 1))
        sampled = torch.cat(parts).to(features.dtype)
        self._sampled[level] = (points, sampled)
        return sampled

    @torch.compiler.disable
    def keep(self, owner: nn.Module, features: Tensor) -> None:
        """Store what a head's ``forward`` computed for these RoIs, for its own loss or mask logits to use."""
        self._kept[owner] = features

    @torch.compiler.disable
    def take(self, owner: nn.Module) -> Tensor | None:
        """Remove and return what a head stored last; None where there is nothing (any more)."""
        return self._kept.pop(owner, None)

    def _features(self, level: int) -> Tensor:
        if level not in self.pyramid:
            raise ValueError(f"level {level} is not in the pyramid; it has {sorted(self.pyramid)}")
        return self.pyramid[level]
