"""Open Images' folders: several classes, masks of other sizes, splits, and what is said of damaged ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instseg.data.sets.open_images import OpenImages
from instseg.errors import UserError

Refused = Callable[..., str]
HEIGHT, WIDTH = 24, 36


def image(folder: Path, kind: str, name: str) -> None:
    (folder / kind / "images").mkdir(parents=True, exist_ok=True)
    (folder / kind / "segmentations").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)).save(folder / kind / "images" / f"{name}.jpg")


def mask(
    folder: Path, kind: str, name: str, box: str = "b1", size: tuple[int, int] = (12, 18), filled: bool = True
) -> Path:
    """The left half, of half the image's size by default."""
    pixels = np.zeros(size, dtype=bool)
    pixels[:, : size[1] // 2] = filled
    path = folder / kind / "segmentations" / f"{name}_m0abc_{box}.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six dogs, of which d0 has two masks; cats c0 and d1, which is in both folders."""
    for i in range(6):
        image(tmp_path, "dog", f"d{i}")
        mask(tmp_path, "dog", f"d{i}")
    mask(tmp_path, "dog", "d0", "b2", (48, 72))
    for name in ("c0", "d1"):
        image(tmp_path, "cat", name)
        mask(tmp_path, "cat", name)
    return tmp_path


def both(folder: Path, **options: object) -> list[OpenImages]:
    return [OpenImages(split, root=folder, **options) for split in ("train", "val")]  # type: ignore[arg-type]


def test_a_image_has_the_instances_of_all_classes_in_its_size(folder: Path) -> None:
    data, held_out = both(folder)
    assert data.categories == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert sorted(data.image_ids + held_out.image_ids) == list(range(1, 8))
    found = {}
    for one in (data, held_out):
        for i in range(len(one)):
            image, target = one[i]
            assert target["masks"].shape[1:] == image.shape[1:] == (HEIGHT, WIDTH)
            assert target["boxes"].tolist() == [[0, 0, WIDTH // 2, HEIGHT]] * len(target["labels"])
            assert target["masks"][:, :, : WIDTH // 2].all() and not target["masks"][:, :, WIDTH // 2 :].any()
            found[Path(one.describe(i)).stem] = target["labels"].tolist()
    assert found == {"c0": [1], "d0": [2, 2], "d1": [1, 2], **{f"d{i}": [2] for i in range(2, 6)}}


def test_classes_are_chosen(folder: Path, refused: Refused) -> None:
    data, held_out = both(folder, classes=["dog"])
    assert data.categories == [{"id": 1, "name": "dog"}]
    assert len(data) + len(held_out) == 6
    (folder / "empty").mkdir()
    assert len(both(folder, classes=["dog", "cat"])[0].categories) == 2
    for classes in (["dgo"], ["empty"]):
        refused(lambda classes=classes: both(folder, classes=classes), repr(classes[0]), "dog", error=UserError)
    for wrong in ("dog", [], [3]):
        refused(lambda wrong=wrong: both(folder, classes=wrong), "classes=", error=UserError)


def test_each_image_is_held_out_once_whatever_is_asked_for(folder: Path) -> None:
    held_out = [OpenImages("val", root=folder, fold=fold, folds=3).image_ids for fold in range(3)]
    assert sorted(i for ids in held_out for i in ids) == list(range(1, 8))
    train = OpenImages("train", root=folder, fold=1, folds=3)
    assert set(train.image_ids) == set(range(1, 8)) - set(held_out[1])
    assert OpenImages("train", root=folder, fold=1, folds=3, images=2).image_ids == train.image_ids[:2]
    other = [OpenImages("val", root=folder, fold=0, folds=3, split_seed=seed).image_ids for seed in range(9)]
    assert len({tuple(ids) for ids in other}) > 1


def test_what_cannot_be_used_is_left_out_with_a_line(folder: Path, refused: Refused) -> None:
    mask(folder, "dog", "d0", "b3", filled=False)
    mask(folder, "dog", "d0", "b4", (18, 12))
    mask(folder, "dog", "gone")
    (folder / "dog" / "segmentations" / "odd.png").write_bytes(b"")
    image(folder, "dog", "bare")
    data, held_out = both(folder)
    lines = sorted(data.skipped + held_out.skipped)
    for part in (
        "d0_m0abc_b3.png: it is empty",
        "d0_m0abc_b4.png: it is 12 x 18 pixels, its image 36 x 24",
        "gone_m0abc_b1.png has no image gone",
        "odd.png is not named ID_MID_BOX",
        "image dog/images/bare.jpg has no mask",
    ):
        assert sum(part in line for line in lines) == 1, part
    assert len(lines) == 5
    assert len(data) + len(held_out) == 7
    refused(lambda: both(folder, invalid="error"), folder, "gone_m0abc_b1.png", "such mask(s)", "invalid=drop")


def test_damaged_files_are_named(folder: Path, refused: Refused) -> None:
    path = mask(folder, "dog", "d0")
    path.write_bytes(path.read_bytes()[:40])
    refused(lambda: both(folder), path, "damaged")
    mask(folder, "dog", "d0")
    (folder / "cat" / "images" / "c0.jpg").write_bytes(b"")
    refused(lambda: both(folder), "c0.jpg", "empty file")


def test_two_files_of_one_image_are_refused(folder: Path, refused: Refused) -> None:
    path = folder / "dog" / "images" / "d3.jpg"
    path.with_suffix(".png").write_bytes(path.read_bytes())
    refused(lambda: both(folder), "d3.jpg", "d3.png")


def test_what_is_no_such_folder_is_refused(folder: Path, refused: Refused, tmp_path: Path) -> None:
    refused(lambda: OpenImages("val", root=None), "data_root", "CLASS/images")
    refused(lambda: OpenImages("val", root=tmp_path / "none"), tmp_path / "none", "CLASS/images")
    refused(lambda: OpenImages("val", root=folder / "dog"), folder / "dog", "CLASS/images")
    refused(lambda: OpenImages("val", root=folder, folds=8), "7 image(s)", "8 folds")
    refused(lambda: OpenImages("val", root=folder, fold=5), "dataset.fold=5", "0 to 4", error=UserError)
    refused(lambda: OpenImages("val", root=folder, images=0), "images=0", error=UserError)


def test_the_real_part_is_whole(real_data: Path) -> None:
    splits = both(real_data)
    truths = [data.ground_truth() for data in splits]
    assert [c["name"] for c in truths[0]["categories"]] == ["dog", "pizza", "taxi"]
    assert sum(len(truth["annotations"]) for truth in truths) == 15
    # the other 5 of the 15 images have no mask
    assert sum(map(len, splits)) == 10
    assert len(splits[0].skipped) == 5 and all("has no mask" in line for line in splits[0].skipped)
    image, target = splits[0][0]
    assert target["masks"].shape[1:] == image.shape[1:]
