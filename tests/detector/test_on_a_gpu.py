"""What can be tested of a GPU without one: torch's fake tensors have a device, but no numbers."""

from collections.abc import Iterator

import pytest
import small
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from instseg.detector import MaskRCNN, matching
from instseg.detector.mask_head import MaskTargets
from instseg.detector.mask_rcnn import mask_training_inputs
from instseg.detector.matching import Targets
from instseg.detector.rois import RoIs

CUDA = torch.device("cuda", 0)


@pytest.fixture
def net() -> Iterator[MaskRCNN]:
    with FakeTensorMode():
        with torch.device(CUDA):
            net = small.model()
        yield net


def _batch() -> tuple[list[torch.Tensor], Targets]:
    images = [torch.rand(3, 64, 64, device=CUDA) for _ in range(2)]
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8, device=CUDA)
    labels = torch.ones(2, dtype=torch.int64, device=CUDA)
    return images, [{"boxes": torch.rand(2, 4, device=CUDA), "labels": labels, "masks": masks} for _ in images]


def test_nothing_waits_before_the_masks(net: MaskRCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    # NMS has to look whether it is done; everything else up to the number of positives must not
    def refuse(*others: object, **named: object) -> None:
        raise AssertionError("numbers of the CPU are copied to the GPU, which waits for all that is queued")

    looks: list[int] = []
    plain = torch.tensor
    monkeypatch.setattr(torch.Tensor, "new_tensor", refuse)
    monkeypatch.setattr(torch, "as_tensor", refuse)
    monkeypatch.setattr(torch, "tensor", lambda *a, **k: refuse() if "device" in k else plain(*a, **k))
    monkeypatch.setattr(torch, "equal", lambda a, b: looks.append(1) or True)
    images, targets = _batch()
    pyramid, padded, sizes, scaled = net.train().features(images, targets)
    truth = matching.pad(scaled)
    proposals, losses = net.rpn(pyramid.maps(), padded, sizes, truth)
    training = net.roi_heads.choose(proposals, truth)
    logits, deltas = net.roi_heads(pyramid, training.boxes)
    losses |= net.roi_heads.losses(logits, deltas, training, truth)
    assert len(looks) == 1
    assert all(loss.device == CUDA and loss.dtype == torch.float32 for loss in losses.values())
    assert len(losses) == 4
    with pytest.raises(DataDependentOutputException):
        mask_training_inputs(pyramid, training, scaled)


@pytest.mark.parametrize("head", ["fcn", "unet"])
def test_masks_stay_on_the_gpu(net: MaskRCNN, head: str) -> None:
    images, targets = _batch()
    with torch.device(CUDA):
        net.mask_head = small.model(head).mask_head
    pyramid, *_ = net.train().features(images, targets)
    boxes = [torch.rand(3, 4, device=CUDA), torch.rand(2, 4, device=CUDA)]
    rois = RoIs(pyramid, boxes)
    matched = [torch.zeros(len(b), dtype=torch.int64, device=CUDA) for b in boxes]
    labels = torch.ones(5, dtype=torch.int64, device=CUDA)
    truth = MaskTargets(labels, [target["masks"] for target in targets], matched, boxes)
    loss = net.mask_head.loss(net.mask_head(rois), rois, truth)["loss_mask"]
    assert loss.device == CUDA and loss.dtype == torch.float32
    found = net.mask_head.eval().predict(rois, labels)
    assert found.probabilities.device == CUDA and found.probabilities.shape == (5, 28, 28)
    assert rois.sample(torch.rand(5, 7, 2, device=CUDA), level=2).device == CUDA
