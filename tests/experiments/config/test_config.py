"""Configurations: every study composes and checks, hashes mean what they say, and wrong keys are named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from composition import composed
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import heads
from experiments.config import checks, cli, run
from experiments.config.groups import Contrast
from experiments.config.run import Config
from experiments.runs.end_to_end import wants_compiling
from experiments.runs.folder import check_same_data
from heads.smp import DECODERS
from instseg import data, detector
from instseg.data.batches.transforms import Augmentation
from instseg.errors import UserError

CONF = cli.CONF


def _names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("study", ["quick", "coco_1x"])
@pytest.mark.parametrize("head", _names("head"))
def test_every_head_stands_in_a_study(study: str, head: str) -> None:
    config = composed(f"study={study}", f"head={head}")
    checks.check(config)
    # a control takes its name when it is found
    assert config.head.variant == head.rpartition("_of_")[2]


@pytest.mark.parametrize("study", _names("study"))
def test_every_study_has_its_file_s_name(study: str) -> None:
    config = composed(f"study={study}")
    checks.check(config)
    assert config.study.name == study


BY_DATASET = ["heads", "mine", *(name for name in _names("study") if name.startswith("ablation_"))]


@pytest.mark.parametrize("study", BY_DATASET)
@pytest.mark.parametrize(
    ("dataset", "trunk", "iterations", "features", "workers"),
    [
        ("generated", "small", 700, 128, 0),
        ("pennfudan", "mobilenet_v2", 510, 1024, 8),
        ("coco", "resnet50", 90_000, 1024, 8),
        ("balloon", "mobilenet_v2", 600, 1024, 8),
        ("open_images", "mobilenet_v2", 600, 1024, 8),
        ("coco_json", "mobilenet_v2", 600, 1024, 8),
    ],
)
def test_a_data_set_brings_its_trunk_and_recipe(
    study: str, dataset: str, trunk: str, iterations: int, features: int, workers: int
) -> None:
    config = composed(f"study={study}", f"dataset={dataset}")
    checks.check(config)
    assert (config.dataset.name, config.trunk.name) == (dataset, trunk)
    assert (config.schedule.iterations, config.detector.box_features, config.runtime.workers) == (
        iterations,
        features,
        workers,
    )
    assert composed(f"study={study}", f"dataset={dataset}", "trunk=resnet18").trunk.name == "resnet18"


def test_the_generated_recipe_is_the_quick_study_s() -> None:
    quick, heads_study = composed("study=quick"), composed("study=heads")
    quick.study = heads_study.study
    assert quick == heads_study


@pytest.mark.parametrize("trunk", _names("trunk"))
@pytest.mark.parametrize("dataset", _names("dataset"))
def test_every_trunk_takes_every_data_set(trunk: str, dataset: str) -> None:
    # detectron2's trunks have no weights of their own
    init = ["init=COCO_V1"] if trunk.endswith("detectron2") else []
    checks.check(composed(f"trunk={trunk}", f"dataset={dataset}", *init))


def test_every_augmentation_checks_and_is_another_run() -> None:
    hashes = set()
    for name in _names("augmentation"):
        config = composed(f"augmentation={name}")
        checks.check(config)
        assert config.augmentation.crop in (None, config.dataset.train_max_size)
        hashes.add(config.hash())
    assert len(hashes) == len(_names("augmentation")) and composed().hash() in hashes


def test_augmentations_can_be_put_together() -> None:
    config = composed("augmentation=large_scale_jitter", "augmentation.photometric=0.5", "dataset.train_max_size=192")
    a = config.augmentation
    assert (a.flip, a.scale, a.crop, a.photometric, a.copy_paste) == (0.5, [0.1, 2.0], 192, 0.5, 0.0)
    assert config.settings()["augmentation.photometric"] == 0.5 and config.settings()["augmentation.crop"] == 192
    # a data set's file says nothing of it, and the default is the schema's
    assert composed().augmentation == Augmentation()
    strong = composed("augmentation=strong").augmentation
    assert (strong.scale, strong.copy_paste, strong.photometric) == ([0.1, 2.0], 0.5, 0.5)


def test_everything_registered_has_a_config_that_states_its_defaults() -> None:
    for name in heads.names():
        # the quick study changes an option of every head; this one leaves them as they are
        chosen = composed("study=coco_1x", f"head={name}").head.options
        if name == "maskiou":
            assert chosen.pop("of")["options"] == heads.options("fcn")
            chosen["of"] = None
        assert chosen == heads.options(name), name
    assert {composed(f"dataset={name}").dataset.name for name in _names("dataset")} == set(data.names())
    assert {composed(f"trunk={name}").trunk.name for name in _names("trunk")} == set(detector.trunk.names())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("detector.rpn_fg_iou_thresh=0.2", "detector.rpn_bg_iou_thresh=0.3"),
        ("detector.box_bg_iou_thresh=0.6", "detector.box_fg_iou_thresh=0.5"),
        ("runtime.compile=maybe", "runtime.compile"),
        ("schedule.precision=half", "tf32"),
        ("study.contrasts=[{variant:unet,rival:unet}]", "'unet' against 'unet': must be the names of two variants"),
        ("study.contrasts=[{variant:unet,rival:''}]", "names of two variants"),
        ("study.contrasts=[{variant:unet,rival:fcn},{variant:fcn,rival:unet}]", "unet against fcn is there twice"),
    ],
)
def test_values_that_do_not_go_together_are_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        checks.check(composed(override))


def test_contrasts_are_named_and_change_no_run() -> None:
    named = composed("study.contrasts=[{variant:unet,rival:fcn_flops_of_unet,question:'At equal FLOPs?'}]")
    checks.check(named)
    assert named.study.contrasts == [Contrast("unet", "fcn_flops_of_unet", "At equal FLOPs?")]
    assert named.hash() == composed().hash()


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("false", False), ("auto", False)])
def test_compile_may_be_given_as_yaml_reads_it(value: str, expected: bool) -> None:
    config = composed(f"runtime.compile={value}")
    checks.check(config)
    assert wants_compiling(config, torch.device("cpu")) is expected
    assert config.hash() == composed().hash()
    assert wants_compiling(config, torch.device("cuda")) is (value != "false")


@pytest.mark.parametrize(
    ("variant", "head", "changed"),
    [
        ("fcn_deep", "fcn", {"convs": 8}),
        ("fcn_shallow", "fcn", {"convs": 2}),
        # the pyramid of the quick study has 32 channels
        ("fcn_wide", "fcn", {"width": 64}),
        ("fcn_group_norm", "fcn", {"norm": "group"}),
        ("unet_narrow", "unet", {"width": 8}),
        ("unet_wide", "unet", {"width": 32}),
        ("unet_no_skip", "unet", {"skip": "none"}),
        ("unet_add", "unet", {"skip": "add"}),
        ("unet_attention", "unet", {"skip": "attention"}),
        ("unet_residual", "unet", {"block": "residual"}),
        ("unet_scse", "unet", {"scse": True}),
        ("unet_bilinear", "unet", {"up": "bilinear"}),
        ("unet_carafe", "unet", {"up": "carafe"}),
        ("unet_p2_p3", "unet_p2", {"levels": "p2_p3"}),
        ("hourglass2", "hourglass", {"stacks": 2}),
        *((f"smp_{decoder}", "smp", {"decoder": decoder}) for decoder in DECODERS),
    ],
)
def test_a_variant_is_its_head_with_one_option_changed(variant: str, head: str, changed: dict[str, Any]) -> None:
    config = composed(f"head={variant}").head
    assert config.name == head
    assert config.options == {**composed(f"head={head}").head.options, **changed}


@pytest.mark.parametrize(("variant", "weight"), [("fcn_dice", "dice_weight"), ("fcn_boundary", "boundary_weight")])
def test_losses_on_shape_are_options_of_any_head(variant: str, weight: str) -> None:
    config, fcn = composed(f"head={variant}"), composed("head=fcn")
    assert config.head.common() == {**fcn.head.common(), weight: 1.0}
    assert config.head.options == fcn.head.options
    assert getattr(config.make_head(2), weight) == 1.0
    assert getattr(composed("head=unet", f"head.{weight}=0.5").make_head(2), weight) == 0.5
    assert config.hash() != fcn.hash()


def test_maskiou_wraps_the_head_that_is_chosen() -> None:
    assert type(composed("head=maskiou").make_head(2).wrapped).__name__ == "FCN"
    config = composed("head=maskiou", "head@head.options.of=unet", "head.options.of.options.depth=1")
    assert type(config.make_head(2).wrapped).__name__ == "UNet"
    assert len(config.make_head(2).wrapped.down) == 2


@pytest.mark.parametrize(
    "same",
    [
        "runtime.device=cpu",
        "runtime.workers=3",
        "runtime.checkpoint_every=7",
        "runtime.evaluate_every=7",
        "data_root=/somewhere",
        "results_dir=elsewhere",
        "evaluation.resamples=10",
        "evaluation.engine=pycocotools",
        "study.name=other",
        "study.baseline=unet",
        "head.variant=renamed",
        "schedule.plateau_check=7",
    ],
)
def test_hash_leaves_out_what_cannot_change_numbers(same: str) -> None:
    assert composed(same).hash() == composed().hash()


@pytest.mark.parametrize(
    "other",
    [
        "seed=1",
        "head=unet",
        "head.options.convs=3",
        "head.class_agnostic=true",
        "dataset.max_train_images=7",
        "augmentation.flip=0.1",
        "dataset.options.seed=3",
        "trunk.out_channels=8",
        "detector.box_nms_thresh=0.4",
        "detector.mask_loss_weight=3",
        "schedule.lr=0.5",
        "schedule.precision=bfloat16",
        "schedule.until=plateau",
        "evaluation.batch_size=1",
    ],
)
def test_hash_covers_what_can_change_numbers(other: str) -> None:
    assert composed(other).hash() != composed().hash()


def test_hash_of_weights_from_a_file_is_of_its_content(tmp_path: Path) -> None:
    for name, content in (("a.pth", b"1"), ("b.pth", b"1"), ("c.pth", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (composed(f"trunk.weights={tmp_path}/{name}.pth").hash() for name in "abc")
    assert a == b != c


def test_download_folder_is_no_part_of_the_hash() -> None:
    pennfudan = "dataset=pennfudan"
    assert composed(pennfudan, "dataset.options.download_dir=x").hash() == composed(pennfudan).hash()


def test_folder_tells_the_run() -> None:
    config = composed("head=unet", "dataset=pennfudan", "dataset.fold=3", "seed=4", "results_dir=r")
    assert config.folder() == Path("r/quick/runs") / f"unet-pennfudan-f3-s4-{config.hash()}"


def test_a_stored_config_is_the_run(tmp_path: Path) -> None:
    config = composed("head=unet_no_skip", "schedule.lr=0.3")
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    merged: Any = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
    assert run.to_config(merged).hash() == config.hash()


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("augmentation=strnog", ["augmentation 'strnog'", "'strong'"]),
        ("dataset.flip=0.1", ["'dataset.flip'"]),
        ("head=unett", ["head 'unett'", "'unet'", "fcn"]),
        ("study=pennfudn", ["study 'pennfudn'", "'pennfudan'"]),
        ("schedule.lrr=1", ["'schedule.lrr'", "'schedule.lr'"]),
        ("sched.lr=1", ["'sched'", "'schedule'"]),
        ("head.options.widht=1", ["'head.options.widht'", "'head.options.width'"]),
        ("schedule.lr=fast", ["schedule.lr", "'fast'"]),
        ("seed=one", ["seed", "'one'"]),
        ("head=fcn,", ["'head=fcn,'", "key=value"]),
        ("lr", ["'lr'", "key=value"]),
    ],
)
def test_misspelt_overrides_are_named_in_one_line(override: str, parts: list[str]) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)) as error:
        composed(override)
    line = cli.one_line(error.value)
    assert "\n" not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("protocol=frozen", ["protocol 'frozen'", "end_to_end"]),
        ("trunk.name=resnet52", ["trunk 'resnet52'", "resnet50"]),
        ("trunk.norm=group", ["trunk.norm 'group'", "batch"]),
        ("trunk.norm=frozen", ["trunk.norm=frozen", "trunk.weights"]),
        ("trunk.weights=IMAGENET1K_V1", ["trunk.weights=IMAGENET1K_V1", "small"]),
        ("dataset.train_max_size=100", ["dataset.train_max_size"]),
        ("+head.options.dpeth=2", ["'dpeth'"]),
        ("head.options.norm=layer", ["'layer'", "group"]),
        ("schedule.optimizer=adam", ["'adam'", "adamw"]),
        ("dataset.name=cooc", ["'cooc'", "coco"]),
        ("augmentation.flip=2", ["augmentation.flip=2"]),
        ("augmentation.copy_paste=nan", ["augmentation.copy_paste=nan"]),
        ("augmentation.scale=[2,1]", ["augmentation.scale=[2.0, 1.0]", "[low,high]"]),
        ("augmentation.scale=[0,1]", ["augmentation.scale=[0.0, 1.0]"]),
        ("augmentation.scale=[0.5,1.5]", ["augmentation.scale=[0.5, 1.5]", "augmentation.crop"]),
        ("augmentation.crop=0", ["augmentation.crop=0"]),
        ("augmentation.jpeg_quality=[0,50]", ["augmentation.jpeg_quality=[0, 50]"]),
        ("augmentation.min_area=0", ["augmentation.min_area=0"]),
        ("dataset.train_min_size=[]", ["dataset.train_min_size"]),
        ("detector.anchor_sizes=[[32]]", ["detector.anchor_sizes", "five"]),
        ("runtime.device=gpu", ["runtime.device=gpu", "cuda"]),
        ("runtime.device=mps", ["runtime.device=mps"]),
        ("runtime.log_every=0", ["runtime.log_every=0"]),
        ("runtime.threads=0", ["runtime.threads=0"]),
        ("runtime.workers=-1", ["runtime.workers=-1"]),
        ("seed=-1", ["seed=-1"]),
        ("schedule.lr=nan", ["schedule.lr=nan"]),
        ("schedule.momentum=-1", ["schedule.momentum=-1"]),
        ("schedule.clip_norm=-1", ["schedule.clip_norm=-1"]),
        ("schedule.milestones=[-5]", ["schedule.milestones"]),
        ("detector.anchor_ratios=[]", ["detector.anchor_ratios"]),
        ("detector.box_features=0", ["detector.box_features=0"]),
        ("detector.box_nms_thresh=1.5", ["detector.box_nms_thresh=1.5"]),
        ("detector.mask_loss_weight=-1", ["detector.mask_loss_weight=-1.0", "0 or more"]),
        ("dataset.max_size=40", ["dataset.max_size"]),
        ("evaluation.resamples=0", ["evaluation.resamples=0"]),
        ("evaluation.engine=coco", ["evaluation.engine", "pycocotools", "faster_coco_eval"]),
        ("trunk.trainable_layers=2", ["trunk.trainable_layers=2"]),
        ("head.options.convs=two", ["convs='two'", "whole number"]),
        ("head.options.convs=2.5", ["convs=2.5", "whole number"]),
        ("head.options.norm=3", ["norm=3", "name"]),
    ],
)
def test_values_that_cannot_be_are_found_beforehand(override: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        checks.check(composed(override))
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_weights_that_are_nowhere_are_found_beforehand() -> None:
    with pytest.raises(UserError, match=r"trunk.weights=imagenet: no such file.* IMAGENET1K_V1") as error:
        checks.check(composed("trunk=resnet18", "trunk.weights=imagenet"))
    assert "\n" not in str(error.value)


def test_folds_are_checked() -> None:
    with pytest.raises(UserError, match=r"dataset.fold=5: pennfudan has folds 0 to 4"):
        composed("dataset=pennfudan", "dataset.fold=5").make_dataset("val")
    with pytest.raises(UserError, match=r"dataset.fold=1: generated has fold 0"):
        composed("dataset.fold=1").make_dataset("val")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("dataset.max_train_images=0", ["dataset.max_train_images=0"]),
        ("+dataset.options.sede=1", ["'sede'", "'seed'"]),
        ("dataset.options.size=5", ["size=5"]),
        ("dataset.options.figures=[5,2]", ["figures"]),
    ],
)
def test_data_that_cannot_be_made(override: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        composed(override).make_dataset("train")
    for part in parts:
        assert part in str(error.value)


def test_a_folder_holds_runs_on_one_data_set_alone(real_data: Path, tmp_path: Path) -> None:
    place = tmp_path / "PennFudanPed"
    for part in ("PNGImages", "PedMasks"):
        (place / part).mkdir(parents=True)
        for path in sorted((real_data / "PennFudanPed" / part).iterdir())[:10]:
            (place / part / path.name).symlink_to(path)
    arguments = ("dataset=pennfudan", f"results_dir={tmp_path / 'results'}")
    here, there = (composed(*arguments, f"data_root={root}") for root in (tmp_path, real_data))
    assert here.folder() == there.folder()
    here.folder().mkdir(parents=True)
    check_same_data(here, write=True)
    check_same_data(here)
    with pytest.raises(UserError, match="other data"):
        check_same_data(there)


def test_coco_recipes_are_the_published_ones() -> None:
    for study, trunk, iterations, milestones in (
        ("coco_1x", "resnet50", 90000, (60000, 80000)),
        ("coco_3x", "resnet101", 270000, (210000, 250000)),
    ):
        config = composed(f"study={study}")
        s = config.make_schedule()
        assert (config.trunk.name, s.iterations, tuple(s.milestones), s.batch_size, s.lr) == (
            trunk,
            iterations,
            milestones,
            16,
            0.02,
        )
        half = composed(f"study={study}", "schedule.batch_size=8").make_schedule()
        assert (half.iterations, half.lr) == (2 * iterations, 0.01)
