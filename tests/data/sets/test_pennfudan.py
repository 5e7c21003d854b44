"""Penn-Fudan: folds, targets and ground truth of the real set, and what is said about a damaged one."""

import pickle
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from instseg import data
from instseg.data.sets.pennfudan import PennFudan
from instseg.errors import UserError

Refused = Callable[..., str]
HEIGHT, WIDTH = 12, 16


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Seven images in Penn-Fudan's layout; image i has i pedestrians, each of 2 x 3 pixels."""
    folder = tmp_path / "PennFudanPed"
    for part in ("PNGImages", "PedMasks"):
        (folder / part).mkdir(parents=True)
    for i in range(7):
        labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        for k in range(i):
            labels[4:7, 2 * k + 1 : 2 * k + 3] = k + 1
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 10 * i, dtype=np.uint8)).save(folder / "PNGImages" / f"P{i}.png")
        Image.fromarray(labels).save(folder / "PedMasks" / f"P{i}_mask.png")
    return folder


def test_a_sample_is_the_image_and_its_pedestrians(small: Path) -> None:
    data = PennFudan("train", root=small.parent, fold=0)
    assert data.image_ids == [2, 3, 4, 5, 7]
    image, target = data[1]
    assert image.shape == (3, HEIGHT, WIDTH)
    assert image.dtype == torch.uint8
    assert image.unique().tolist() == [20]
    assert target["boxes"].tolist() == [[1, 4, 3, 7], [3, 4, 5, 7]]
    assert target["masks"].shape == (2, HEIGHT, WIDTH)
    assert target["masks"].flatten(1).sum(1).tolist() == [6, 6]
    assert target["masks"][1, 4:7, 3:5].all()
    assert target["labels"].tolist() == [1, 1]
    assert target["area"].tolist() == [6, 6]
    assert target["iscrowd"].tolist() == [0, 0]
    assert target["image_id"] == 3
    assert data.describe(1).endswith("P2.png")
    assert data.num_classes == 2


def test_a_image_without_pedestrians_has_an_empty_target(small: Path) -> None:
    held_out = PennFudan("val", root=small, fold=0)
    assert (held_out.image_ids, held_out.trainable_indices()) == ([1, 6], [1])
    target = held_out[0][1]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, HEIGHT, WIDTH)
    assert len(held_out.ground_truth()["annotations"]) == 5


def test_images_limits_each_split(small: Path, refused: Refused) -> None:
    assert PennFudan("train", root=small, fold=1, images=2).image_ids == [1, 3]
    assert len(PennFudan("train", root=small, images=1000)) == 5
    refused(lambda: PennFudan("train", root=small, images=0), "images=0", error=UserError)


@pytest.mark.parametrize("fold", [-1, 5, "a"])
def test_folds_are_0_to_4(small: Path, refused: Refused, fold: int) -> None:
    refused(lambda: PennFudan("train", root=small, fold=fold), f"dataset.fold={fold}", "0 to 4", error=UserError)


def test_there_is_no_other_split(small: Path, refused: Refused) -> None:
    refused(lambda: PennFudan("vall", root=small), "'vall'", "val", "train", error=UserError)


def test_a_folder_that_is_none_is_refused(small: Path, tmp_path: Path, refused: Refused) -> None:
    refused(lambda: PennFudan("train", root=tmp_path / "none"), tmp_path / "none", "PNGImages")
    (tmp_path / "empty").mkdir()
    refused(lambda: PennFudan("train", root=tmp_path / "empty"), tmp_path / "empty", "PNGImages", "PedMasks")
    shutil.rmtree(small / "PedMasks")
    refused(lambda: PennFudan("train", root=small), small / "PedMasks")
    refused(lambda: PennFudan("train", root=tmp_path), small / "PedMasks")


def test_a_set_without_images_is_refused(small: Path, refused: Refused) -> None:
    for path in (small / "PNGImages").iterdir():
        path.unlink()
    refused(lambda: PennFudan("train", root=small), small / "PNGImages", "no PNG")


def test_a_split_without_images_is_refused(small: Path, refused: Refused) -> None:
    for i in range(1, 7):
        (small / "PNGImages" / f"P{i}.png").unlink()
        (small / "PedMasks" / f"P{i}_mask.png").unlink()
    refused(lambda: PennFudan("val", root=small, fold=3), small / "PNGImages", "val", "fold 3")


def test_images_and_masks_must_match(small: Path, refused: Refused) -> None:
    mask = small / "PedMasks" / "P3_mask.png"
    Image.fromarray(np.zeros((HEIGHT + 1, WIDTH), dtype=np.uint8)).save(mask)
    refused(lambda: PennFudan("train", root=small), mask, "16 x 13", "16 x 12")
    mask.unlink()
    refused(lambda: PennFudan("train", root=small), mask, "does not exist")
    (small / "PNGImages" / "P3.png").unlink()
    PennFudan("train", root=small)
    (small / "PNGImages" / "P4.png").unlink()
    refused(lambda: PennFudan("train", root=small), "P4_mask.png", small / "PNGImages" / "P4.png")


@pytest.mark.parametrize("name", ["PNGImages/P1.png", "PedMasks/P1_mask.png"])
def test_a_damaged_file_is_named(small: Path, refused: Refused, name: str) -> None:
    path = small / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    refused(lambda: PennFudan("train", root=small)[0], path, "truncated or damaged")
    path.write_bytes(b"")
    refused(lambda: PennFudan("train", root=small), path, "empty")


def test_without_a_root_it_is_downloaded(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "served"), "zip", tmp_path, "PennFudanPed"))
    into = tmp_path / "data"

    def serve(sha256: str | None) -> None:
        archive = PennFudan.SOURCE.archives[0]._replace(url=path.as_uri(), size=path.stat().st_size, sha256=sha256)
        monkeypatch.setattr(PennFudan, "SOURCE", PennFudan.SOURCE._replace(archives=(archive,)))

    serve("0" * 64)
    refused(lambda: data.build("pennfudan", "train", download_dir=str(into)), path.as_uri(), "expected", into)
    assert not (into / "PennFudanPed").exists()
    serve(None)
    for _ in range(2):
        assert len(data.build("pennfudan", "train", download_dir=str(into))) == 5
        path.unlink(missing_ok=True)


def test_the_real_set_is_whole_and_each_image_is_held_out_once(real_data: Path) -> None:
    held_out: list[int] = []
    pedestrians = 0
    for fold in range(5):
        data = PennFudan("val", root=real_data, fold=fold)
        assert len(data) == 34
        assert data.image_ids == list(range(fold + 1, 171, 5))
        assert set(PennFudan("train", root=real_data, fold=fold).image_ids) == set(range(1, 171)) - set(data.image_ids)
        held_out += data.image_ids
        pedestrians += len(data.ground_truth()["annotations"])
    assert sorted(held_out) == list(range(1, 171))
    assert pedestrians == 423


def test_real_ground_truth_and_targets_agree(real_data: Path) -> None:
    data = PennFudan("val", root=real_data / "PennFudanPed", fold=0, images=10)
    coco = COCO()
    coco.dataset = data.ground_truth()
    with redirect_stdout(StringIO()):
        coco.createIndex()
    for index, image_id in enumerate(data.image_ids):
        image, target = data[index]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert len(annotations) == len(target["labels"]) > 0
        assert image.shape[1:] == target["masks"].shape[1:]
        for annotation, mask, (x1, y1, x2, y2) in zip(annotations, target["masks"], target["boxes"], strict=True):
            assert np.array_equal(coco.annToMask(annotation), mask.numpy())
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == [x1, y1, x2 - x1, y2 - y1]
            assert mask[int(y1) : int(y2), int(x1) : int(x2)].sum() == mask.sum()
            assert mask[:, int(x1)].any()
            assert mask[:, int(x2) - 1].any()
            assert mask[int(y1)].any()
            assert mask[int(y2) - 1].any()


def test_it_can_be_sent_to_a_worker(small: Path) -> None:
    data = pickle.loads(pickle.dumps(PennFudan("val", root=small, fold=4)))
    assert data[0][1]["image_id"] == 5
