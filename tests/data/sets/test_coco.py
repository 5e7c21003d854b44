"""COCO files read as pycocotools reads them; what is refused is in test_coco_faults.py."""

import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import CROWD, HEIGHT, WIDTH, Files, document, index_of, read
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch.utils.data import DataLoader

from instseg.data.annotations.coco_shapes import run_lengths
from instseg.data.sets.coco import Coco2017
from instseg.errors import UserError

Refused = Callable[..., str]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_samples_are_in_the_order_of_ids_with_contiguous_labels(files: Files) -> None:
    data = files.load(document())
    assert data.name == "coco"
    assert data.image_ids == [7, 8, 9]
    assert data.categories == [{"id": 2, "name": "dog"}, {"id": 5, "name": "cat"}]
    assert data.num_classes == 3
    assert data.describe(1).endswith("8.png")
    image, target = data[0]
    assert image.unique().tolist() == [7]
    assert image.shape == (3, HEIGHT, WIDTH)
    assert target["image_id"] == 7
    assert target["labels"].tolist() == [2, 1]
    assert target["iscrowd"].tolist() == [0, 1]
    assert target["boxes"].tolist() == [[4, 5, 14, 15], [2, 0, 3, 20]]
    assert target["masks"].dtype == torch.uint8
    assert target["area"].tolist() == [100, 20]
    assert target["masks"][0, 5:15, 4:14].all()
    assert target["masks"][1, :, 2].all()
    assert data[1][1]["boxes"].tolist() == [[0, 5, 30, 15]]


def test_images_without_annotations_are_kept(files: Files) -> None:
    target = files.load(document())[2][1]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, HEIGHT, WIDTH)
    assert target["labels"].dtype == target["iscrowd"].dtype == torch.int64


def test_ground_truth_is_the_file_with_rle_compressed(files: Files) -> None:
    original, truth = document(), files.load(document()).ground_truth()
    assert json.loads(json.dumps(truth)) == truth
    assert truth["images"] == sorted(original["images"], key=lambda image: image["id"])
    assert truth["categories"] == sorted(original["categories"], key=lambda category: category["id"])
    crowd = truth["annotations"][1]
    assert np.array_equal(index_of(truth).annToMask(crowd), index_of(original).annToMask(original["annotations"][1]))
    assert crowd["segmentation"]["size"] == CROWD["size"]
    crowd["segmentation"] = CROWD
    assert truth["annotations"] == original["annotations"]


def test_ground_truth_has_all_that_scoring_needs(files: Files) -> None:
    content = document()
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number
        del annotation["iscrowd"], annotation["area"]
    truth = files.load(content).ground_truth()
    assert [a["id"] for a in truth["annotations"]] == [1, 2, 3]
    assert [a["iscrowd"] for a in truth["annotations"]] == [0, 0, 0]
    assert [a["area"] for a in truth["annotations"]][:2] == [100, 20]


def test_limit_keeps_the_first_images_and_looks_at_no_others(files: Files, refused: Refused) -> None:
    content = document()
    content["annotations"][2]["bbox"] = [0, 0, 0, 0]
    (files.images / "8.png").unlink()
    data = files.load(content, limit=1)
    assert data.image_ids == [7]
    assert [a["id"] for a in data.ground_truth()["annotations"]] == [11, 12]
    refused(lambda: files.load(content), "8.png")
    refused(lambda: files.load(content, invalid="dorp"), "'dorp'", "drop", error=UserError)


def test_compressed_rle_is_read(files: Files) -> None:
    content = document()
    noise = np.asfortranarray(np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.6, dtype=np.uint8)
    compressed = coco_mask.encode(noise)
    content["annotations"][0]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()}
    data = files.load(content)
    assert np.array_equal(data[0][1]["masks"][0].numpy(), noise)
    assert data.ground_truth()["annotations"][0] == content["annotations"][0]


def test_runs_of_compressed_rle_are_those_of_pycocotools() -> None:
    dice = np.random.default_rng(0)
    for _ in range(50):
        mask = np.asfortranarray(dice.random((70, 80)) > dice.random(), dtype=np.uint8)
        changes = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F")]))).tolist()
        runs = np.diff([0, *changes, mask.size]).tolist()
        assert run_lengths(coco_mask.encode(mask)["counts"].decode()) == runs


def test_file_names_may_have_folders_and_backslashes(files: Files) -> None:
    content = document()
    (files.images / "sub").mkdir()
    (files.images / "7.png").rename(files.images / "sub" / "7.png")
    content["images"][1]["file_name"] = "sub\\7.png"
    assert files.load(content)[0][0].unique().tolist() == [7]


def test_a_image_is_as_large_as_the_file_says(files: Files, refused: Refused) -> None:
    data = files.load(document())
    path = files.images / "7.png"
    Image.fromarray(np.zeros((WIDTH, HEIGHT), dtype=np.uint8)).save(path)
    refused(lambda: data[0], path, files.json, "20 x 30", "30 x 20", "image 7")
    path.write_bytes(path.read_bytes()[:40])
    refused(lambda: data[0], path)


def test_spawned_workers_read_it(files: Files) -> None:
    data = files.load(document())
    again = pickle.loads(pickle.dumps(data))
    assert again.image_ids == data.image_ids
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert [target["labels"].tolist() for _, target in loader] == [[2, 1], [1], []]


def test_coco2017_says_which_layout_it_wants(tmp_path: Path, refused: Refused) -> None:
    wanted = ("annotations/instances_val2017.json", "val2017/", "https://cocodataset.org/#download")
    refused(lambda: Coco2017("val", root=tmp_path), tmp_path, *wanted)
    refused(lambda: Coco2017("test", root=tmp_path), "'test'", "val", error=UserError)
    refused(lambda: Coco2017("val", root=tmp_path, images=0), "max_val_images=0", error=UserError)
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(document()))
    refused(lambda: Coco2017("val", root=tmp_path), tmp_path / "coco" / "val2017", *wanted)
    shutil.copytree(Files(tmp_path).images, tmp_path / "coco" / "val2017")
    assert len(Coco2017("val", root=tmp_path)) == len(Coco2017("val", root=tmp_path / "coco")) == 3


@pytest.mark.parametrize(
    ("split", "images", "annotations", "crowds", "without"), [("train", 200, 1577, 13, 3), ("val", 120, 948, 13, 2)]
)
def test_the_real_part_is_whole(
    real_data: Path, split: str, images: int, annotations: int, crowds: int, without: int
) -> None:
    data = Coco2017(split, root=real_data)
    truth = data.ground_truth()
    assert len(data) == images
    assert data.num_classes == 81
    assert data.skipped == []
    assert len(truth["annotations"]) == annotations
    assert sum(a["iscrowd"] for a in truth["annotations"]) == crowds
    assert len(set(data.image_ids) - {a["image_id"] for a in truth["annotations"]}) == without


def test_real_masks_are_those_of_pycocotools(real_data: Path) -> None:
    with redirect_stdout(StringIO()):
        coco = COCO(str(real_data / "coco" / "annotations" / "instances_val2017.json"))
    data = Coco2017("val", root=real_data)
    label_of = {category["id"]: label for label, category in enumerate(data.categories, start=1)}
    truth = index_of(data.ground_truth())
    seen = 0
    for index, image_id in enumerate(data.image_ids):
        image, target = data[index]
        annotations = coco.imgToAnns[image_id]
        assert [a["id"] for a in truth.imgToAnns[image_id]] == [a["id"] for a in annotations]
        assert target["masks"].shape == (len(annotations), *image.shape[1:])
        assert target["labels"].tolist() == [label_of[a["category_id"]] for a in annotations]
        assert target["iscrowd"].tolist() == [a["iscrowd"] for a in annotations]
        for annotation, box, mask in zip(annotations, target["boxes"], target["masks"], strict=True):
            assert np.array_equal(coco.annToMask(annotation), mask.numpy())
            x, y, width, height = annotation["bbox"]
            assert box.tolist() == pytest.approx([x, y, x + width, y + height], abs=0.02)
            seen += 1
    assert seen == 948


def test_a_real_label_studio_export_is_read(real_data: Path) -> None:
    folder = real_data / "label_studio"
    data = read(folder / "result.json", folder)
    truth = data.ground_truth()
    assert (len(data), len(truth["annotations"]), data.num_classes) == (15, 41, 6)
    assert min(a["id"] for a in truth["annotations"]) == 1
    assert len(data[0][1]["labels"]) > 0
