"""torchvision's Mask R-CNN is the oracle: the same weights must give the same answers."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms.v2.functional import pil_to_tensor

import heads
from instseg import detector
from instseg.data.sets.coco import Coco2017

SIZES = {"min_size": 320, "max_size": 480}
# every anchor and proposal is learnt from, so that no random choice comes between
ALL = {
    "rpn_batch_size_per_image": 200_000,
    "box_batch_size_per_image": 2_000,
    "box_positive_fraction": 0.5,
    "rpn_post_nms_top_n_train": 200,
}


def _pair(**options: float) -> tuple[torch.nn.Module, detector.MaskRCNN]:
    torch.manual_seed(0)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, **SIZES, **options)
    # as the pretrained model has it; training-mode batch statistics would leave nothing to compare
    for name, module in list(theirs.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            parent = theirs.get_submodule(name.rpartition(".")[0])
            frozen = FrozenBatchNorm2d(module.num_features)
            # scaled so that the activations of random weights neither die nor explode
            frozen.weight.fill_(0.7 if name.endswith("bn3") else 1.0)
            frozen.running_var.fill_(2.0)
            setattr(parent, name.rpartition(".")[2], frozen)
    # random logits must tell boxes and classes apart, or no detection passes the threshold
    with torch.no_grad():
        theirs.rpn.head.cls_logits.weight.mul_(20)
        theirs.rpn.head.bbox_pred.weight.mul_(5)
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(40)
        theirs.roi_heads.box_predictor.bbox_pred.weight.mul_(5)
        theirs.roi_heads.mask_predictor.mask_fcn_logits.weight.mul_(3)
    ours = detector.build("resnet50", head=heads.build("fcn", 256, 91), num_classes=91, **SIZES, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def test_state_dict_passes_both_ways() -> None:
    theirs, ours = _pair()
    assert set(ours.state_dict()) == set(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


def test_first_release_names_of_the_mask_head_load() -> None:
    theirs, ours = _pair()
    old = {
        (k.replace(f"mask_head.{k.split('.')[2]}.0", f"mask_head.mask_fcn{int(k.split('.')[2]) + 1}"))
        if k.startswith("roi_heads.mask_head.")
        else k: v
        for k, v in theirs.state_dict().items()
    }
    assert "roi_heads.mask_head.mask_fcn4.weight" in old
    fresh = detector.build("resnet50", head=heads.build("fcn", 256, 91), num_classes=91)
    fresh.load_state_dict(old)
    torch.testing.assert_close(fresh.mask_head.convs[3][0].weight, ours.mask_head.convs[3][0].weight)


def _images(real_data: Path) -> list[torch.Tensor]:
    files = sorted((real_data / "coco" / "val2017").iterdir())[:3]
    return [pil_to_tensor(Image.open(f).convert("RGB")).float() / 255 for f in files]


def test_same_detections_on_photographs(real_data: Path) -> None:
    theirs, ours = (model.eval() for model in _pair())
    images = _images(real_data)
    with torch.inference_mode():
        expected, found = theirs(images), ours(images)
    assert sum(len(e["boxes"]) for e in expected) >= 10, "the comparison needs detections"
    for e, f in zip(expected, found, strict=True):
        assert torch.equal(e["labels"], f["labels"])
        torch.testing.assert_close(f["boxes"], e["boxes"], atol=1e-2, rtol=0)
        torch.testing.assert_close(f["scores"], e["scores"], atol=1e-4, rtol=0)
        assert f["masks"].shape == e["masks"].shape
        torch.testing.assert_close(f["masks"], e["masks"], atol=1e-3, rtol=0)


def test_same_losses_in_training(real_data: Path) -> None:
    theirs, ours = (model.train() for model in _pair(**ALL))
    data = Coco2017("val", root=real_data)
    samples = [data[i] for i in range(len(data)) if 1 <= len(data[i][1]["labels"]) <= 8][:2]
    images = [image.float() / 255 for image, _ in samples]
    targets = [{k: t[k].as_subclass(torch.Tensor) for k in ("boxes", "labels", "masks")} for _, t in samples]
    losses = [model(images, targets) for model in (theirs, ours)]
    assert set(losses[0]) == set(losses[1])
    for name, value in losses[0].items():
        assert value > 0
        torch.testing.assert_close(losses[1][name], value, atol=1e-4, rtol=1e-4, msg=name)
    gradients = []
    for model, loss in zip((theirs, ours), losses, strict=True):
        sum(loss.values()).backward()
        gradients.append(model.backbone.fpn.layer_blocks[0][0].weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("trunk", ["resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "small"])
def test_every_trunk_gives_p2_to_p6(trunk: str) -> None:
    model = detector.trunk.build(trunk, norm="batch", out_channels=32)
    maps = model(torch.rand(1, 3, 128, 192))
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(32, 128 // s, 192 // s) for s in (4, 8, 16, 32, 64)]
