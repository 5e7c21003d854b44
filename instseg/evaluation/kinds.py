"""The kinds of AP, an entry each: by what overlap detections are matched with objects, and what that needs.

A kind more is an overlap and an entry here. Scoring, matching and checking read this registry and name no kind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from instseg.masks import boundary

Kind = str
"""The name of a kind, a key of :data:`METRIC_KINDS`."""


Overlap = Callable[[Sequence[Any], Sequence[Any], Sequence[int], float], NDArray[np.float64]]
"""How well D detections and G objects of one image and category agree: (D, G) in [0, 1].

It is given D and G boxes xywh or compressed RLEs, at least one each; (G,) 1 for a crowd region, of which the share of
the detection that lies in it counts; and the lowest threshold, below which an overlap need not be exact.
"""


def iou(detected: Sequence[Any], objects: Sequence[Any], crowd: Sequence[int], at_least: float) -> NDArray[np.float64]:
    """COCO's own :data:`Overlap`: the IoU of boxes or of masks."""
    return np.asarray(coco_mask.iou(list(detected), list(objects), [int(value) for value in crowd]))


@dataclass(frozen=True)
class MetricKind:
    """A kind of AP."""

    name: Kind  # as in tables, in result.json and in NAME_AP, the column of its AP
    needs: Literal["bbox", "segmentation"]  # the key of results and annotations that holds the shapes to compare
    overlap: Overlap = iou  # what detections are matched by
    logged: bool = False  # whether it is also scored during training, by runtime.evaluate_every
    optional: bool = False  # whether the results of finished runs may lack it, since it was added after them

    @property
    def of_masks(self) -> bool:
        """Whether masks are compared; results are then sorted by ``mask_score`` where they have it."""
        return self.needs == "segmentation"

    @property
    def in_pycocotools(self) -> bool:
        """Whether pycocotools knows it, so that its numbers are the measure."""
        return self.overlap is iou

    @property
    def iou_type(self) -> str:
        """pycocotools' word for what is compared."""
        return "segm" if self.of_masks else "bbox"


METRIC_KINDS: dict[Kind, MetricKind] = {
    kind.name: kind
    for kind in (
        MetricKind("box", "bbox", logged=True),
        MetricKind("mask", "segmentation", logged=True),
        MetricKind("boundary", "segmentation", boundary.overlaps, optional=True),
    )
}
"""By name, in the order of tables."""
