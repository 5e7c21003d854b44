"""``experiments.evaluate`` on files of any origin."""

import json
from pathlib import Path
from typing import Any

import apps
import pytest
from scores import by_pycocotools, noisy_results

from experiments.evaluate import score
from instseg.evaluation.coco import NAMES


def test_numbers_are_pycocotools(real_data: Path, tmp_path: Path) -> None:
    annotations = real_data / "coco" / "annotations" / "instances_val2017.json"
    predictions, output = tmp_path / "results.json", tmp_path / "numbers.json"
    predictions.write_text(json.dumps(noisy_results(json.loads(annotations.read_text()), 3)))
    done = apps.run("evaluate", f"annotations={annotations}", f"predictions={predictions}", f"output={output}")
    assert done.returncode == 0, done.stderr
    written = json.loads(output.read_text())
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
        expected = by_pycocotools(annotations, predictions, iou_type)
        found = [-1.0 if written[kind][name] is None else written[kind][name] for name in NAMES]
        assert found == [value if value < 0 else 100 * value for value in expected]
        assert f"= {expected[0]:0.3f}" in done.stdout
    assert done.stdout.count("Average") == 36


def _files(folder: Path) -> tuple[Path, Path]:
    truth = {
        "images": [{"id": 1, "height": 9, "width": 9}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [1, 1, 4, 4],
                "area": 16,
                "iscrowd": 0,
                "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]],
            }
        ],
    }
    annotations, predictions = folder / "a.json", folder / "p.json"
    annotations.write_text(json.dumps(truth))
    predictions.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "score": 0.5}]))
    return annotations, predictions


def test_results_with_boxes_alone(tmp_path: Path) -> None:
    annotations, predictions = _files(tmp_path)
    done = apps.run("evaluate", f"annotations={annotations}", f"predictions={predictions}")
    assert done.returncode == 0, done.stderr
    for kind in ("mask", "boundary"):
        assert f"{kind}: not scored, no result has segmentation" in done.stdout
    assert done.stdout.count("Average") == 12


@pytest.mark.parametrize(
    ("which", "content", "parts"),
    [
        ("p.json", b"[1, 2", ["not a JSON file"]),
        ("p.json", b"", ["not a JSON file"]),
        ("p.json", b"\xff\xfe\xfa", ["not a JSON file"]),
        ("p.json", b"[" * 100_000, ["not a JSON file"]),
        ("p.json", b"[" + b"1" * 5000 + b"]", ["not a JSON file"]),
        ("p.json", b'{"images": []}', ["not a list"]),
        ("p.json", b'[{"image_id": 5, "category_id": 1, "bbox": [0,0,1,1], "score": 1}]', ["result 0", "image 5"]),
        ("p.json", b'[{"image_id": 1, "category_id": 1, "bbox": [0,0,1,1], "score": NaN}]', ["result 0", "finite"]),
        ("p.json", b'[{"image_id": 1, "category_id": 1, "score": 1}]', ["no result has bbox or segmentation"]),
        ("a.json", b"[]", ["images"]),
        ("a.json", b'{"images": [{"id": 1}], "annotations": [], "categories": []}', ["image 1", "has no height"]),
        ("a.json", None, ["no such file"]),
        ("p.json", None, ["no such file"]),
    ],
)
def test_wrong_files_are_named(
    tmp_path: Path, which: str, content: bytes | None, parts: list[str], refused: Any
) -> None:
    annotations, predictions = _files(tmp_path)
    if content is None:
        (tmp_path / which).unlink()
    else:
        (tmp_path / which).write_bytes(content)
    line = refused(lambda: score(annotations, predictions), *parts)
    assert line.startswith(f"{tmp_path / which}: ")


def test_a_folder_is_no_file(tmp_path: Path, refused: Any) -> None:
    annotations, _ = _files(tmp_path)
    refused(lambda: score(annotations, tmp_path), f"{tmp_path}: ", "directory")
    refused(lambda: score(tmp_path, annotations), f"{tmp_path}: ", "directory")


def test_nothing_is_printed_of_files_that_are_wrong_in_part(tmp_path: Path) -> None:
    annotations, predictions = _files(tmp_path)
    results = json.loads(predictions.read_text())
    results[0]["segmentation"] = {"size": [9, 8], "counts": [72]}
    predictions.write_text(json.dumps(results))
    done = apps.run("evaluate", f"annotations={annotations}", f"predictions={predictions}")
    assert apps.only_error(done).startswith(f"error: {predictions}: result 0 (image 1): its RLE has size [9, 8]")
    assert done.stdout == ""


def test_annotation_id_0_is_an_object_as_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations, predictions = _files(tmp_path)
    assert score(annotations, predictions)[0]["box"]["AP"] == pytest.approx(100)
    assert capsys.readouterr().err == ""
    truth = json.loads(annotations.read_text())
    truth["annotations"][0]["id"] = 0
    annotations.write_text(json.dumps(truth))
    assert score(annotations, predictions)[0]["box"]["AP"] == pytest.approx(100)
    assert capsys.readouterr().err == ""


def test_boxes_are_scored_against_annotations_without_masks(tmp_path: Path) -> None:
    annotations, predictions = _files(tmp_path)
    truth = json.loads(annotations.read_text())
    del truth["annotations"][0]["segmentation"]
    annotations.write_text(json.dumps(truth))
    assert list(score(annotations, predictions)[0]) == ["box"]


def test_an_output_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    annotations, predictions = _files(tmp_path)
    done = apps.run("evaluate", f"annotations={annotations}", f"predictions={predictions}", f"output={tmp_path}")
    assert apps.only_error(done).startswith(f"error: output={tmp_path}: can't be written")
