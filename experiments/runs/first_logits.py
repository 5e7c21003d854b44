"""Where a new mask head begins: one whose first logits are far from 0 learns from another start than the others."""

import json
import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

import heads
from experiments.config.run import Config
from instseg import progress, seeds, timing

TOLERANCE = 0.05
"""Part of ln 2, the cross-entropy of logits of 0, by which that of a head's first logits may be larger."""
IMAGE, ROIS = (128, 128), 8


def warn(config: Config, num_classes: int) -> None:
    """Print a line where the masks of a new head don't begin near 0.5, once in a process for each head."""
    options = json.dumps({**config.head.common(), **config.head.options}, sort_keys=True)
    loss = _first_loss(config.head.name, config.trunk.out_channels, num_classes, options)
    if abs(loss / math.log(2) - 1) > TOLERANCE:
        progress.say(
            f"head {config.head.variant} begins with a mask loss of about {loss:.2f}, other heads with ln 2 = 0.69: "
            "let the layers that make mask logits begin small (heads._blocks.initialise does), or the start is part of "
            "what is compared"
        )


@lru_cache(maxsize=64)
def _first_loss(name: str, channels: int, num_classes: int, options: str) -> float:
    """The largest mean cross-entropy, against any masks of even odds, of the logits that a new head gives."""
    arguments: dict[str, Any] = json.loads(options)
    with seeds.stream(0, "first logits"), torch.no_grad():
        head = heads.build(name, channels, num_classes, **arguments)
        rois = timing.random_rois(channels, IMAGE, ROIS, torch.device("cpu"))()
        labels = torch.ones(ROIS, dtype=torch.int64)
        logits = head(rois)
        given = (logits, head.mask_logits(logits, rois, labels))
    return max(float((F.softplus(values) - values / 2).mean()) for values in given)
