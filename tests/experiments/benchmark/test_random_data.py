"""The random images and weights that benchmarks run on."""

import math

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d, masks_to_boxes

from experiments.benchmark import random_data, weights


def test_a_batch_is_one_to_train_on() -> None:
    images, targets = random_data.batch((60, 90), 3, 5, 4)
    assert [tuple(image.shape) for image in images] == [(3, 60, 90)] * 3
    assert images[0].dtype == torch.uint8 and not torch.equal(images[0], images[1])
    for target in targets:
        boxes, masks = target["boxes"], target["masks"]
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 90).all() and (boxes[:, 3] <= 60).all()
        # an ellipse fills its box, and π/4 of it
        torch.testing.assert_close(masks_to_boxes(masks), boxes, atol=2, rtol=0)
        sides = boxes[:, 2:] - boxes[:, :2]
        torch.testing.assert_close(target["area"], sides.prod(1) * math.pi / 4, atol=8, rtol=0.1)
        assert set(target["labels"].tolist()) <= {1, 2, 3}
    again = random_data.batch((60, 90), 3, 5, 4)
    assert all(torch.equal(a, b) for a, b in zip(images, again[0], strict=True))


def test_blobs_are_smooth_and_inside() -> None:
    blobs = random_data.blobs(50, 28, torch.Generator().manual_seed(0))
    assert blobs.shape == (50, 28, 28) and float(blobs.min()) >= 0 and float(blobs.max()) <= 1
    assert float(blobs[:, 10:18, 10:18].mean()) > 0.8 > 0.2 > float(blobs[:, 0].mean())
    assert float((blobs[:, 1:] - blobs[:, :-1]).abs().max()) < 0.6


def test_fitted_layers_have_the_wanted_spread() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1))
        batch = 50 * torch.rand(4, 3, 16, 16) + 7
        before = model(batch)
    weights.fit(model, {"3": (2.0, 3.0)}, lambda: model(batch))
    normed, out, before = model[:2](batch).detach(), model(batch).detach(), before.detach()
    torch.testing.assert_close(normed.mean((0, 2, 3)), torch.zeros(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(normed.std((0, 2, 3)), torch.ones(8), atol=1e-2, rtol=0)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.full((5,), 2.0), atol=1e-3, rtol=0)
    assert float(out.std()) == pytest.approx(3, rel=0.01) and float(before.std()) != pytest.approx(3, rel=0.1)
    assert not model[1]._forward_pre_hooks and not model[3]._forward_hooks


def test_the_first_of_several_calls_decides() -> None:
    layer = nn.Sequential(nn.Conv2d(1, 2, 1))
    fine, coarse = torch.randn(1, 1, 40, 40), 5 * torch.randn(1, 1, 5, 5)
    weights.fit(layer, {"0": (0.0, 1.0)}, lambda: (layer(fine), layer(coarse)))
    with torch.no_grad():
        assert float(layer(fine).std()) == pytest.approx(1, rel=0.05) and float(layer(coarse).std()) > 2
