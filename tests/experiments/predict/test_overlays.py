"""Colours that mean objects, and drawings of any size."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from synthetic import HEIGHT, WIDTH, bbox, ellipse, encode

from experiments.predict import overlays

LEFT, MIDDLE, RIGHT = (20, 40, 12, 20), (64, 50, 14, 22), (105, 45, 13, 25)
IMAGE = np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)


def result(*shape: float, box: list[float] | None = None) -> dict[str, Any]:
    mask = ellipse(shape)  # type: ignore[arg-type]
    return {"segmentation": encode(mask), "bbox": box or bbox(mask)}


def test_an_object_has_one_colour_in_all_runs() -> None:
    first = [result(*LEFT), result(*MIDDLE)]
    second = [result(*RIGHT), result(66, 50, 14, 22), result(21, 41, 12, 20)]
    third = [result(106, 45, 13, 25), result(64, 12, 8, 8)]
    colours, no_colours, second_colours, third_colours = overlays.colours([first, [], second, third])
    assert no_colours == []
    assert second_colours[2] == colours[0] and second_colours[1] == colours[1]
    assert third_colours[0] == second_colours[0] not in colours
    assert len({*colours, *second_colours, *third_colours}) == 4


def test_the_same_box_is_the_same_object_however_alike_masks_are() -> None:
    boxes = [[10.0, 10.0, 60.0, 60.0], [12.0, 8.0, 55.0, 70.0]]
    first = [result(40, 40, 20, 25, box=boxes[0]), result(44, 44, 20, 25, box=boxes[1])]
    swapped = [result(40, 40, 20, 25, box=boxes[1]), result(44, 44, 20, 25, box=boxes[0])]
    colours, swapped_colours = overlays.colours([first, swapped])
    assert swapped_colours == colours[::-1]


def test_many_objects_have_as_many_colours() -> None:
    many = [result(*LEFT, box=[float(n), 0, 1, 1]) for n in range(1500)]
    (colours,) = overlays.colours([many])
    assert len(set(colours)) == len(many) and (0, 0, 0) not in colours
    assert overlays.colours([[], []]) == [[], []]


@pytest.mark.parametrize(
    ("height", "width", "drawn"),
    [
        (1200, 1600, (1200, 1600)),
        (9000, 12000, (1200, 1600)),
        (128, 160, (512, 640)),
        (400, 500, (400, 500)),
        (1, 50000, (1, 1600)),
        (1, 1, (640, 640)),
    ],
)
def test_drawings_are_of_a_size_to_look_at(height: int, width: int, drawn: tuple[int, int]) -> None:
    assert overlays.size_of(height, width, 1600) == drawn
    assert max(overlays.size_of(height, width, 100)) <= 100


def test_masks_are_tinted_and_outlined_and_the_rest_is_the_image() -> None:
    mask, (x, y, rx, _) = ellipse(MIDDLE), MIDDLE
    left, top, w, h = bbox(mask)
    drawn = overlays.Drawn(mask, [left, top, left + w, top + h], (255, 0, 0), "person 0.9")
    image = np.asarray(overlays.overlay(IMAGE, [drawn], captions=False))
    assert (image[:5] == 90).all() and (image[:, :20] == 90).all()
    assert image[y, x].tolist() == [164, 50, 50]
    assert image[y, x - rx].tolist() == image[y, x + rx].tolist() == [255, 0, 0]
    assert (IMAGE == 90).all()
    captioned = np.asarray(overlays.overlay(IMAGE, [drawn], captions=True))
    assert (captioned != image).any(axis=2)[: int(top)].sum() > 200


def test_masks_at_the_edge_are_outlined_there_and_empty_ones_are_no_matter() -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    nothing = overlays.Drawn(mask.copy(), [3.0, 3.0, 9.0, 9.0], (0, 0, 255), "")
    mask[:, :40] = True
    image = np.asarray(
        overlays.overlay(IMAGE, [overlays.Drawn(mask, [0, 0, 40, 96], (0, 255, 0), ""), nothing], captions=False)
    )
    assert (image[50, 0] == (0, 255, 0)).all() and (image[0, 20] == (0, 255, 0)).all()


def test_captions_do_not_hide_each_other_or_leave_the_image() -> None:
    none = np.zeros((300, 400), dtype=bool)
    blank = np.zeros((300, 400, 3), dtype=np.uint8)
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    # three of one box, which touches the image's right edge
    drawn = [overlays.Drawn(none, [380.0, 60.0, 399.0, 200.0], colour, "person 0.99") for colour in colours]
    image = np.asarray(overlays.overlay(blank, drawn, captions=True))
    areas = [int((image == colour).all(axis=2).sum()) for colour in colours]
    # each plate is there in full, but for its letters
    assert min(areas) > 0.6 * max(areas) > 500


@pytest.mark.parametrize(("heads", "rows"), [(1, 1), (3, 1), (4, 2), (8, 3)])
def test_heads_stand_side_by_side(heads: int, rows: int) -> None:
    colours = [(number, 200, 0) for number in range(heads + 1)]
    tiles = [Image.new("RGB", (200, 100), colour) for colour in colours]
    titles = ["image", *(f"a_head_with_a_long_name(option={n})" for n in range(heads))]
    panel = np.asarray(overlays.side_by_side(tiles, titles, 1600))
    tops = set()
    for colour in colours:
        ys, xs = np.nonzero((panel == colour).all(axis=2))
        assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == (100, 200)
        tops.add(int(ys.min()))
    assert len(tops) == rows
    small = np.asarray(overlays.side_by_side(tiles, titles, 200))
    ys, xs = np.nonzero((small == colours[0]).all(axis=2))
    assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == (50, 100)
