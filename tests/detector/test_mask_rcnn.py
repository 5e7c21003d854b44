"""What torchvision can't be the oracle of: precision under autocast, fixed shapes, compiled layers."""

from typing import Any

import pytest
import small
import torch
from torchvision.ops import box_iou

from instseg.data.batches.loader import to_unit
from instseg.detector import box_branch, matching, nms
from instseg.detector.rpn import Proposals


def _image(index: int = 0) -> tuple[torch.Tensor, dict[str, Any]]:
    image, target = small.data()[index]
    return to_unit(image, small.CPU), {k: target[k].as_subclass(torch.Tensor) for k in ("boxes", "labels", "masks")}


def test_boxes_stay_exact_under_autocast() -> None:
    net, data = small.model().eval(), small.data("val", images=3)
    images = [to_unit(data[i][0], small.CPU) for i in range(3)]
    seen: list[torch.Tensor] = []
    net.rpn.register_forward_hook(lambda module, inputs, output: seen.append(output[0].boxes))
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


def test_detections_are_the_same_with_gradients_as_in_inference_mode() -> None:
    net, (image, _) = small.model().eval(), _image()
    net.options.box_score_thresh = 0.0
    (with_gradients,) = net([image])
    with torch.inference_mode():
        (detections,) = net([image])
    assert len(detections["masks"])
    assert all(torch.equal(with_gradients[key].detach(), detections[key]) for key in detections)


def test_regression_targets_stay_exact_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small.model().train()
    image, target = _image()
    target["boxes"] = target["boxes"] + 0.123
    seen: list[torch.Tensor] = []
    encode = box_branch.encode

    def watched(boxes: torch.Tensor, proposals: torch.Tensor, weights: Any) -> torch.Tensor:
        seen.extend([boxes, proposals])
        return encode(boxes, proposals, weights)

    monkeypatch.setattr(box_branch, "encode", watched)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net([image], [target])
    assert seen and all(boxes.dtype == torch.float32 for boxes in seen)
    assert any((boxes[0, :, None] == target["boxes"]).all(-1).any() for boxes in seen)


def test_few_candidates_lead_to_the_same_detections(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    branch = small.model().roi_heads
    branch.options.box_detections_per_img, branch.options.box_score_thresh = 10, 0.2
    corners = torch.rand(3, 60, 2) * 40
    proposals = Proposals(torch.cat([corners, corners + 20], dim=2), torch.rand(3, 60) > 0.1)
    arguments = (torch.randn(3, 60, 4), torch.randn(3, 60, 4, 4), proposals, torch.tensor([[64, 64]] * 3))
    whole = branch.detections(*arguments)
    assert max(whole.counts) == 10
    widths: list[int] = []
    keep = nms.keep
    monkeypatch.setattr(nms, "keep", lambda boxes, *others: widths.append(boxes.shape[1]) or keep(boxes, *others))
    monkeypatch.setattr(box_branch, "CANDIDATES", 8)
    few = branch.detections(*arguments)
    assert widths[:2] == [8, 32]
    assert few.counts == whole.counts
    for image, n in enumerate(whole.counts):
        assert all(torch.equal(a[image, :n], b[image, :n]) for a, b in zip(whole[:3], few[:3], strict=True))


def test_padded_proposals_are_no_part_of_anything() -> None:
    torch.manual_seed(0)
    net = small.model().train()
    _, target = _image()
    truth = matching.pad([target])
    corners = torch.rand(1, 6, 2) * 30
    boxes = torch.cat([corners, corners + 20], dim=2)
    padded = Proposals(torch.cat([boxes, torch.zeros(1, 30, 4)], dim=1), torch.arange(36)[None] < 6)
    training = net.roi_heads.choose(padded, truth)
    assert training.chosen.valid.sum() == 6 + len(target["labels"])
    logits, deltas = torch.randn(1, 16, 2), torch.randn(1, 16, 2, 4)
    losses = net.roi_heads.losses(logits, deltas, training, truth)
    logits[~training.chosen.valid], deltas[~training.chosen.valid] = 99.0, 99.0
    again = net.roi_heads.losses(logits, deltas, training, truth)
    assert all(torch.equal(losses[k], again[k]) and losses[k].isfinite() for k in losses)


def test_a_batch_of_images_without_instances_trains() -> None:
    net = small.model().train()
    image, target = _image()
    empty = {k: v[:0] for k, v in target.items()}
    losses = net([image, image], [empty, empty])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_mask"] == losses["loss_box_reg"] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_compiled_layers_give_the_same_losses_and_keep_their_names() -> None:
    plain, compiled = small.model().train(), small.model().train()
    # the graphs are those of a real compilation; making machine code of them takes minutes
    compiled.compile_layers(backend="aot_eager")
    assert list(plain.state_dict()) == list(compiled.state_dict())
    for iteration, (images, targets) in enumerate(small.batches(3)):
        losses = []
        for net in (plain, compiled):
            torch.manual_seed(iteration)
            losses.append(net([to_unit(image, small.CPU) for image in images], targets))
            sum(losses[-1].values()).backward()
        for name, value in losses[0].items():
            torch.testing.assert_close(losses[1][name], value, msg=name)
    torch.testing.assert_close(
        compiled.mask_head.convs[0][0].weight.grad, plain.mask_head.convs[0][0].weight.grad, atol=1e-5, rtol=1e-3
    )
    with torch.inference_mode():
        image = to_unit(small.data()[0][0], small.CPU)
        expected, found = plain.eval().detect([image]), compiled.eval().detect([image])
    torch.testing.assert_close(found[0]["boxes"], expected[0]["boxes"])
