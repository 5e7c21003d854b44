"""Drawing with flat shapes.

Everything is drawn in a frame of its own: the origin stands on the ground, x goes right, y goes up, and 1 is
the height of a grown person at that place, so that a bench far away and one near by are the same few lines.
"""

import colorsys
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from PIL import ImageDraw

T = TypeVar("T")
Colour = tuple[int, int, int]
Point = tuple[float, float]


class Dice:
    """Random choices read off a fixed list of numbers in [0, 1), so that the same thing can be drawn again; they are
    read from the start again when they run out."""

    def __init__(self, values: Sequence[float]) -> None:
        self._next = itertools.cycle(values).__next__

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._next()

    def whole(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + int((high - low + 1) * self._next())

    def chance(self, probability: float) -> bool:
        return self._next() < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[int(len(options) * self._next())]

    def sign(self) -> float:
        return 1.0 if self._next() < 0.5 else -1.0

    def vivid(self) -> Colour:
        """A colour such as clothes have; one in seven is white, grey or black."""
        if self.chance(0.06):
            grey = self.whole(30, 240)
            return grey, grey, grey
        return hsv(self.between(0, 1), self.between(0.65, 1), self.between(0.4, 0.95))

    def dull(self) -> Colour:
        """A colour such as walls, stones and poles have."""
        return hsv(self.between(0, 1), self.between(0, 0.16), self.between(0.25, 0.85))


def hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return int(255 * red), int(255 * green), int(255 * blue)


def shade(colour: Colour, factor: float) -> Colour:
    """The colour in a brighter (factor > 1) or dimmer light."""
    red, green, blue = colour
    return min(255, int(red * factor)), min(255, int(green * factor)), min(255, int(blue * factor))


def towards(start: Point, degrees: float, length: float) -> Point:
    """The point at ``length`` from ``start``; 0 degrees is straight down, 90 is to the right."""
    angle = math.radians(degrees)
    return start[0] + length * math.sin(angle), start[1] - length * math.cos(angle)


def elbow(shoulder: Point, hand: Point, upper: float, fore: float, side: float) -> Point:
    """Where the elbow is when both ends of the arm are given; it is to the right (side 1) or left (-1)."""
    dx, dy = hand[0] - shoulder[0], hand[1] - shoulder[1]
    reach = min(math.hypot(dx, dy), upper + fore)
    along = (upper**2 - fore**2 + reach**2) / (2 * reach)
    out = math.sqrt(max(upper**2 - along**2, 0.0)) * math.copysign(1.0, -dy * side)
    return shoulder[0] + (dx * along - dy * out) / reach, shoulder[1] + (dy * along + dx * out) / reach


@dataclass(frozen=True)
class Brush:
    """Draws shapes of one thing's own frame onto an RGBA canvas whose alpha is no opacity but the owner."""

    draw: ImageDraw.ImageDraw
    origin: Point  # where the frame's origin lies on the canvas, (x, y) in canvas pixels
    scale: float  # canvas pixels of one unit
    owner: int = 0  # the number written into the alpha channel; 0 for what belongs to nobody
    flip: float = 1.0  # -1 mirrors left and right

    def disowned(self) -> "Brush":
        """The same brush for things that belong to nobody."""
        return replace(self, owner=0)

    def at(self, point: Point) -> Point:
        return self.origin[0] + self.flip * self.scale * point[0], self.origin[1] - self.scale * point[1]

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self.draw.polygon([self.at(point) for point in points], (*colour, self.owner))

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour) -> None:
        self.polygon(((left, bottom), (right, bottom), (right, top), (left, top)), colour)

    def disc(self, centre: Point, rx: float, colour: Colour, ry: float | None = None) -> None:
        x, y = self.at(centre)
        rx, ry = rx * self.scale, (rx if ry is None else ry) * self.scale
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), (*colour, self.owner))

    def limb(self, joints: Sequence[Point], widths: Sequence[float], colour: Colour) -> None:
        """A chain of tapered pieces with round joints; ``widths`` are full widths, one a joint."""
        for i, (joint, width) in enumerate(zip(joints, widths, strict=True)):
            self.disc(joint, width / 2, colour)
            if i:
                (px, py), (qx, qy) = joints[i - 1], joint
                length = math.hypot(qx - px, qy - py) or 1.0
                nx, ny = (py - qy) / length / 2, (qx - px) / length / 2
                p, q = widths[i - 1], width
                left = (px + nx * p, py + ny * p), (qx + nx * q, qy + ny * q)
                right = (qx - nx * q, qy - ny * q), (px - nx * p, py - ny * p)
                self.polygon((*left, *right), colour)
