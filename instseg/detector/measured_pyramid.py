"""Pull: the norm of the gradient that some losses send into the maps of the pyramid.

All branches of the detector share the trunk. What a branch does to it goes through the gradient of its losses to the
pyramid's maps, so the norm of that gradient, over all maps of a batch together, says how hard the branch pulls.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from instseg.detector.roi_align import Pyramid

PULLS = ("pull_mask", "pull_box")
"""By these names the pull of the mask losses, and that of all box losses (RPN and box branch), are logged."""


class MeasuredPyramid(Pyramid):
    """A pyramid as one branch reads it: it notes the gradient that the branch's losses send into the maps, as their
    backward pass goes by.

    The maps are views of the pyramid's maps, and the table of rows is a view of the pyramid's table, so gradients of
    several branches are added up in the same order as without measuring, and all numbers stay the same to the last
    bit. Where no gradient goes to the pyramid (a frozen core), what would flow is measured and goes no further.
    """

    def __init__(self, pyramid: Pyramid) -> None:
        self._source = pyramid if next(iter(pyramid.values())).requires_grad else None
        super().__init__({level: self._view(features) for level, features in pyramid.items()}, pyramid.aligned)
        # the hooks must not hold the maps: in such a circle these would stay in memory for long
        self._gradients: dict[int, Tensor] = {}
        for level, features in self.items():
            if features.requires_grad:
                features.register_hook(partial(_add, self._gradients, level))

    def rows(self) -> Tensor:
        if self._rows is None and self._source is not None:
            rows = self._source.rows()
            self._rows = rows.view_as(rows)
            shapes = {level: self[level].shape for level in sorted(self)}
            self._rows.register_hook(partial(_add_rows, self._gradients, shapes))
        return super().rows()

    def pull(self) -> Tensor:
        """The norm, float32 and without dimensions, of the gradient of all backward passes so far; 0 where there was
        none."""
        if not self._gradients:
            return next(iter(self.values())).new_zeros((), dtype=torch.float32)
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in self._gradients.values()]
        return torch.linalg.vector_norm(torch.stack(norms))

    def _view(self, features: Tensor) -> Tensor:
        if self._source is not None:
            return features.view_as(features)
        return features.detach().requires_grad_(torch.is_grad_enabled())


def _add(gradients: dict[int, Tensor], level: int, gradient: Tensor) -> None:
    known = gradients.get(level)
    gradients[level] = gradient.detach() if known is None else known + gradient.detach()


def _add_rows(gradients: dict[int, Tensor], shapes: Mapping[int, torch.Size], gradient: Tensor) -> None:
    """Add the gradient of the table of rows, level by level."""
    parts = gradient.split([shape.numel() // shape[1] for shape in shapes.values()])
    for (level, (batch, channels, height, width)), part in zip(shapes.items(), parts, strict=True):
        _add(gradients, level, part.view(batch, height, width, channels).permute(0, 3, 1, 2))
