"""Looking a data set over: numbers worked out by hand, every kind of problem, and what is drawn."""

import json
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import apps
import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image

from experiments.config import apps as app_config
from experiments.config import cli
from experiments.config import run as config
from experiments.config.groups import DatasetConfig
from experiments.config.run import Config
from experiments.data import counts as data_counts
from experiments.data import images as data_images
from experiments.data import look as data
from experiments.data import plots
from experiments.data import problems as data_problems
from experiments.runs import end_to_end
from experiments.runs import folder as record
from instseg.data import InstanceDataset
from instseg.data.archives.fetch import Source
from instseg.errors import UserError

Refused = Callable[..., str]
HEIGHT, WIDTH = 120, 160
CLASSES = ("cat", "dog", "yak", "emu")


def square(number: int, image: int, category: int, x: float, y: float, side: float, **more: Any) -> dict[str, Any]:
    polygon = [x, y, x + side, y, x + side, y + side, x, y + side]
    bbox = [x, y, side, side]
    return {
        **{"id": number, "image_id": image, "category_id": category, "iscrowd": 0, "area": side * side},
        **{"bbox": bbox, "segmentation": [polygon], **more},
    }


def document(images: range, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in images],
        "annotations": annotations,
        "categories": [{"id": 10 * i, "name": name} for i, name in enumerate(CLASSES)],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """COCO's layout with three training images, one without instances, and two to validate on; ids from 0."""
    crowd = {"size": [HEIGHT, WIDTH], "counts": [0, 50, HEIGHT * WIDTH - 50]}
    train = [
        square(0, 1, 0, 10, 10, 30),
        square(1, 1, 0, 60, 10, 40),
        square(2, 2, 10, 20, 20, 98),
        {**square(3, 2, 10, 0, 0, 9), "iscrowd": 1, "segmentation": crowd, "area": 50},
    ]
    val = [square(0, 4, 0, 10, 10, 20), square(1, 5, 20, 50, 50, 50)]
    write(tmp_path, "train", document(range(1, 4), train))
    write(tmp_path, "val", document(range(4, 6), val))
    return tmp_path


def write(root: Path, split: str, content: dict[str, Any]) -> None:
    folder = root / "coco" / f"{split}2017"
    for path in (folder, root / "coco" / "annotations"):
        path.mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        pixels = np.random.default_rng(image["id"]).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"])
    (root / "coco" / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def add(root: Path, split: str, *annotations: dict[str, Any]) -> None:
    path = root / "coco" / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    content["annotations"] += annotations
    path.write_text(json.dumps(content))


def composed(*overrides: str) -> DictConfig:
    config.register()
    app_config.register()
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose("data", overrides=list(overrides))


def look(root: Path, *overrides: str) -> Path:
    """Look the set under ``root`` over; gives the folder of results."""
    config._dataset.cache_clear()
    data.job(composed("dataset=coco", f"data_root={root}", f"results_dir={root / 'results'}", *overrides))
    return root / "results" / "data" / "coco"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds."""
    monkeypatch.setattr(data_images, "save", lambda path, figure: None)
    monkeypatch.setattr(data_images, "samples", lambda splits, images: None)
    monkeypatch.setattr(data_images, "augmentations", lambda one, train: None)


def of_run(*overrides: str) -> Config:
    cfg = composed(*overrides)
    with open_dict(cfg):
        for key in vars(app_config.Data()):
            cfg.pop(key)
    return config.to_config(cfg)


def problems(folder: Path) -> list[str]:
    lines = (folder / "problems.txt").read_text().splitlines()
    return [line for line in lines if re.match("(error|left out|look): (train|val|both): ", line)]


def test_the_numbers_are_those_counted_by_hand(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = look(root, "dataset.min_size=60", "dataset.max_size=1000")
    assert sorted(path.name for path in folder.iterdir()) == sorted(data.FILES)
    counts = pd.read_csv(folder / "counts.csv").set_index(["split", "class"])
    assert counts.loc[("train", "all")].tolist() == [3, 3, 1, 1, 1, 1]
    assert counts.loc[("train", "cat")].tolist() == [1, 2, 0, 1, 1, 0]
    # a crowd region is none of the instances, but its image has the class
    assert counts.loc[("train", "dog")].tolist() == [1, 1, 1, 0, 0, 1]
    assert counts.loc[("val", "all")].tolist() == [2, 2, 0, 1, 1, 0]
    assert counts.loc[("val", "emu")].tolist() == [0] * 6
    printed = capsys.readouterr().out
    rows = {line[:26].strip(): line.split()[-2:] for line in printed.splitlines() if line.startswith("median")}
    # resized to half their size, 30², 40² and 98² have a median of 20², 20² and 50² one of 1450 / 4
    assert rows["median mask area, resized"] == ["400", "362"]
    assert "1 class in train alone: dog" in printed
    assert "1 class in val alone, so never learnt: yak" in printed
    assert "1 class in neither split: emu" in printed
    assert "0 errors, 0 left out, 3 worth a look" in printed
    assert "| without instances" in (folder / "summary.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_ids_are_those_of_the_file(root: Path) -> None:
    add(root, "train", square(4, 3, 0, 50, 50, 2), square(5, 1, 0, 10, 10, 30), square(6, 1, 10, 10, 10, 30))
    add(
        root, "train", square(7, 3, 0, 100, 90, 20, bbox=[100, 90, 26, 20]), square(8, 3, 0, 1, 1, 0, bbox=[1, 1, 0, 0])
    )
    lines = problems(look(root))
    file = root / "coco" / "train2017"
    where = f"look: train: annotation {{}} of image {{}} (cat), {file}/{{}}.png: "
    assert where.format(4, 3, 3) + "its mask has 4 pixels" in lines
    assert where.format(5, 1, 1) + "same class and mask as annotation 0" in lines
    assert where.format(7, 3, 3) + "its box [100.0, 90.0, 26.0, 20.0] is up to 6.0 pixels off its mask" in lines
    # of another class, so no twin; and what was left out is said once
    assert not any("annotation 6" in line for line in lines)
    (skipped,) = [line for line in lines if "annotation 8" in line]
    assert skipped.startswith("left out: train: annotation 8 of image 3: ")


@pytest.mark.usefixtures("undrawn")
def test_a_image_in_both_splits_is_found(root: Path) -> None:
    folder = root / "coco"
    shutil.copyfile(folder / "train2017" / "2.png", folder / "val2017" / "5.png")
    (line,) = [line for line in problems(look(root)) if "pixels of" in line]
    assert line == (
        f"look: val: image 5, {folder}/val2017/5.png, has the pixels of image 2, {folder}/train2017/2.png, of train"
    )
    # the last image of each split is read, and that is not the twin
    assert not [line for line in problems(look(root, "decode=1")) if "pixels of" in line]


def test_every_unreadable_image_is_told_and_the_rest_is_done(root: Path, refused: Refused) -> None:
    broken, other = root / "coco" / "train2017" / "1.png", root / "coco" / "val2017" / "4.png"
    broken.write_bytes(broken.read_bytes()[:2000])
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(other)
    written = root / "results" / "data" / "coco" / "problems.txt"
    refused(lambda: look(root), f"train: {broken}", "truncated", "2 errors", written)
    errors = [line for line in problems(written.parent) if line.startswith("error: ")]
    assert len(errors) == 2 and str(broken) in errors[0] and "9 x 9" in errors[1] and str(other) in errors[1]
    assert sorted(path.name for path in written.parent.iterdir()) == sorted(data.FILES)


@pytest.mark.usefixtures("undrawn")
def test_a_set_that_cannot_be_used_has_all_its_faults_told(root: Path, refused: Refused) -> None:
    folder = look(root)
    add(root, "train", square(5, 77, 0, 1, 1, 9), square(6, 78, 0, 1, 1, 9), square(7, 1, 99, 1, 1, 9))
    add(root, "val", square(5, 79, 0, 1, 1, 9))
    refused(lambda: look(root), "instances_train2017.json", "image 77", "4 lines", folder / "problems.txt")
    lines = problems(folder)
    assert [line.split(": ")[1] for line in lines] == ["train"] * 3 + ["val"]
    assert all(any(f"annotation {i} is of" in line for line in lines) for i in (5, 6, 7))
    # images of what was there before would be taken for images of this
    assert [path.name for path in folder.iterdir()] == ["problems.txt"]


@pytest.mark.usefixtures("undrawn")
def test_splits_of_different_classes_are_refused(root: Path, refused: Refused) -> None:
    path = root / "coco" / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 10, "name": "dog"}, {"id": 0, "name": "cat"}, {"id": 20, "name": "gnu"}]
    path.write_text(json.dumps(content))
    refused(lambda: look(root), "class 3 by id is 'yak' in train and 'gnu' in val", "2 lines", "problems.txt")
    (_, line) = problems(root / "results" / "data" / "coco")
    assert line == "error: both: class 4 by id is 'emu' in train and 'not there' in val"
    # a run would be of no use either
    one = of_run("dataset=coco", f"data_root={root}", f"results_dir={root}")
    refused(lambda: record.check_same_data(one), "'yak' in train")


def test_nothing_to_learn_from_is_an_error(root: Path, refused: Refused) -> None:
    empty = document(range(1, 3), [square(0, 1, 0, 1, 1, 50, iscrowd=1)])
    write(root, "train", empty)
    refused(lambda: look(root), "no image has an instance to learn from", "problems.txt")
    folder = root / "results" / "data" / "coco"
    assert (folder / "samples.png").exists() and not (folder / "augmented.png").exists()


def test_images_carry_their_names(root: Path) -> None:
    one = of_run("dataset=coco", f"data_root={root}")
    splits = [data_counts.read(name, one.make_dataset(name), one.dataset) for name in data_counts.SPLITS]
    figure = data_images.samples(splits, 12)
    assert figure is not None
    assert [text.get_text() for text in figure.texts] == [
        "train: 1.png, 2 instances",
        "train: 2.png, 2 instances",
        "val: 4.png, 1 instance",
        "val: 5.png, 1 instance",
    ]
    # the largest first, a crowd region marked
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [
        ["cat", "cat"],
        ["dog", "dog (crowd)"],
        ["cat"],
        ["yak"],
    ]
    _no_two_overlap(figure)


def _no_two_overlap(figure: Figure) -> None:
    places = [axes.get_position() for axes in figure.axes]
    for i, place in enumerate(places):
        assert 0 <= place.x0 < place.x1 <= 1 and 0 <= place.y0 < place.y1 <= 1
        assert not any(place.overlaps(other) for other in places[:i])


def test_augmented_images_are_those_of_a_run(tmp_path: Path) -> None:
    tiny = [setting for setting in apps.TINY if setting.startswith("dataset.")]
    one = of_run(*tiny, "schedule.batch_size=1", "dataset.train_min_size=[64,80]", "seed=3")
    train = one.make_dataset("train")
    batches = end_to_end.training_batches(one, train, 0, 4, torch.device("cpu"))
    for turn, (images, targets) in enumerate(batches):
        index = train.image_ids.index(targets[0]["image_id"])
        image, target = data_images.augmented(one, train, index, turn)
        assert torch.equal(image, images[0])
        assert torch.equal(target["masks"], targets[0]["masks"])


class Many(InstanceDataset):
    """As many classes as asked for, of which nothing is read."""

    def __init__(self, classes: int) -> None:
        self.name, self.skipped, self.image_ids = "many", [], [1, 2]
        self.categories = [{"id": i, "name": f"class number {i}"} for i in range(classes)]

    def __getitem__(self, index: int) -> Any:
        raise AssertionError

    def ground_truth(self) -> dict[str, Any]:
        images = [{"id": i, "height": HEIGHT, "width": WIDTH} for i in self.image_ids]
        annotations = [square(i, 1 + i % 2, i, 10, 10, 20 + i) for i in range(len(self.categories))]
        return {"images": images, "annotations": annotations, "categories": self.categories}

    def fingerprint(self) -> str:
        return ""

    def describe(self, index: int) -> str:
        return ""


@pytest.mark.parametrize("classes", [1, 80, 150])
def test_class_names_stay_legible(classes: int) -> None:
    sizes = DatasetConfig(min_size=100, max_size=200)
    figure = plots.distributions([data_counts.read(name, Many(classes), sizes) for name in data_counts.SPLITS])
    figure.canvas.draw()
    labels = figure.axes[0].get_yticklabels()
    assert len(labels) == min(classes, 100)
    boxes = [label.get_window_extent() for label in labels]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0
    assert ("50 more in counts.csv" in figure.axes[0].get_title()) == (classes == 150)


def test_the_folder_is_the_set_s_own(tmp_path: Path) -> None:
    small = ("dataset.max_train_images=2", "dataset.max_val_images=2", f"results_dir={tmp_path}")
    data.job(composed("dataset=generated", *small, "name=mine", "images=1"))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"]
    assert data._name(of_run("dataset=pennfudan")) == "pennfudan"
    assert data._name(of_run("dataset=pennfudan", "dataset.fold=2")) == "pennfudan-f2"


@pytest.mark.usefixtures("undrawn")
def test_it_fetches_to_where_runs_look(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, Path]] = []

    def fetch(source: Source, to: Path) -> Path:
        asked.append((source.folder, to))
        return to / "coco"

    monkeypatch.setattr(data, "fetch", fetch)
    look(root, "download=true")
    assert f"find it with data_root={root}" in capsys.readouterr().out
    monkeypatch.setenv("INSTSEG_DATA", str(root))
    look(root, "download=true")
    assert "find it there" in capsys.readouterr().out
    # without a root both fetch to and read from the same folder
    look(root, "download=true", "data_root=null", f"dataset.options.download_dir={root}")
    assert "find it there" in capsys.readouterr().out
    assert asked == [("coco", root)] * 3


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("images=0", ["images=0", "1 or more"]),
        ("decode=some", ["decode=some", "all"]),
        ("decode=0", ["decode=0", "1 or more"]),
        ("decode=true", ["decode=True", "all"]),
        ("name=a/b", ["name=a/b", "folder"]),
        ("name=", ["name=", "folder"]),
    ],
)
def test_wrong_keys_are_named(override: str, parts: list[str], refused: Refused) -> None:
    refused(lambda: data.job(composed(override)), *parts, error=UserError)


def test_the_yaml_s_defaults_are_the_schema_s() -> None:
    path = cli.CONF / "data.yaml"
    written = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(written, dict)
    assert {key: written[key] for key in vars(app_config.Data())} == vars(app_config.Data())


def test_items_are_evenly_spaced() -> None:
    assert data_problems.evenly(range(10), 3) == [0, 4, 9]
    assert data_problems.evenly([5, 7], 3) == [5, 7]
    assert data_problems.evenly([], 3) == []


def test_the_app_as_a_person_runs_it(root: Path) -> None:
    given = ("dataset=coco", f"data_root={root}", f"results_dir={root / 'results'}")
    done = apps.run("data", *given)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "worth a look" in done.stdout
    folder = root / "results" / "data" / "coco"
    first = {name: (folder / name).read_bytes() for name in data.FILES}
    for name in ("samples.png", "augmented.png", "distributions.png"):
        with Image.open(folder / name) as image:
            assert image.width > 1500 and np.asarray(image.convert("L")).std() > 10
    # another process draws the same images in the same way
    look(root)
    assert {name: (folder / name).read_bytes() for name in data.FILES} == first
    shutil.rmtree(root / "coco" / "val2017")
    line = apps.only_error(apps.run("data", *given))
    assert "val2017 does not exist" in line and "download=true" in line and "problems.txt" in line


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("pennfudan", {"train": (136, 339, 0, 0), "val": (34, 84, 0, 0)}),
        ("coco", {"train": (200, 1577 - 13, 13, 3), "val": (120, 948 - 13, 13, 2)}),
    ],
)
def test_real_sets_are_counted_right(real_data: Path, name: str, numbers: dict[str, tuple[int, ...]]) -> None:
    one = of_run(f"dataset={name}", f"data_root={real_data}")
    splits = [data_counts.read(split, one.make_dataset(split), one.dataset) for split in data_counts.SPLITS]
    for split in splits:
        alone = split.alone()
        crowds = len(split.instances) - len(alone)
        without = int((split.images["instances"] == 0).sum())
        assert (len(split.images), len(alone), crowds, without) == numbers[split.name]
    assert not [problem for problem in data_problems.in_numbers(splits) if problem.kind != "look"]


def test_a_fault_of_the_file_that_both_splits_come_from_is_told_once(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "images").mkdir()
    path = tmp_path / "own.json"
    path.write_text(json.dumps(document(range(1, 7), [square(0, 1, 0, 1, 1, 5)])))
    keys = (f"dataset.annotations={path}", f"dataset.images={tmp_path / 'images'}", f"results_dir={tmp_path}")
    refused(lambda: data.job(composed("dataset=coco_json", *keys)), "5 more", "6 lines", "problems.txt")
    lines = problems(tmp_path / "data" / "coco_json")
    assert len(lines) == 6 and all(line.startswith("error: both: ") for line in lines)
