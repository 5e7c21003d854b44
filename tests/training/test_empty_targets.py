"""Images that augmentation left without an instance are trained on, under both protocols."""

from typing import Any

import pytest
import small
import torch

import heads
from instseg import seeds
from instseg.data.batches.instances import PER_INSTANCE
from instseg.data.batches.loader import Batch
from instseg.detector import MaskRCNN
from instseg.training import frozen_core
from instseg.training.step import step

SCHEDULE = small.recipe()


def _batch(empty: int) -> Batch:
    """Two images, the first so many of them without instances."""
    ((images, targets),) = small.batches(1)
    for target in targets[:empty]:
        target.update({key: target[key][:0] for key in PER_INSTANCE})
    return images, targets


def _model(options: dict[str, Any]) -> MaskRCNN:
    net = small.model()
    with seeds.stream(1):
        net.mask_head = heads.build("unet", 8, 2, **options)
    return net.train()


@pytest.mark.parametrize("options", [{}, {"norm": "batch", "dice_weight": 1.0, "boundary_weight": 1.0}])
@pytest.mark.parametrize("empty", [1, 2])
def test_a_step_learns_from_what_there_is(empty: int, options: dict[str, Any]) -> None:
    net = _model(options)
    before = {name: value.clone() for name, value in net.named_parameters()}
    losses = step(net, SCHEDULE.make_optimizer(net), SCHEDULE, _batch(empty), small.CPU)
    positive = {name: value > 0 for name, value in losses.items()}
    masks = dict.fromkeys(("loss_mask", *(f"loss_mask_{k[:-7]}" for k in options if k.endswith("weight"))), empty < 2)
    boxes = {"loss_box_reg": empty < 2, "loss_rpn_box_reg": empty < 2}
    pulls = {"pull_mask": empty < 2, "pull_box": True}
    assert positive == {"loss_classifier": True, "loss_objectness": True, **boxes, **masks, **pulls}
    moved = {name for name, value in net.named_parameters() if not torch.equal(value, before[name])}
    assert any(name.startswith("rpn.") for name in moved)


@pytest.mark.parametrize("empty", [1, 2])
def test_a_step_on_a_frozen_core(empty: int) -> None:
    net = _model({})
    frozen_core.freeze(net)
    frozen_core.training_mode(net)
    (losses,) = frozen_core.step(
        [net], [SCHEDULE.make_optimizer(net)], SCHEDULE, _batch(empty), small.CPU, seed=0, iteration=0
    )
    assert isinstance(losses, dict) and (losses["loss_mask"] > 0) == (empty < 2)
