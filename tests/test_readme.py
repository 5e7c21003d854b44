"""README is short, its table and its numbers are the committed ones, and its code runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_it_is_read_at_one_sitting() -> None:
    assert len(TEXT.splitlines()) <= 140


def test_the_table_is_that_of_the_committed_runs() -> None:
    (shown,) = re.findall(r"<!-- summary of (\S+) -->\n(.*?)<!-- end of summary -->", TEXT, re.DOTALL)
    assert shown[1] == (ROOT / shown[0] / "summary.md").read_text()


def test_what_was_found_is_what_the_findings_say() -> None:
    (section,) = re.findall(r"## What was found\n(.*?)\n## ", TEXT, re.DOTALL)
    differences = re.findall(r"\d\.\d \[[^]]+\]", section)
    assert len(differences) >= 3
    findings = (ROOT / "results" / "findings.md").read_text()
    assert [difference for difference in differences if difference not in findings] == []


def _block(word: str) -> str:
    (code,) = (block for block in BLOCKS if word in block)
    return code


def test_the_head_that_it_shows_works() -> None:
    namespace: dict[str, Any] = {"__name__": "heads.tiny"}
    exec(_block("MaskHead"), namespace)
    (tiny,) = [
        value
        for value in namespace.values()
        if isinstance(value, type) and issubclass(value, MaskHead) and value is not MaskHead
    ]
    rois = RoIs({2: torch.rand(1, 8, 16, 16)}, [torch.tensor([[0.0, 0.0, 30.0, 40.0]])])
    assert tiny(8, 3, width=4)(rois).shape == (1, 3, 28, 28)


def test_its_use_from_python_works() -> None:
    namespace: dict[str, Any] = {}
    exec(_block("detector.build"), namespace)
    detections = namespace["detections"]
    assert set(detections) == {"boxes", "labels", "scores", "masks"}
    assert detections["masks"].shape[1:] == (1, 480, 640)


@pytest.mark.parametrize("study", ["quick", "pennfudan", "pennfudan_small", "coco_1x", "coco_3x", "mine", "heads"])
def test_it_says_where_each_study_ran(study: str) -> None:
    assert re.search(rf"^\|.*`{study}`", TEXT, re.MULTILINE)
