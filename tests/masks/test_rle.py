"""Run-length codes against pycocotools."""

import numpy as np
from pycocotools import mask as coco_mask

from instseg.masks import rle

DICE = np.random.default_rng(0)


def _edges(runs: list[int]) -> np.ndarray:
    return np.cumsum(runs)[:-1]


def test_strings_are_those_of_pycocotools() -> None:
    for longest in (1, 9, 300, 10**4, 10**7):
        every = [[int(DICE.integers(0, 2)), *DICE.integers(1, longest + 1, DICE.integers(0, 40))] for _ in range(50)]
        every = [runs if sum(runs) else [1] for runs in every]
        sizes = np.array([[sum(runs), 1] for runs in every])
        edges = np.concatenate([begin + _edges(runs) for begin, runs in zip(rle.starts(sizes), every, strict=False)])
        for found, runs, (height, width) in zip(rle.from_edges(edges, sizes), every, sizes.tolist(), strict=True):
            expected = coco_mask.frPyObjects({"size": [height, width], "counts": [int(run) for run in runs]}, height, 1)
            assert found == {"size": [height, width], "counts": expected["counts"].decode()}


def test_equal_edges_cancel_out_and_a_run_may_end_with_the_image() -> None:
    sizes = np.array([[2, 3]] * 4)
    begins = rle.starts(sizes)
    edges = [begins[0] + np.array([1, 2, 2, 4, 4, 4]), begins[1] + np.array([0, 6]), [], begins[3] + np.array([5, 6])]
    masks = coco_mask.decode(
        [
            {**code, "counts": code["counts"].encode()}
            for code in rle.from_edges(np.concatenate(edges).astype(np.int64), sizes)
        ]
    )
    flat = masks.transpose(2, 1, 0).reshape(4, 6).tolist()
    assert flat == [[0, 1, 1, 1, 0, 0], [1] * 6, [0] * 6, [0, 0, 0, 0, 0, 1]]


def test_codes_of_pycocotools_fit_their_images_only() -> None:
    noise = [np.asfortranarray(DICE.random((70, 80)) > DICE.random(), dtype=np.uint8) for _ in range(50)]
    strings = [coco_mask.encode(mask)["counts"].decode() for mask in noise]
    assert rle.fit(strings, np.full(50, 5600)).all()
    pixels = 5600 + DICE.integers(-1, 2, 50)
    assert rle.fit(strings, pixels).tolist() == (pixels == 5600).tolist()
