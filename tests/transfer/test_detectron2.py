"""A detectron2 model, written down here by its own conventions, and what is made of its file: the same numbers."""

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

import heads
from instseg import detector, transfer
from instseg.detector.roi_align import Pyramid
from instseg.detector.rois import RoIs
from instseg.errors import UserError

CLASSES = 3
MEAN = torch.tensor([103.530, 116.280, 123.675])
BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}
LIKE_DETECTRON2: dict[str, Any] = {"stride_in_1x1": True, "exact_anchors": True, "roi_aligned": True}
ANCHORS = (32, 64, 128, 256, 512)
SIZE = (40, 72)

Weights = dict[str, Tensor]


def _weights() -> Weights:
    """Random weights of an R50-FPN by detectron2's names."""
    torch.manual_seed(0)
    state: Weights = {}

    def layer(name: str, outputs: int, *inputs: int, bias: bool = True, gain: float = 2.0) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, *inputs) * math.sqrt(gain / math.prod(inputs))
        if bias:
            state[f"{name}.bias"] = torch.randn(outputs) * 0.1

    def conv_norm(name: str, outputs: int, *inputs: int, gain: float = 2.0) -> None:
        layer(name, outputs, *inputs, bias=False, gain=gain)
        state[f"{name}.norm.weight"] = 0.5 + torch.rand(outputs)
        state[f"{name}.norm.bias"] = torch.randn(outputs) * 0.1
        state[f"{name}.norm.running_mean"] = torch.randn(outputs) * 0.1
        state[f"{name}.norm.running_var"] = 0.5 + torch.rand(outputs)

    body = "backbone.bottom_up"
    conv_norm(f"{body}.stem.conv1", 64, 3, 7, 7, gain=2 / 60**2)
    inputs = 64
    for stage, count in BLOCKS.items():
        width, outputs = 16 * 2**stage, 64 * 2**stage
        for block in range(count):
            name = f"{body}.res{stage}.{block}"
            if block == 0:
                conv_norm(f"{name}.shortcut", outputs, inputs, 1, 1, gain=1)
            conv_norm(f"{name}.conv1", width, inputs, 1, 1)
            conv_norm(f"{name}.conv2", width, width, 3, 3)
            conv_norm(f"{name}.conv3", outputs, width, 1, 1, gain=0.2)
            inputs = outputs
        layer(f"backbone.fpn_lateral{stage}", 256, outputs, 1, 1)
        layer(f"backbone.fpn_output{stage}", 256, 256, 3, 3, gain=1)
    layer("proposal_generator.rpn_head.conv", 256, 256, 3, 3)
    layer("proposal_generator.rpn_head.objectness_logits", 3, 256, 1, 1)
    layer("proposal_generator.rpn_head.anchor_deltas", 12, 256, 1, 1)
    layer("roi_heads.box_head.fc1", 1024, 256 * 7 * 7)
    layer("roi_heads.box_head.fc2", 1024, 1024)
    layer("roi_heads.box_predictor.cls_score", CLASSES + 1, 1024)
    layer("roi_heads.box_predictor.bbox_pred", CLASSES * 4, 1024)
    for i in range(1, 5):
        layer(f"roi_heads.mask_head.mask_fcn{i}", 256, 256, 3, 3)
    layer("roi_heads.mask_head.deconv", 256, 256, 2, 2)
    state["roi_heads.mask_head.deconv.bias"] = torch.randn(256)
    layer("roi_heads.mask_head.predictor", CLASSES, 256, 1, 1)
    return state


class _Reference:
    """detectron2's forward pass, in its order and with its names."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def conv(self, x: Tensor, name: str, **options: Any) -> Tensor:
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"), **options)

    def conv_norm(self, x: Tensor, name: str, **options: Any) -> Tensor:
        x = self.conv(x, name, **options)
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, scale, shift = (self.weights[f"{name}.norm.{part}"][:, None, None] for part in names)
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def features(self, rgb: Tensor) -> dict[int, Tensor]:
        """Level -> map, of one image in [0, 1]."""
        x = rgb.flip(0) * 255 - MEAN[:, None, None]
        height, width = x.shape[1:]
        x = F.pad(x, (0, -width % 32, 0, -height % 32))[None]
        body = "backbone.bottom_up"
        x = F.max_pool2d(F.relu(self.conv_norm(x, f"{body}.stem.conv1", stride=2, padding=3)), 3, 2, 1)
        stages = {}
        for stage, count in BLOCKS.items():
            for block in range(count):
                name, stride = f"{body}.res{stage}.{block}", 2 if stage > 2 and block == 0 else 1
                out = F.relu(self.conv_norm(x, f"{name}.conv1", stride=stride))
                out = F.relu(self.conv_norm(out, f"{name}.conv2", padding=1))
                out = self.conv_norm(out, f"{name}.conv3")
                x = F.relu(out + (self.conv_norm(x, f"{name}.shortcut", stride=stride) if block == 0 else x))
            stages[stage] = x
        maps, above = {}, None
        for stage in (5, 4, 3, 2):
            lateral = self.conv(stages[stage], f"backbone.fpn_lateral{stage}")
            above = lateral if above is None else lateral + F.interpolate(above, scale_factor=2.0, mode="nearest")
            maps[stage] = self.conv(above, f"backbone.fpn_output{stage}", padding=1)
        maps[6] = F.max_pool2d(maps[5], 1, stride=2)
        return maps

    def rpn(self, maps: dict[int, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (A,), deltas (A, 4) and anchors (A, 4), the finest level first."""
        name, logits, deltas, anchors = "proposal_generator.rpn_head", [], [], []
        for (level, features), size in zip(sorted(maps.items()), ANCHORS, strict=True):
            x = F.relu(self.conv(features, f"{name}.conv", padding=1))
            logits.append(self.conv(x, f"{name}.objectness_logits").permute(0, 2, 3, 1).flatten())
            corrections = self.conv(x, f"{name}.anchor_deltas")
            deltas.append(corrections.view(3, 4, *corrections.shape[2:]).permute(2, 3, 0, 1).reshape(-1, 4))
            for y in range(features.shape[2]):
                for x_ in range(features.shape[3]):
                    for ratio in (0.5, 1.0, 2.0):
                        w = math.sqrt(size**2 / ratio)
                        h, cx, cy = ratio * w, x_ * 2**level, y * 2**level
                        anchors.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        return torch.cat(logits), torch.cat(deltas), torch.tensor(anchors)

    def pooled(self, maps: dict[int, Tensor], boxes: Tensor, size: int) -> Tensor:
        sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
        levels = (4 + torch.log2(sides / 224 + 1e-8)).floor().clamp(2, 5)
        each = []
        for box, level in zip(boxes, levels.int().tolist(), strict=True):
            # sampling_ratio=0 is what detectron2 takes; two samples are what this suite has
            each.append(roi_align(maps[level], [box[None]], size, 1 / 2**level, sampling_ratio=2, aligned=True))
        return torch.cat(each)

    def boxes(self, maps: dict[int, Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(R, K + 1) logits, the background last, and (R, K, 4) deltas."""
        x = self.pooled(maps, boxes, 7).flatten(1)
        for name in ("box_head.fc1", "box_head.fc2"):
            x = F.relu(self.linear(x, name))
        return self.linear(x, "box_predictor.cls_score"), self.linear(x, "box_predictor.bbox_pred").view(-1, CLASSES, 4)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"roi_heads.{name}.weight"], self.weights[f"roi_heads.{name}.bias"])

    def masks(self, maps: dict[int, Tensor], boxes: Tensor) -> Tensor:
        """(R, K, 28, 28) logits."""
        name, x = "roi_heads.mask_head", self.pooled(maps, boxes, 14)
        for i in range(1, 5):
            x = F.relu(self.conv(x, f"{name}.mask_fcn{i}", padding=1))
        deconv = self.weights[f"{name}.deconv.weight"], self.weights[f"{name}.deconv.bias"]
        return self.conv(F.relu(F.conv_transpose2d(x, *deconv, stride=2)), f"{name}.predictor")


def _model(classes: int = CLASSES + 1, **options: Any) -> detector.MaskRCNN:
    sizes = {"min_size": min(SIZE), "max_size": max(SIZE)}
    return detector.build(
        "resnet50", head=heads.build("fcn", 256, classes), num_classes=classes, **sizes, **options
    ).eval()


def _pickled(path: Path, weights: Weights, **more: Any) -> str:
    content = {"model": {k: v.numpy() for k, v in weights.items()}, "__author__": "Detectron2 Model Zoo", **more}
    path.write_bytes(pickle.dumps(content))
    return str(path)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return _weights()


def test_the_converted_model_is_the_source(weights: Weights, tmp_path: Path) -> None:
    extra = {"pixel_mean": MEAN[:, None, None], "pixel_std": torch.ones(3, 1, 1)}
    extra["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    model, source = _model(**LIKE_DETECTRON2), transfer.read(_pickled(tmp_path / "model.pkl", weights | extra))
    report = transfer.load(model, source)
    assert report.new == {} and report.unused == []
    torch.manual_seed(1)
    image = torch.rand(3, *SIZE)
    corners = torch.rand(12, 2) * 50
    boxes = torch.cat([corners, corners + 2 + torch.rand(12, 2) * torch.tensor([52.0, 20.0])], dim=1)
    # one that lies on a level above P2
    boxes = torch.cat([boxes, torch.tensor([[0.0, 0.0, 126.0, 126.0]])])
    reference = _Reference(weights)
    with torch.inference_mode():
        expected = reference.features(image)
        pyramid, padded, _, _ = model.features([image])
        for level, features in expected.items():
            assert features.std() > 0.01
            torch.testing.assert_close(pyramid[level], features, atol=1e-3, rtol=1e-3)
        maps = [pyramid[level] for level in sorted(pyramid)]
        logits, deltas, _ = model.rpn.head(maps)
        anchors = model.rpn.anchors([(m.shape[2], m.shape[3]) for m in maps], padded, image.device)
        for converted, original in zip((logits[0], deltas[0], anchors), reference.rpn(expected), strict=True):
            torch.testing.assert_close(converted, original, atol=1e-3, rtol=1e-3)
        classes, corrections = model.roi_heads(pyramid, boxes[None])
        of_classes, of_boxes = reference.boxes(expected, boxes)
        torch.testing.assert_close(classes[0].roll(-1, 1), of_classes, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(corrections[0, :, 1:], of_boxes, atol=1e-3, rtol=1e-3)
        masks = model.mask_head(RoIs(pyramid, [boxes]))
        torch.testing.assert_close(masks[:, 1:], reference.masks(expected, boxes), atol=1e-3, rtol=1e-3)

        # the comparison can tell: without its conventions it is another model
        plain = _model()
        transfer.load(plain, source)
        other = plain.features([image])[0]
        assert not torch.allclose(other[4], expected[4], atol=0.01)
        shifted, _ = plain.roi_heads(Pyramid(expected), boxes[None])
        assert not torch.allclose(shifted[0].roll(-1, 1), of_classes, atol=0.01)


STEM = "backbone.bottom_up.stem.conv1.weight"


def test_the_source_says_what_it_was_trained_as(tmp_path: Path) -> None:
    stem = {STEM: torch.rand(64, 3, 7, 7)}
    source = transfer.read(_pickled(tmp_path / "model.pkl", stem))
    assert source.trained_as["trunk.stride_in_1x1"] is True and source.trained_as["detector.exact_anchors"] is True
    assert source.classes is None
    # another deviation is folded in, too
    other = transfer.read(_pickled(tmp_path / "std.pkl", stem | {"pixel_std": torch.full((3, 1, 1), 57.0)}))
    name = "backbone.body.conv1.weight"
    torch.testing.assert_close(other.state[name], source.state[name] / 57)


def test_other_statistics_of_the_images_are_refused(tmp_path: Path, refused: Any) -> None:
    state = {STEM: torch.rand(64, 3, 7, 7), "pixel_mean": MEAN.flip(0)[:, None, None]}
    path = _pickled(tmp_path / "rgb.pkl", state)
    refused(lambda: transfer.read(path), path, "123.675", "BGR", error=UserError)


def test_eighty_classes_are_cocos_by_name(tmp_path: Path) -> None:
    row = torch.arange(81.0)
    state = {
        STEM: torch.zeros(64, 3, 7, 7),
        "roi_heads.box_predictor.cls_score.weight": row[:, None].expand(81, 4),
        "roi_heads.box_predictor.cls_score.bias": row,
    }
    source = transfer.read(_pickled(tmp_path / "coco.pkl", state))
    assert source.classes is not None and source.classes[:3] == ("__background__", "person", "bicycle")
    assert source.classes[-1] == "toothbrush"
    assert source.state["roi_heads.box_predictor.cls_score.bias"].tolist() == [80, *range(80)]


def test_an_imagenet_resnet_of_caffe2_is_the_trunk_alone(weights: Weights, tmp_path: Path) -> None:
    layers = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    blobs = {"fc1000_w": torch.zeros(1000, 2048), "conv1_w_momentum": torch.zeros(1), "conv1_b": torch.zeros(64)}
    for name, value in weights.items():
        parts = name.split(".")
        if not name.startswith("backbone.bottom_up.") or parts[-1].startswith("running"):
            continue
        kind = {"weight": "s", "bias": "b"}[parts[-1]] if "norm" in parts else "w"
        if parts[2] == "stem":
            blobs["res_conv1_bn_" + kind if "norm" in parts else "conv1_w"] = value
        else:
            blobs[f"{parts[2]}_{parts[3]}_{layers[parts[4]]}{'_bn' if 'norm' in parts else ''}_{kind}"] = value
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": {k: v.numpy() for k, v in blobs.items()}}))
    model = _model(**LIKE_DETECTRON2)
    report = transfer.load(model, transfer.read(str(path)))
    assert all(not layer.startswith("backbone.body") for layer in report.new) and len(report.loaded) == 106
    assert report.unused == ["fc1000_w", "backbone.body.conv1.bias"]
    assert "backbone.fpn, all 8 layers (not in it)" in report.line()
    # scale and shift alone are statistics of mean 0 and variance 1
    still = {n: torch.zeros(len(v)) for n, v in weights.items() if n.endswith("running_mean")}
    still |= {n.replace("mean", "var"): torch.ones(len(v)) - 1e-5 for n, v in still.items()}
    image = torch.rand(3, 32, 32)
    stem = {"stride": 2, "padding": 3}
    bgr = (image.flip(0) * 255 - MEAN[:, None, None])[None]
    expected = _Reference({**weights, **still}).conv_norm(bgr, "backbone.bottom_up.stem.conv1", **stem)
    body = model.backbone.body
    with torch.inference_mode():
        normalised = body.bn1(body.conv1(model.transform.normalize(image)[None]))
    torch.testing.assert_close(normalised, expected, atol=1e-3, rtol=1e-3)
