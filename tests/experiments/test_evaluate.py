"""``experiments.evaluate`` on files of any origin."""

import json
from pathlib import Path

import apps
import pytest
from scores import by_pycocotools, noisy_results

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
    assert done.stdout.count("Average") == 24


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
    assert "mask: not scored, no result has segmentation" in done.stdout
    assert done.stdout.count("Average") == 12


@pytest.mark.parametrize(
    ("which", "content", "parts"),
    [
        ("p.json", "[1, 2", ["p.json", "not a JSON file"]),
        ("p.json", '{"images": []}', ["p.json", "not a list"]),
        ("p.json", '[{"image_id": 5, "category_id": 1, "bbox": [0,0,1,1], "score": 1}]', ["p.json", "image 5"]),
        ("a.json", "[]", ["a.json", "images"]),
        ("a.json", None, ["a.json", "no such file"]),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, which: str, content: str | None, parts: list[str]) -> None:
    annotations, predictions = _files(tmp_path)
    if content is None:
        (tmp_path / which).unlink()
    else:
        (tmp_path / which).write_text(content)
    line = apps.only_error(apps.run("evaluate", f"annotations={annotations}", f"predictions={predictions}"))
    for part in parts:
        assert part in line
