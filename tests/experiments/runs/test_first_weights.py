"""``init`` and ``core`` as a person gives them."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import apps
import pytest
import torch
from composition import composed

from experiments.config import checks
from experiments.config.run import Config
from experiments.runs import first_weights, frozen_core
from experiments.runs.end_to_end import build_model, run
from experiments.runs.study import read
from instseg import progress, transfer
from instseg.errors import UserError
from instseg.training import checkpoint

TINY = (*apps.TINY, "schedule.iterations=2", "runtime.evaluate_every=0", "evaluation.speed=false")


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Any:
    transfer.identity.cache_clear()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the FCN, of another seed than the tests' own."""
    return run(composed(*TINY, "seed=1", f"results_dir={tmp_path_factory.mktemp('trained')}"))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(progress, "say", lines.append)
    return lines


def _config(folder: Path, *overrides: object) -> Config:
    return composed(*TINY, f"results_dir={folder}", *map(str, overrides))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoint.pt")["model"]


def _result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_a_run_starts_where_another_ended(trained: Path, tmp_path: Path, said: list[str]) -> None:
    # a rate so small that nothing moves but the norms' statistics
    still = ("schedule.lr=1e-30", "schedule.weight_decay=0")
    before = _weights(trained)
    weights_of = {}
    for head in ("fcn", "unet"):
        config = _config(tmp_path, f"init={trained}", f"head={head}", *still)
        checks.check(config)
        weights_of[head] = _weights(run(config))
    core = [k for k in before if not k.startswith("roi_heads.mask") and "running_" not in k and "num_batches" not in k]
    assert len(core) > 50
    for weights in weights_of.values():
        assert all(torch.equal(weights[name], before[name]) for name in core)
    last = "roi_heads.mask_predictor.mask_fcn_logits.weight"
    assert torch.equal(weights_of["fcn"][last], before[last])
    fcn, unet = (line for line in said if line.startswith(f"init={trained}: "))
    assert "new" not in fcn
    assert "mask head, all 24 layers (another head's is in it)" in unet
    results = [_result(folder) for folder in apps.folders(tmp_path)]
    label = transfer.label(str(trained))
    assert [result["provenance"]["first_weights"] for result in results] == [
        {"init": label, "mask_head": "trained"},
        {"init": label, "mask_head": "new"},
    ]
    assert {result["settings"]["init"] for result in results} == {transfer.identity(str(trained))[:8]}
    notes = " | ".join(read(tmp_path / "quick").notes)
    assert f"init={label}, mask_head=new" in notes and "some mask heads began trained and others new" in notes


def test_new_layers_are_drawn_as_without_init(trained: Path, tmp_path: Path, said: list[str]) -> None:
    config = _config(tmp_path, f"init={trained}", "head=unet")
    model = build_model(config, 3)
    drawn = {name: value.clone() for name, value in build_model(_config(tmp_path, "head=unet"), 3).state_dict().items()}
    data = config.make_dataset("train")
    first_weights.start([model], config, data)
    after, before = model.state_dict(), _weights(trained)
    new = [name for name in after if name not in before or before[name].shape != after[name].shape]
    assert any(name.startswith("roi_heads.box_predictor.cls_score") for name in new)
    assert all(torch.equal(after[name], drawn[name]) for name in new)
    assert "roi_heads.box_predictor.cls_score (2×128 in it, 3×128 here)" in said[-1]


def test_a_broken_run_goes_on_from_its_own_checkpoint(trained: Path, tmp_path: Path, said: list[str]) -> None:
    whole, broken = (_config(tmp_path / name, f"init={trained}", "runtime.checkpoint_every=1") for name in "ab")
    run(whole)
    shutil.copytree(whole.folder(), broken.folder())
    (broken.folder() / "result.json").unlink()
    state = torch.load(broken.folder() / "checkpoint.pt", weights_only=True)
    marked = state["model"]["rpn.head.cls_logits.bias"].fill_(3.0)
    torch.save(state, broken.folder() / "checkpoint.pt")
    assert torch.equal(_weights(run(broken))["rpn.head.cls_logits.bias"], marked)


def test_the_name_of_a_run_is_of_what_is_in_the_weights(trained: Path, tmp_path: Path) -> None:
    def name(*overrides: object) -> str:
        transfer.identity.cache_clear()
        return _config(tmp_path, *overrides).hash()

    copy = shutil.copytree(trained, tmp_path / "copy")
    assert name(f"init={trained}") == name(f"init={copy}") == name(f"init={copy}/checkpoint.pt") != name()
    assert name("init=COCO_V1") == name("init=MaskRCNN_ResNet50_FPN_Weights.COCO_V1") != name()
    (tmp_path / "a.pth").write_bytes(b"1")
    first = name(f"init={tmp_path}/a.pth")
    (tmp_path / "a.pth").write_bytes(b"2")
    assert first != name(f"init={tmp_path}/a.pth")
    cores = [name("protocol=frozen_core", *more) for more in ((), (f"core={trained}",), (f"init={trained}",))]
    assert len(set(cores)) == 3
    assert "init" not in composed().settings()


def test_heads_learn_on_a_core_that_is_given(trained: Path, tmp_path: Path) -> None:
    swept = apps.run(
        *("sweep", *TINY, "protocol=frozen_core", f"core={trained}", "head=fcn,unet", f"results_dir={tmp_path}")
    )
    assert swept.returncode == 0, swept.stderr[-3000:]
    assert f"loaded from {trained}: fcn, unet" in swept.stdout and f"core={trained}: " in swept.stderr
    assert not (tmp_path / "quick" / "cores").exists()
    core = _weights(trained)
    core_names = [name for name in core if not name.startswith("roi_heads.mask_")]
    fcn, unet = apps.folders(tmp_path)
    for folder in (fcn, unet):
        weights = _weights(folder)
        assert all(torch.equal(weights[name], core[name]) for name in core_names)
        provenance = _result(folder)["provenance"]
        assert provenance["first_weights"] == {"core": transfer.label(str(trained))} and "core" not in provenance
    assert _result(fcn)["metrics"]["box"] == _result(unet)["metrics"]["box"] == _result(trained)["metrics"]["box"]
    # the heads are new ones
    last = "roi_heads.mask_predictor.conv5_mask.weight"
    assert not torch.allclose(_weights(fcn)[last], core[last], atol=0.01)


def test_a_core_of_other_classes_is_refused(trained: Path, tmp_path: Path, refused: Any, said: list[str]) -> None:
    state = _weights(trained)
    for name, each in {"cls_score": 1, "bbox_pred": 4}.items():
        for kind in ("weight", "bias"):
            key = f"roi_heads.box_predictor.{name}.{kind}"
            state[key] = torch.cat([state[key], state[key][:each]])
    torch.save(state, tmp_path / "three.pth")
    config = _config(tmp_path, "protocol=frozen_core", f"core={tmp_path}/three.pth")
    parts = ("core=", "three.pth", "2 classes", "3×128 in it, 2×128 here", "init=")
    refused(lambda: frozen_core.run_alone(config), *parts, error=UserError)


def test_a_core_is_trained_from_init_and_heads_begin_with_theirs(
    trained: Path, tmp_path: Path, said: list[str]
) -> None:
    config = _config(tmp_path, "protocol=frozen_core", f"init={trained}")
    frozen_core.run_alone(config)
    assert said[0] == f"init={trained}: 51 of 51 layers loaded"
    assert said[1].startswith(f"init={trained}, FCN: ") and "new" not in said[1]
    assert _result(config.folder())["provenance"]["first_weights"]["mask_head"] == "trained"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["init=COCO_V9"], ["init=COCO_V9", "did you mean COCO_V1"]),
        (["core=COCO_V1"], ["core=COCO_V1", "protocol=frozen_core", "init=COCO_V1"]),
        (["core=nowhere.pkl", "protocol=frozen_core"], ["core=nowhere.pkl", "no such file"]),
        (["trunk=resnet50_detectron2"], ["trunk.norm=frozen", "init"]),
        (["trunk.stride_in_1x1=true"], ["trunk.stride_in_1x1=true", "resnet50"]),
    ],
)
def test_what_cannot_be_used_is_refused_beforehand(overrides: list[str], parts: list[str], refused: Any) -> None:
    refused(lambda: checks.check(composed(*overrides)), *parts, error=UserError)


def test_with_init_no_other_weights_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were fetched")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fetched)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetched)
    for overrides in (["trunk=resnet18"], ["trunk=resnet18", "trunk.weights=null"], ["trunk=resnet50_detectron2"]):
        config = composed(*overrides, "init=COCO_V1")
        checks.check(config)
        build_model(config, 2)


def test_other_conventions_and_other_folds_are_reported(trained: Path, tmp_path: Path, said: list[str]) -> None:
    origin = (trained / "config.yaml").read_text()
    other = shutil.copytree(trained, tmp_path / "other")
    (other / "config.yaml").write_text(origin.replace("fold: 0", "fold: 1").replace("- 16\n", "- 20\n", 1))
    config = _config(tmp_path, f"init={other}")
    first_weights.start([build_model(config, 2)], config, config.make_dataset("train"))
    assert "fold 1 of generated" in said[0] and "fold 0 holds out" in said[0]
    assert "detector.anchor_sizes=[[20],[32]" in said[1]

    said.clear()
    (tmp_path / "d2.pkl").write_bytes(pickle.dumps({"model": {"backbone.bottom_up.stem.conv1.weight": _stem()}}))
    for trunk in ("resnet50", "resnet50_detectron2"):
        config = composed("study=pennfudan", "dataset=generated", f"trunk={trunk}", f"init={tmp_path}/d2.pkl")
        with pytest.raises(UserError, match="only 0 of the 106 layers"):
            first_weights.start([build_model(config, 2)], config, config.make_dataset("train"))
    (line,) = said
    assert "trunk.stride_in_1x1=true detector.roi_aligned=true detector.exact_anchors=true" in line


def _stem() -> Any:
    return torch.zeros(1, 3, 7, 7).numpy()


def test_misuse_on_the_command_line_is_one_line(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path).encode() + b"/made'\ntR.")
    line = apps.only_error(apps.run("sweep", *TINY, f"init={tmp_path}/evil.pkl", f"results_dir={tmp_path}/r"))
    assert line.startswith(f"error: init={tmp_path}/evil.pkl: it wants os.system")
    assert not (tmp_path / "made").exists()
