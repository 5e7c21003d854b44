"""One's own COCO-style files: the habits of the tools that write them, and who is held out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import coco_files
import numpy as np
import pytest
from coco_files import HEIGHT, SQUARE, WIDTH, Files, document, score
from PIL import Image, ImageOps

from instseg import data
from instseg.data.sets.coco_json import CocoJson
from instseg.errors import UserError

Refused = Callable[..., str]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def many(files: Files, count: int = 12) -> dict[str, Any]:
    """A document of so many images with a square each."""
    for i in range(count):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), i, dtype=np.uint8)).save(files.images / f"p{i}.png")
    square = {"category_id": 0, "segmentation": [SQUARE]}
    return {
        "images": [{"id": i, "file_name": f"p{i}.png"} for i in range(count)],
        "annotations": [{"id": i, "image_id": i, **square} for i in range(count)],
        "categories": [{"id": 0, "name": "objects"}, {"id": 3, "name": "cat", "supercategory": "objects"}],
    }


def read(files: Files, content: Any, split: str = "train", **options: Any) -> CocoJson:
    files.json.write_text(json.dumps(content))
    return CocoJson(split, files={"annotations": files.json, "images": files.images}, **options)


def test_ids_from_0_with_gaps_and_all_that_may_be_missing(files: Files) -> None:
    one = read(files, many(files))
    assert one.categories == [{"id": 0, "name": "objects"}, {"id": 3, "name": "cat"}]
    target = one[0][1]
    assert target["labels"].tolist() == [1]
    assert target["boxes"].tolist() == [[4, 5, 14, 15]]
    assert one.sizes() == [(HEIGHT, WIDTH)] * len(one)
    truth = one.ground_truth()
    assert {(a["area"], a["iscrowd"]) for a in truth["annotations"]} == {(100, 0)}
    assert min(a["id"] for a in truth["annotations"]) >= 1
    assert truth["images"][0]["height"] == HEIGHT


def test_ids_and_sizes_as_texts_or_decimals_are_numbers(files: Files) -> None:
    content = many(files)
    plain = read(files, content)
    for image in content["images"]:
        image |= {"id": str(image["id"]), "height": "20", "width": 30.0}
    for annotation in content["annotations"]:
        annotation |= {"id": float(annotation["id"]), "image_id": str(annotation["image_id"]), "category_id": "0"}
    content["categories"][0]["id"] = "0"
    assert read(files, content).ground_truth() == plain.ground_truth()


@pytest.mark.parametrize("wrong", ["1x", "", 1.5, True, [1], None, -(2**60), "9" * 40])
def test_other_ids_are_refused(files: Files, refused: Refused, wrong: Any) -> None:
    for key in ("images", "annotations", "categories"):
        content = many(files)
        content[key][0]["id"] = wrong
        refused(lambda content=content: read(files, content), files.json, "entry 0", repr(key))


def test_rle_and_polygons_in_parts_without_box(files: Files) -> None:
    content = document()
    for annotation in content["annotations"]:
        del annotation["bbox"]
    content["annotations"][2]["segmentation"] = [SQUARE, [20, 2, 28, 2, 28, 9, 20, 9]]
    held = files.load(content)
    assert held[0][1]["boxes"].tolist() == [[4, 5, 14, 15], [2, 0, 3, 20]]
    assert held[1][1]["boxes"].tolist() == [[4, 2, 28, 15]]
    score(held.ground_truth())
    content["annotations"][0]["segmentation"] = [[1, 1, 9, 1]]
    held = files.load(content, invalid="drop")
    assert "annotation 11 of image 7" in held.skipped[0] and "4 numbers" in held.skipped[0]


def test_no_list_or_object_among_things_unknown_is_kept(files: Files) -> None:
    content = document()
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    for key in ("images", "annotations", "categories"):
        content[key][0]["extra"] = deep
    assert files.load(content).ground_truth() == files.load(document()).ground_truth()


@pytest.mark.parametrize(
    "written",
    ["images\\{}", "images/{}", "{}", "./{}", "..\\..\\upload\\{}", "/data/local-files/?d=images/{}", "C:\\a\\{}"],
)
@pytest.mark.parametrize("name", ["7.png", "living room (2) ä#.png", "100%25.png"])
@pytest.mark.parametrize("encoded", [False, True])
def test_file_names_as_tools_write_them(files: Files, written: str, name: str, encoded: bool) -> None:
    if name != "7.png":
        (files.images / "7.png").rename(files.images / name)
    content = document()
    content["images"][1]["file_name"] = written.format(quote(name) if encoded else name)
    assert files.load(content)[0][0].unique().tolist() == [7]
    if written.startswith("images"):
        # the export's folder serves as well as that of the images
        content["images"][0]["file_name"], content["images"][2]["file_name"] = "images/9.png", "images/8.png"
        files.json.write_text(json.dumps(content))
        assert len(coco_files.read(files.json, files.images.parent)) == 3


def test_a_name_as_written_goes_before_its_other_readings(files: Files) -> None:
    content = document()
    for i, name in enumerate(("a%20b.png", "a b.png")):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 100 + i, dtype=np.uint8)).save(files.images / name)
    content["images"][1]["file_name"] = "a%20b.png"
    assert files.load(content)[0][0].unique().tolist() == [100]


def test_one_file_cannot_be_two_images(files: Files, refused: Refused) -> None:
    content = document()
    content["images"][0]["file_name"] = "other/7.png"
    refused(lambda: files.load(content), "images 7 and 9", files.images / "7.png")


def test_images_in_a_folder_below_are_pointed_at(files: Files, refused: Refused) -> None:
    below = files.images / "default"
    below.mkdir()
    (files.images / "7.png").rename(below / "7.png")
    refused(lambda: files.load(document()), files.images / "7.png", below)


def test_a_missing_size_is_read_from_the_image(files: Files, refused: Refused) -> None:
    content = document()
    del content["images"][1]["height"]
    content["images"][1]["width"] = None
    assert files.load(content).ground_truth() == files.load(document()).ground_truth()
    (files.images / "7.png").write_bytes(b"no")
    refused(lambda: files.load(content), "image 7", files.images / "7.png")


def test_sizes_are_compared_before_anything_is_trained(files: Files, refused: Refused) -> None:
    content = many(files)
    content["images"][3] |= {"height": WIDTH, "width": HEIGHT}
    refused(lambda: read(files, content) and read(files, content, "val"), "image 3", "20 x 30", "30 x 20", "no EXIF")
    content["images"][3] |= {"height": 10**6, "width": 10**6}
    refused(lambda: read(files, content) and read(files, content, "val"), "image 3")
    content = document()
    content["images"][0] |= {"height": 10**6, "width": 10**6}
    refused(lambda: files.load(content), "image 9", "1000000 x 1000000")


def test_each_image_is_held_out_once(files: Files) -> None:
    content = many(files)
    held_out = [read(files, content, "val", fold=fold).image_ids for fold in range(5)]
    assert sorted(i for ids in held_out for i in ids) == list(range(12))
    assert {len(ids) for ids in held_out} == {2, 3}
    for fold in range(5):
        train = read(files, content, fold=fold)
        assert set(train.image_ids) == set(range(12)) - set(held_out[fold])
    assert [len(read(files, content, "val", fold=k, folds=2)) for k in (0, 1)] == [6, 6]
    assert len({tuple(read(files, content, "val", split_seed=seed).image_ids) for seed in range(9)}) > 1


def test_who_is_held_out_hangs_on_names_alone(files: Files) -> None:
    content = many(files)
    whole, held_out = read(files, content), read(files, content, "val")
    assert read(files, content, images=3).image_ids == whole.image_ids[:3]
    for key in ("images", "annotations"):
        content[key].reverse()
    assert read(files, content, "val").image_ids == held_out.image_ids
    for image in content["images"]:
        image["file_name"] = f"images\\{image['file_name']}"
    slashed = [read(files, content, "val").image_ids]
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace("\\", "/")
    slashed.append(read(files, content, "val").image_ids)
    slashed.append(CocoJson("val", files={"annotations": files.json}).image_ids)
    assert slashed[0] == slashed[1] == slashed[2]


def test_folds_that_cannot_be_are_refused(files: Files, refused: Refused) -> None:
    content = many(files, 4)
    refused(lambda: read(files, content), files.json, "4 image(s)", "5 folds", "dataset.options.folds")
    content = many(files)
    for options, part in (
        ({"fold": 5}, "0 to 4"),
        ({"fold": -1}, "0 to 4"),
        ({"folds": 1}, "folds=1"),
        ({"folds": "x"}, "folds=x"),
        ({"split_seed": 0.5}, "split_seed=0.5"),
        ({"invalid": "dorp"}, "'drop'"),
        ({"images": 0}, "max_train_images=0"),
    ):
        refused(lambda options=options: read(files, content, **options), part, error=UserError)


def test_a_validation_file_is_the_validation_split(files: Files, refused: Refused) -> None:
    content, held_out = many(files), document()
    files.json.write_text(json.dumps(content))
    given = {"annotations": files.json, "images": files.images, "val_annotations": files.json.with_name("v.json")}
    held_out["categories"] = [{"id": 3, "name": "cat"}]
    for annotation in held_out["annotations"]:
        annotation["category_id"] = 3
    given["val_annotations"].write_text(json.dumps(held_out))
    val = CocoJson("val", files=given)
    assert (len(CocoJson("train", files=given)), val.image_ids) == (12, [7, 8, 9])
    # the labels are those of the file that is trained on
    assert val[0][1]["labels"].tolist() == [2, 2]
    assert val.num_classes == 3
    refused(lambda: CocoJson("val", files=given, fold=1), "fold=1", error=UserError)
    held_out["categories"][0]["name"] = "dog"
    given["val_annotations"].write_text(json.dumps(held_out))
    refused(lambda: CocoJson("val", files=given), given["val_annotations"], "category 3", "'dog'", "'cat'")
    held_out["categories"][0]["name"] = "cat"
    given["val_annotations"].write_text(json.dumps(held_out))
    refused(lambda: CocoJson("val", files={**given, "val_images": files.json.parent / "no"}), files.json.parent / "no")
    given["val_annotations"].write_text(json.dumps(document()))
    refused(lambda: CocoJson("val", files=given), given["val_annotations"], "category 5", "trained on")


def test_files_are_for_those_who_take_them(refused: Refused, tmp_path: Path) -> None:
    given = {"annotations": tmp_path / "a.json"}
    refused(lambda: data.build("balloon", "val", files=given), "annotations", "balloon", "coco_json", error=UserError)
    refused(lambda: data.build("coco_json", "val"), "dataset.annotations", error=UserError)
    refused(lambda: data.build("coco_json", "val", files=given), tmp_path / "a.json")
    without = {**given, "val_images": tmp_path}
    refused(lambda: CocoJson("val", files=without), "val_images", "val_annotations", error=UserError)


def test_a_real_export_is_whole_from_both_folders(real_data: Path) -> None:
    folder = real_data / "label_studio"
    for images in (folder, folder / "images"):
        both = [CocoJson(s, files={"annotations": folder / "result.json", "images": images}) for s in ("train", "val")]
        assert sum(map(len, both)) == 15
        assert sum(len(one.ground_truth()["annotations"]) for one in both) == 41
        assert both[0].num_classes == 6
        assert both[0].skipped + both[1].skipped == []


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 77])
@pytest.mark.parametrize("sizes", ["upright", "none"])
def test_a_turned_photograph_is_read_as_it_was_shown_to_whoever_annotated_it(
    files: Files, orientation: int, suffix: str, sizes: str
) -> None:
    content = many(files)
    rows = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = files.images / f"p3.{suffix}"
    Image.fromarray(rows).save(path, exif=exif)
    with Image.open(path) as image:
        shown = np.asarray(ImageOps.exif_transpose(image))
    content["images"][3] |= {"file_name": path.name}
    if sizes == "upright":
        content["images"][3] |= {"height": shown.shape[0], "width": shown.shape[1]}
    (data,) = (one for one in (read(files, content), read(files, content, "val")) if 3 in one.image_ids)
    image, target = data[data.image_ids.index(3)]
    assert np.array_equal(image.permute(1, 2, 0), shown)
    assert target["masks"].shape[1:] == shown.shape[:2] == data.sizes()[data.image_ids.index(3)]


def test_what_was_annotated_in_stored_pixels_is_read_in_them(files: Files) -> None:
    content = many(files)
    rows = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rows).save(files.images / "p3.png", exif=exif)
    content["images"][3] |= {"height": HEIGHT, "width": WIDTH, "exif_orientation": 6}
    (data,) = (one for one in (read(files, content), read(files, content, "val")) if 3 in one.image_ids)
    assert np.array_equal(data[data.image_ids.index(3)][0].permute(1, 2, 0), rows)
