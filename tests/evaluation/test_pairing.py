"""Objects' masks paired and measured, against shapes whose numbers are known."""

import math

import numpy as np
import pytest

from instseg.evaluation import pairing
from instseg.masks import paste

YS, XS = np.mgrid[:200, :240].astype(float)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    return np.hypot(XS - x, YS - y) <= radius


def square(x: float, y: float, side: float, turned: float) -> np.ndarray:
    c, s = math.cos(turned), math.sin(turned)
    across, down = c * (XS - x) + s * (YS - y), c * (YS - y) - s * (XS - x)
    return np.maximum(abs(across), abs(down)) <= side / 2


def rle(mask: np.ndarray) -> dict:
    return paste.encode(mask[None].astype(np.uint8))[0]


@pytest.mark.parametrize("turned", np.deg2rad([0, 15, 30, 45, 70]).tolist())
def test_a_perimeter_is_the_same_whichever_way_a_square_lies(turned: float) -> None:
    assert pairing.perimeter(square(110, 95, 81, turned)) == pytest.approx(4 * 81, rel=0.06)


def test_complexity_of_known_shapes() -> None:
    assert pairing.complexity(rle(disc(100, 100, 60))) == pytest.approx(1, rel=0.03)
    # at the image's edge the outline goes on along it
    half = disc(0, 100, 60)
    assert pairing.complexity(rle(half)) == pytest.approx((math.pi + 2) ** 2 / (2 * math.pi**2), rel=0.06)
    # perimeter 2 * (2 + 100), area 200; of lines this thin more is lost at the ends
    bar = np.zeros((200, 240), bool)
    bar[50:150, 30:32] = True
    assert pairing.complexity(rle(bar)) == pytest.approx(204**2 / (4 * math.pi * 200), rel=0.15)
    # two discs apart: twice the perimeter on twice the area
    assert pairing.complexity(rle(disc(50, 100, 40) | disc(180, 100, 40))) == pytest.approx(2, rel=0.03)
    assert math.isnan(pairing.complexity(rle(np.zeros((200, 240), bool))))


def test_one_pixel_is_counted_by_hand() -> None:
    # it crosses two lines of each direction: pi / 8 * (2 + 2 + (2 + 2) / sqrt(2))
    assert pairing.perimeter(np.ones((1, 1))) == pytest.approx(math.pi / 8 * (4 + 2 * math.sqrt(2)))


def test_masks_are_paired_one_to_one_by_falling_iou() -> None:
    left, right = disc(60, 100, 30), disc(180, 100, 30)
    near, far, nowhere = disc(184, 100, 30), disc(195, 100, 30), disc(120, 20, 12)
    every = np.ones((4, 2), dtype=bool)
    pairs = pairing.pair([rle(m) for m in (nowhere, far, near, left)], [rle(left), rle(right)], every)
    assert pairs == {3: (0, 1.0), 2: (1, pytest.approx((near & right).sum() / (near | right).sum()))}
    # of another category, the next one takes its place
    every[2, 1] = False
    pairs = pairing.pair([rle(m) for m in (nowhere, far, near, left)], [rle(left), rle(right)], every)
    assert pairs == {3: (0, 1.0), 1: (1, pytest.approx((far & right).sum() / (far | right).sum()))}
    assert pairing.pair([], [rle(left)], np.ones((0, 1), bool)) == {}
    assert pairing.pair([rle(left)], [], np.ones((1, 0), bool)) == {}
