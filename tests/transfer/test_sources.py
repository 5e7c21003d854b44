"""Where weights come from: runs, files, torchvision's names; and what can be wrong with each, in one line."""

import hashlib
import http.server
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import small
import torch
import torchvision.models as tvm
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from instseg import transfer
from instseg.errors import UserError
from instseg.training import checkpoint

ENTRY = MaskRCNN_ResNet50_FPN_Weights.COCO_V1


@pytest.fixture(autouse=True)
def _forget() -> None:
    transfer.identity.cache_clear()


def _run(folder: Path, seconds: float = 1.0, seed: int = 0) -> Path:
    model = small.model(seed=seed)
    checkpoint.save(folder / "checkpoint.pt", model, small.recipe().make_optimizer(model), 4, seconds)
    return folder


def _torchvisions(classes: int = 91) -> dict[str, torch.Tensor]:
    """The parts of torchvision's checkpoint of 2019 whose names or numbers have changed since."""
    torch.manual_seed(0)
    return {
        "backbone.body.bn1.weight": torch.rand(4),
        "backbone.body.bn1.bias": torch.rand(4),
        "backbone.body.bn1.running_mean": torch.rand(4),
        "backbone.body.bn1.running_var": torch.tensor([0.5, 1e-5, 1e-12, 5.6e-45]),
        "backbone.fpn.inner_blocks.3.weight": torch.rand(4, 4, 1, 1),
        "backbone.fpn.layer_blocks.0.bias": torch.rand(4),
        "rpn.head.conv.weight": torch.rand(4, 4, 3, 3),
        "roi_heads.box_predictor.cls_score.weight": torch.rand(classes, 4),
        "roi_heads.mask_head.mask_fcn2.bias": torch.rand(4),
    }


def test_a_run_is_its_folder_or_its_checkpoint(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    by_folder, by_file = (transfer.read(str(path)) for path in (run, run / "checkpoint.pt"))
    expected = small.model().state_dict()
    assert by_folder.state.keys() == expected.keys() == by_file.state.keys()
    assert all(torch.equal(by_folder.state[name], value) for name, value in expected.items())
    assert by_folder.trained_as == {} and by_folder.classes is None


def test_identity_is_of_what_is_in_it(tmp_path: Path) -> None:
    a, b = _run(tmp_path / "a"), _run(tmp_path / "b", seconds=2.0)
    assert (a / "checkpoint.pt").read_bytes() != (b / "checkpoint.pt").read_bytes()
    assert transfer.identity(str(a)) == transfer.identity(str(b / "checkpoint.pt"))
    assert transfer.identity(str(_run(tmp_path / "c", seed=1))) != transfer.identity(str(a))
    (tmp_path / "x.pth").write_bytes(b"1")
    assert transfer.identity(str(tmp_path / "x.pth")) == hashlib.sha256(b"1").hexdigest()
    assert transfer.identity("COCO_V1") == transfer.identity("MaskRCNN_ResNet50_FPN_Weights.DEFAULT") == str(ENTRY)
    assert transfer.label(str(a)) == f"a {transfer.identity(str(a))[:8]}"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_of_torchvision(wrapped: bool, tmp_path: Path) -> None:
    state = _torchvisions()
    torch.save({"model": state, "epoch": 3} if wrapped else state, tmp_path / "torchvision.pth")
    source = transfer.read(str(tmp_path / "torchvision.pth"))
    assert {
        "backbone.fpn.inner_blocks.3.0.weight",
        "backbone.fpn.layer_blocks.0.0.bias",
        "rpn.head.conv.0.0.weight",
        "roi_heads.mask_head.1.0.bias",
    } < set(source.state)
    assert source.trained_as["trunk.stride_in_1x1"] is False
    assert source.classes is not None and source.classes[:2] == ("__background__", "person")
    # one that was trained since has today's batch norms
    assert torch.equal(source.state["backbone.body.bn1.weight"], state["backbone.body.bn1.weight"])
    torch.save(_torchvisions(classes=6), tmp_path / "six.pth")
    assert transfer.read(str(tmp_path / "six.pth")).classes is None


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, list[str]]]:
    """A file of torchvision's served from this machine in the place of its own, and the paths that were asked for."""
    asked: list[str] = []
    file = tmp_path / "torchvision"
    torch.save(_torchvisions(), file)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(file.stat().st_size))
            self.end_headers()
            self.wfile.write(file.read_bytes())

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    url = f"http://127.0.0.1:{server.server_port}/maskrcnn-{digest}.pth"
    monkeypatch.setattr(type(ENTRY), "url", property(lambda _: url))
    yield file, asked
    server.shutdown()
    server.server_close()


def test_weights_by_name_are_fetched_once_and_have_no_epsilon(served: tuple[Path, list[str]], tmp_path: Path) -> None:
    file, asked = served
    first, again = transfer.read("COCO_V1"), transfer.read("MaskRCNN_ResNet50_FPN_Weights.COCO_V1")
    assert len(asked) == 1 and first.state.keys() == again.state.keys()
    assert first.classes == tuple(ENTRY.meta["categories"])
    # what the same file gives by its path, which its content tells
    by_path = transfer.read(str(file))
    given = _torchvisions()
    x = torch.randn(4)
    for state in (first.state, by_path.state):
        weight, var = state["backbone.body.bn1.weight"].double(), given["backbone.body.bn1.running_var"].double()
        expected = given["backbone.body.bn1.weight"].double() / var.sqrt()
        torch.testing.assert_close(x * weight / (var + 1e-5).sqrt(), x * expected, rtol=1e-6, atol=0)
    # a file that broke off is not taken for it
    file.write_bytes(file.read_bytes()[:-9])
    (tmp_path / "hub" / "checkpoints" / asked[0][1:]).unlink()
    with pytest.raises(UserError, match="invalid hash value") as error:
        transfer.read("COCO_V1")
    assert len(str(error.value).splitlines()) == 1


def test_without_a_network_the_manual_way_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    refused(lambda: transfer.read("COCO_V1"), ENTRY.url, "no route", tmp_path, "give its path", error=UserError)


def test_what_is_nowhere_gets_near_names(tmp_path: Path, refused: Any) -> None:
    refused(
        lambda: transfer.find("COCO_V2"), "did you mean COCO_V1", "MaskRCNN_ResNet50_FPN_V2_Weights", error=UserError
    )
    name = "MaskRCNN_Resnet50_FPN_Weights.COCO_V1"
    refused(lambda: transfer.find(name), "did you mean MaskRCNN_ResNet50_FPN_Weights.COCO_V1", error=UserError)
    refused(lambda: transfer.find(str(tmp_path / "no.pkl")), "no.pkl", "no such file", error=UserError)
    refused(lambda: transfer.find(str(tmp_path)), tmp_path, "checkpoint.pt", error=UserError)


def test_files_that_are_no_mask_rcnn_are_one_line(tmp_path: Path, refused: Any) -> None:
    run = _run(tmp_path)
    whole = (run / "checkpoint.pt").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pkl").write_bytes(b"")
    torch.save({"epoch": 3}, tmp_path / "odd.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(tvm.resnet18().state_dict(), tmp_path / "classifier.pth")
    torch.save({"encoder.weight": torch.ones(1)}, tmp_path / "other.pth")
    (tmp_path / "d2.pkl").write_bytes(pickle.dumps({"model": {"stem.conv1.weight": torch.ones(1).numpy()}}))
    for name, part in {
        "cut.pth": "cut off",
        "text.pth": "cut off",
        "empty.pkl": "cut off",
        "odd.pth": "no weights",
        "list.pth": "no weights",
        "classifier.pth": "trunk.weights=FILE",
        "other.pth": "encoder.weight",
        "d2.pkl": "trunk.weights=IMAGENET1K_V1",
    }.items():
        path = tmp_path / name
        refused(lambda path=path: transfer.read(str(path)), path, part, error=UserError)


def test_code_in_a_torch_file_is_not_run(tmp_path: Path, refused: Any) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.mkdir, (tmp_path / "made",)

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    refused(lambda: transfer.read(str(tmp_path / "evil.pth")), "evil.pth", error=UserError)
    assert not (tmp_path / "made").exists()
