"""What torchvision can't be the oracle of: precision under autocast."""

import small
import torch
from torchvision.ops import box_iou

from instseg.data.loader import to_unit


def test_boxes_stay_exact_under_autocast() -> None:
    net, pictures = small.model().eval(), small.data("val", images=3)
    images = [to_unit(pictures[i][0], small.CPU) for i in range(3)]
    seen: list[list[torch.Tensor]] = []
    net.rpn.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    with torch.inference_mode():
        net.detect(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = net.detect(images)
    exact, rough = seen
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        # the trunk is rough, and so are the anchors' corrections, but no corner sticks to a coarse grid
        assert (box_iou(a, b).amax(1) > 0.9).float().mean() > 0.9
        inside = b[(b > 1) & (b < 63)]
        assert (inside != inside.bfloat16().float()).float().mean() > 0.9
    assert all(one["boxes"].dtype == one["scores"].dtype == torch.float32 for one in found)


def test_regression_targets_stay_exact_under_autocast() -> None:
    net = small.model().train()
    image, target = small.data()[0]
    target = {key: target[key].as_subclass(torch.Tensor) for key in ("boxes", "labels", "masks")}
    target["boxes"] = target["boxes"] + 0.123
    seen: list[torch.Tensor] = []
    encode = net.roi_heads.box_coder.encode

    def watched(boxes: list[torch.Tensor], proposals: list[torch.Tensor]) -> list[torch.Tensor]:
        seen.extend([*boxes, *proposals])
        return encode(boxes, proposals)

    net.roi_heads.box_coder.encode = watched
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net([to_unit(image, small.CPU)], [target])
    assert all(boxes.dtype == torch.float32 for boxes in seen)
    assert any((boxes[:, None] == target["boxes"]).all(-1).any() for boxes in seen)
