"""The generated data set: the same images always, exact masks, and what the suite promises of every data set."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from torchvision import tv_tensors
from torchvision.ops import box_iou, masks_to_boxes

from instseg.data.sets.generated import MIN_VISIBLE, SUPERSAMPLING, Generated, owners_of
from instseg.errors import UserError


def make(split: str = "train", **changes: Any) -> Generated:
    return Generated(split, **({"images": 12, "size": (96, 128), "seed": 3} | changes))


def digest(data: Generated) -> str:
    found = hashlib.sha256()
    for i in range(len(data)):
        image, target = data[i]
        for tensor in (image, target["masks"], target["boxes"]):
            found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def has_hole(mask: np.ndarray) -> bool:
    """Whether background that touches no edge of the image lies inside the mask."""
    flooded = Image.fromarray(np.pad(mask, 1)).copy()
    ImageDraw.floodfill(flooded, (0, 0), 2)
    return bool((np.asarray(flooded) == 0).sum() >= 4)


@pytest.fixture(scope="module")
def data() -> Generated:
    return make(images=20)


def test_the_same_bytes_again_and_in_another_process() -> None:
    one = make(images=4)
    assert digest(one) == digest(one) == digest(make(images=4))
    script = "from test_generated import digest, make; print(digest(make(images=4)))"
    folder = Path(__file__).parent
    other = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(one)


def test_a_image_does_not_depend_on_how_many_there_are_nor_on_the_order() -> None:
    few, many = make(images=3), make(images=9)
    for i in (7, 2, 0, 1):
        many[i]
    for i in range(3):
        assert torch.equal(few[i][0], many[i][0])
        assert torch.equal(few[i][1]["masks"], many[i][1]["masks"])


def test_splits_and_seeds_and_indices_share_no_image() -> None:
    sets = (make("train"), make("val"), make("train", seed=4))
    images = {data[i][0].numpy().tobytes() for data in sets for i in range(len(data))}
    assert len(images) == sum(map(len, sets))


def test_sample_has_the_promised_form(data: Generated) -> None:
    image, target = data[5]
    n = len(target["labels"])
    assert (image.shape, image.dtype) == ((3, 96, 128), torch.uint8)
    assert target["boxes"].shape == (n, 4)
    assert target["boxes"].dtype == torch.float32
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
    assert isinstance(target["masks"], tv_tensors.Mask)
    assert target["masks"].shape == (n, 96, 128)
    assert target["labels"].tolist() == [1] * n
    assert target["image_id"] == data.image_ids[5] == 6
    assert data.num_classes == 2
    assert data.skipped == []
    assert data.describe(5) == "generated train image 6 (seed 3)"
    with pytest.raises(IndexError):
        data[len(data)]


def test_masks_are_disjoint_and_boxes_and_areas_fit_them(data: Generated) -> None:
    for i in range(len(data)):
        target = data[i][1]
        masks = target["masks"]
        assert int(masks.sum(0).max()) == 1
        assert torch.equal(target["area"], masks.flatten(1).sum(1).float())
        assert float(target["area"].min()) >= MIN_VISIBLE
        tight = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
        assert torch.equal(target["boxes"].as_subclass(torch.Tensor), tight)


def test_a_pixel_belongs_to_who_has_at_least_half_of_it() -> None:
    blocks = {0: [1] * 4 + [0] * 5, 1: [1] * 5 + [2] * 4, 2: [1, 2] * 4 + [2], 3: [1, 1, 1, 2, 2, 2, 0, 0, 0]}
    alpha = np.zeros((SUPERSAMPLING, SUPERSAMPLING * len(blocks), 4), np.uint8)
    for column, owners in blocks.items():
        start = column * SUPERSAMPLING
        alpha[:, start : start + SUPERSAMPLING, 3] = np.reshape(owners, (SUPERSAMPLING, SUPERSAMPLING))
    assert owners_of(Image.fromarray(alpha), 2).tolist() == [[0, 1, 2, 0]]


def test_images_are_worth_segmenting(data: Generated) -> None:
    targets = [data[i][1] for i in range(len(data))]
    counts = [len(target["labels"]) for target in targets]
    assert min(counts) >= 1
    assert max(counts) <= 5
    assert np.mean(counts) > 2.5
    masks = [mask for target in targets[:12] for mask in target["masks"].numpy()]
    assert np.mean([has_hole(mask) for mask in masks]) > 0.15
    overlaps = [box_iou(boxes, boxes).fill_diagonal_(0) for boxes in (target["boxes"] for target in targets)]
    assert sum(bool((overlap > 0.1).any()) for overlap in overlaps) >= 4
    heights = torch.cat([target["boxes"][:, 3] - target["boxes"][:, 1] for target in targets])
    assert heights.max() > 0.6 * 96
    assert heights.min() < 0.6 * 96


def test_the_number_of_figures_can_be_chosen() -> None:
    alone = make(figures=(1, 1))
    assert {len(alone[i][1]["labels"]) for i in range(len(alone))} == {1}
    crowd = make(figures=(20, 20), images=2, size=(64, 64))
    target = crowd[0][1]
    assert len(target["labels"]) >= 1
    assert float(target["area"].min()) >= MIN_VISIBLE


@pytest.mark.parametrize("size", [(64, 200), (200, 64), (65, 67)])
def test_any_shape_of_image(size: tuple[int, int]) -> None:
    image, target = make(size=size, images=1)[0]
    assert image.shape[1:] == target["masks"].shape[1:] == size


def test_ground_truth_decodes_to_the_same_masks(data: Generated) -> None:
    truth = json.loads(json.dumps(data.ground_truth()))
    assert [image["id"] for image in truth["images"]] == data.image_ids
    assert truth["images"][16] == {
        "id": 17,
        "width": 128,
        "height": 96,
        "file_name": "generated-train-0017.png",
    }
    assert truth["categories"] == [{"id": 1, "name": "person"}]
    # stored results name the ground truth by its digest
    assert truth["info"]["description"] == "generated by instseg.data.generated, split train, seed 3"
    assert (truth["info"]["seed"], truth["info"]["size"], truth["info"]["figures"]) == (3, [96, 128], [2, 5])
    assert [a["id"] for a in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    for i, image_id in enumerate(data.image_ids):
        target = data[i][1]
        found = [a for a in truth["annotations"] if a["image_id"] == image_id]
        masks = np.stack([coco_mask.decode(a["segmentation"]) for a in found])
        assert np.array_equal(masks, target["masks"].numpy())
        assert [a["area"] for a in found] == target["area"].tolist()
        boxes = torch.tensor([a["bbox"] for a in found])
        boxes[:, 2:] += boxes[:, :2]
        assert torch.equal(boxes, target["boxes"].as_subclass(torch.Tensor))
        assert {(a["iscrowd"], a["category_id"]) for a in found} == {(0, 1)}


def test_what_is_done_to_a_sample_does_not_come_back() -> None:
    data = make(images=1)
    before = digest(data)
    image, target = data[0]
    image.zero_()
    for key in ("boxes", "masks", "labels", "area"):
        target[key].zero_()
    data.ground_truth()["categories"][0]["name"] = "nobody"
    assert digest(data) == before
    assert data.categories[0]["name"] == "person"


@pytest.mark.parametrize(
    ("split", "changes", "named"),
    [
        ("vall", {}, "did you mean 'val'"),
        ("train", {"images": 0}, "images"),
        ("train", {"images": 2.5}, "images"),
        ("train", {"seed": -1}, "seed"),
        ("train", {"size": (128, 63)}, "size"),
        ("train", {"size": 128}, "size"),
        ("train", {"size": (128, 128, 3)}, "size"),
        ("train", {"figures": (5, 2)}, "figures"),
        ("train", {"figures": (0, 2)}, "figures"),
        ("train", {"figures": (2, 300)}, "figures"),
    ],
)
def test_a_bad_option_is_one_line_that_names_it(
    refused: Callable[..., str], split: str, changes: dict[str, Any], named: str
) -> None:
    refused(lambda: make(split, **changes), named, error=UserError)
