"""Weights of trunks: by name, from a file, and what is wrong with either in one line; what is frozen stays so."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision

from instseg.detector import trunk
from instseg.errors import UserError


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return tmp_path


def test_imagenet_weights_by_name_and_by_file_are_the_same(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = real_data.parent / "torch_home" / "hub"
    file = hub / "checkpoints" / "mobilenet_v2-b0353104.pth"
    if not file.exists():
        pytest.skip(f"no ImageNet weights at {file}")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(hub))
    named, read = (trunk.build("mobilenet_v2", weights=weights) for weights in ("IMAGENET1K_V1", file))
    expected = torch.load(file, weights_only=True)
    for body in (named.body, read.body):
        state = body.state_dict()
        torch.testing.assert_close(state["0.0.weight"], expected["features.0.0.weight"])
        torch.testing.assert_close(state["18.1.running_mean"], expected["features.18.1.running_mean"])


def test_a_file_of_another_number_of_classes_serves(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(num_classes=7)
    torch.save(network.state_dict(), tmp_path / "seven.pth")
    built = trunk.build("resnet18", weights=tmp_path / "seven.pth")
    torch.testing.assert_close(built.body["layer3"][0].conv1.weight, network.layer3[0].conv1.weight)


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path, refused: Any) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"epoch": 3}, tmp_path / "odd.pth")
    for name, part in (("other.pth", "resnet18"), ("text.pth", "not a file of weights"), ("odd.pth", "resnet18")):
        path = tmp_path / name
        refused(lambda path=path: trunk.build("resnet18", weights=path), path, part, error=UserError)


def test_without_a_network_the_manual_way_is_said(
    empty_hub: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr("torch.hub.urlopen", offline)
    call = lambda: trunk.build("resnet50", weights="IMAGENET1K_V1")  # noqa: E731
    refused(call, "resnet50-0676ba61.pth", empty_hub, "trunk.weights=FILE", error=UserError)


@pytest.mark.parametrize(
    ("layers", "trained"), [(0, ()), (2, ("layer3", "layer4")), (5, ("conv1", "layer1", "layer4"))]
)
def test_frozen_stages_of_a_resnet(layers: int, trained: tuple[str, ...]) -> None:
    body = trunk.build("resnet18", trainable_layers=layers).body
    by_stage = {name.partition(".")[0]: p.requires_grad for name, p in body.named_parameters()}
    assert all(by_stage[stage] for stage in trained)
    assert sum(by_stage.values()) == layers


def test_frozen_stages_of_mobilenet() -> None:
    body = trunk.build("mobilenet_v2", trainable_layers=2).body
    trained = {int(name.partition(".")[0]) for name, p in body.named_parameters() if p.requires_grad}
    assert trained == {14, 15, 16, 17, 18}


def test_frozen_statistics_do_not_move() -> None:
    model = trunk.build("resnet18", norm="frozen", out_channels=8).train()
    before = {k: v.clone() for k, v in model.named_buffers()}
    model(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(v, before[k]) for k, v in model.named_buffers())
