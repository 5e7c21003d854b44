"""Run-length codes looked at together against those looked at one by one."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from instseg.data.annotations.coco_shapes import shape_fault, sound_codes

SIZES = {1: (30, 40), 2: (25, 48), 3: (30, 41), 4: (2, 2)}


def _raises(result: dict[str, Any]) -> bool:
    try:
        shape_fault({"bbox": [0, 0, 1, 1], "segmentation": result["segmentation"]}, *SIZES[result["image_id"]])
    except ValueError:
        return True
    return False


def test_sound_codes_are_those_without_fault() -> None:
    dice = np.random.default_rng(0)
    results = []
    for i in range(2000):
        mask = np.asfortranarray(dice.random((30, 40)) > dice.random() ** 4, dtype=np.uint8)
        text = list(coco_mask.encode(mask)["counts"].decode())
        for _ in range(i % 4):
            place = int(dice.integers(0, len(text) + 1))
            swap = place + int(dice.integers(0, 2))
            text[place:swap] = dice.choice(
                ["", "0", "1", "O", "P", "o", "/", "p", " ", "\n", "é", "\ud800", "oooooooo0"]
            )
        size = [30, 40] if i % 5 else [30, 41]
        segmentation = {"size": size, "counts": "".join(text)}
        results.append({"image_id": 1 + i % 3, "segmentation": segmentation})
    # a run below 0, and numbers of more groups than a run can have, which add up to 4 if cut off
    for counts in ("4", "5O", "TPPPPPP`@", "PPPPPPPPPPPPPPPPPP4", "O5"):
        results.append({"image_id": 4, "segmentation": {"size": [2, 2], "counts": counts}})
    found = sound_codes(results, SIZES)
    faulty = [_raises(result) for result in results]
    assert 100 < found.sum() < 1900
    assert found.tolist() == [not fault for fault in faulty]


def test_what_is_no_code_is_not_sound() -> None:
    code = {"size": [30, 40], "counts": coco_mask.encode(np.zeros((30, 40), dtype=np.uint8, order="F"))["counts"]}
    good = {"image_id": 1, "segmentation": {**code, "counts": code["counts"].decode()}}
    assert sound_codes([good], SIZES).tolist() == [True]
    others = [
        None,
        7,
        {},
        {"image_id": [1], "segmentation": good["segmentation"]},
        {**good, "image_id": 9},
        {**good, "segmentation": [[0, 0, 1, 1, 2, 2]]},
        {**good, "segmentation": code},
        {**good, "segmentation": {**code, "counts": [1200]}},
        {**good, "segmentation": {**code, "counts": ""}},
    ]
    assert not sound_codes(others, SIZES).any()
    assert sound_codes([], SIZES).shape == (0,)
