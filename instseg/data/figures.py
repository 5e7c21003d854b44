"""People and street furniture, drawn with flat shapes: what the pictures of ``generated.py`` are made of.

Everything is drawn in a frame of its own: the origin stands on the ground, x goes right, y goes up, and 1 is
the height of a grown person at that place, so that a bench far away and one near by are the same few lines.
"""

import colorsys
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from PIL import Image, ImageDraw

T = TypeVar("T")
Colour = tuple[int, int, int]
Point = tuple[float, float]

SKINS: tuple[Colour, ...] = (
    (246, 208, 180), (232, 184, 150), (214, 160, 120), (188, 130, 92), (146, 96, 66), (106, 70, 50)
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (30, 24, 22), (62, 40, 26), (104, 66, 36), (168, 122, 60), (214, 180, 112), (150, 60, 30), (170, 170, 172)
)  # fmt: skip


class Dice:
    """Random choices read off a fixed list of numbers, so that the same thing can be drawn again.

    Args:
        values: numbers in [0, 1); read from the start again when they run out.
    """

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


class Brush:
    """Draws shapes of one thing's own frame onto an RGBA canvas whose alpha is no opacity but the owner.

    Args:
        draw: draws on the canvas.
        origin: where the frame's origin lies on the canvas, (x, y) in canvas pixels.
        scale: canvas pixels of one unit.
        owner: the number written into the alpha channel; 0 for what belongs to nobody.
        flip: -1 mirrors left and right.
    """

    def __init__(
        self, draw: ImageDraw.ImageDraw, origin: Point, scale: float, owner: int = 0, flip: float = 1.0
    ) -> None:
        self.draw = draw
        self.origin = origin
        self.scale = scale
        self.owner = owner
        self.flip = flip

    def disowned(self) -> "Brush":
        """The same brush for things that belong to nobody."""
        return Brush(self.draw, self.origin, self.scale, 0, self.flip)

    def at(self, point: Point) -> Point:
        return (
            self.origin[0] + self.flip * self.scale * point[0],
            self.origin[1] - self.scale * point[1],
        )

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
                self.polygon(
                    (
                        (px + nx * p, py + ny * p),
                        (qx + nx * q, qy + ny * q),
                        (qx - nx * q, qy - ny * q),
                        (px - nx * p, py - ny * p),
                    ),
                    colour,
                )


class Body(NamedTuple):
    """One person's build, bearing and looks, in heights of a grown person."""

    gait: str
    carried: str
    shoulders: float  # y
    shoulder_width: float  # half the width, as with the hips
    hips: float
    hip_width: float
    face: Point
    head: float  # half the width
    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    bag: Colour


def person(brush: Brush, dice: Dice) -> None:
    """Draw one person.

    What is carried (bag, backpack, umbrella, stick) belongs to nobody, as in COCO, and hides what is behind.
    """
    gait = dice.pick(("walk", "walk", "walk", "stand", "hips", "hips", "wave", "head", "mixed", "mixed"))
    sideways = gait == "walk"
    head = dice.between(0.06, 0.073)
    hips, shoulders = dice.between(0.49, 0.53), dice.between(0.80, 0.83)
    hip_width = dice.between(0.07, 0.09) * (0.85 if sideways else 1.0)
    legs = _legs(dice, hips, hip_width, sideways)
    # The lower foot touches the ground, however the knees are bent.
    drop = min(ankle[1] for _, _, ankle in legs) - 0.03
    legs = [[(x, y - drop) for x, y in leg] for leg in legs]
    neck = (dice.between(-0.01, 0.02), shoulders - drop + 0.045)
    body = Body(
        gait=gait,
        carried=dice.pick(("", "", "", "handbag", "backpack", "umbrella", "stick")),
        shoulders=shoulders - drop,
        shoulder_width=dice.between(0.1, 0.125) * (0.66 if sideways else 1.0),
        hips=hips - drop,
        hip_width=hip_width,
        face=(neck[0] + (0.012 if sideways else 0.0), neck[1] + 0.02 + head),
        head=head,
        skin=dice.pick(SKINS),
        hair=dice.pick(HAIRS),
        top=dice.vivid(),
        bottom=dice.vivid(),
        shoes=shade(dice.vivid(), 0.55),
        bag=dice.vivid(),
    )
    arms = _arms(dice, body)
    leg_width, arm_width = dice.between(0.085, 0.105), dice.between(0.053, 0.065)
    skirt, bare_arms, bare_legs = dice.chance(0.22), dice.chance(0.4), dice.chance(0.25)

    def draw_leg(index: int, light: float) -> None:
        hip, knee, ankle = legs[index]
        lower = body.skin if bare_legs or skirt else body.bottom
        brush.limb((knee, ankle), (leg_width * 0.78, leg_width * 0.6), shade(lower, light))
        brush.limb((hip, knee), (leg_width, leg_width * 0.78), shade(body.bottom, light))
        toe = (ankle[0] + (0.065 if sideways else 0.018 * (2 * index - 1)), ankle[1] - 0.012)
        brush.limb((ankle, toe), (leg_width * 0.52, 0.034), shade(body.shoes, light))

    def draw_arm(index: int, light: float) -> None:
        joints, sleeve = arms[index], body.skin if bare_arms else body.top
        brush.limb(joints[1:], (arm_width * 0.9, arm_width * 0.7), shade(sleeve, light))
        brush.limb(joints[:2], (arm_width * 1.1, arm_width * 0.92), shade(body.top, light))
        brush.disc(joints[2], arm_width * 0.46, shade(body.skin, light))

    if body.carried == "backpack":
        x, wide = (-body.shoulder_width - 0.01, 0.075) if sideways else (0.0, 0.135)
        brush.disowned().disc((x, body.shoulders - 0.11), wide, body.bag, 0.13)
    if dice.chance(0.3):  # long hair
        brush.disc((body.face[0] - 0.2 * head, body.face[1] - head), head * 1.05, body.hair, head * 1.7)
    if sideways:
        draw_arm(0, 0.75)
    draw_leg(0, 0.75 if sideways else 0.95)
    draw_leg(1, 1.0)
    if skirt:
        hem, reach = body.hips - dice.between(0.14, 0.26), max(abs(knee[0]) for _, knee, _ in legs) + 0.06
        top, half = body.hips + 0.03, body.hip_width
        brush.polygon(((-half, top), (-reach, hem), (reach, hem), (half, top)), body.bottom)
    _torso(brush, dice, body)
    brush.limb(((neck[0], body.shoulders - 0.01), neck), (0.05, 0.046), shade(body.skin, 0.9))
    _head(brush, dice, body)
    if not sideways:
        draw_arm(0, 0.92)
    if body.carried == "handbag":
        _handbag(brush.disowned(), dice, arms[1][2], body.bag)
    draw_arm(1, 1.05)
    if body.carried == "umbrella":
        _umbrella(brush.disowned(), dice, arms[1][2], body.face[1] + head, body.bag)
    elif body.carried == "stick":
        x, y = arms[1][2]
        brush.disowned().limb(((x, y + 0.03), (x + 0.05, 0.0)), (0.016, 0.014), (70, 50, 36))


def _legs(dice: Dice, hips: float, hip_width: float, sideways: bool) -> list[list[Point]]:
    """Hip, knee and ankle of the far (or left) and of the near (or right) leg."""
    length = (hips - 0.03) / 2
    legs: list[list[Point]] = []
    swing = dice.between(10, 28) * dice.sign()
    for side in (-1, 1):
        if sideways:
            hip = (side * 0.01, hips)
            thigh = side * swing
            shin = thigh - (dice.between(0, 12) if thigh > 0 else dice.between(8, 40))
        else:
            hip = (side * hip_width * 0.56, hips)
            thigh = side * dice.between(0, 13)
            shin = thigh - side * dice.between(-3, 10)
        knee = towards(hip, thigh, length)
        legs.append([hip, knee, towards(knee, shin, length)])
    return legs


def _arms(dice: Dice, body: Body) -> list[list[Point]]:
    """Shoulder, elbow and hand of the far (or left) and of the near (or right) arm."""
    upper, fore = dice.between(0.165, 0.185), dice.between(0.155, 0.17)
    swing = dice.between(10, 40) * dice.sign()
    arms: list[list[Point]] = []
    for side in (-1, 1):
        start = (side * (body.shoulder_width if body.gait != "walk" else 0.02), body.shoulders - 0.02)
        does, out = body.gait, side
        if body.gait == "wave" and side == -1:
            does = dice.pick(("hang", "hips"))
        elif body.gait == "mixed":
            does = dice.pick(("hang", "hips", "front", "reach", "wave"))
        if side == 1 and body.carried == "umbrella":
            # A raised umbrella leaves the elbow below the hand, every other hold sticks it out.
            does, out = "hold", -side
        elif side == 1 and body.carried in ("handbag", "stick") and does != "walk":
            does = "hang"

        hand: Point | None = None
        if does == "hold":
            hand = (body.shoulder_width + dice.between(0.04, 0.12), body.shoulders - dice.between(0.08, 0.16))
        elif does == "hips":
            hand = (side * (body.hip_width + 0.015), body.hips + dice.between(0.03, 0.07))
        elif does == "head":
            hand = (side * 0.06, body.face[1] + dice.between(-0.01, 0.05))
        if hand is not None:
            arms.append([start, elbow(start, hand, upper, fore, out), hand])
            continue
        if does == "walk":
            first = -side * swing
            second = first + dice.between(5, 60)
        elif does == "wave":
            first, second = side * dice.between(105, 155), side * dice.between(140, 205)
        elif does == "reach":
            first, second = side * dice.between(30, 65), side * dice.between(40, 100)
        elif does == "front":
            first, second = side * dice.between(5, 25), -side * dice.between(50, 120)
        else:
            first = side * dice.between(4, 24)
            second = first - side * dice.between(-4, 20)
        joint = towards(start, first, upper)
        arms.append([start, joint, towards(joint, second, fore)])
    return arms


def _torso(brush: Brush, dice: Dice, body: Body) -> None:
    """The trunk in a shirt, or in a coat that hangs over the thighs; plain, striped or open in front."""
    coat = dice.chance(0.2)
    waist = (body.hips + 0.11, min(body.shoulder_width, body.hip_width) * dice.between(0.82, 0.98))
    below, flare = (dice.between(0.1, 0.2), 1.3) if coat else (0.02, 1.12)
    hem = (body.hips - below, body.hip_width * flare)
    levels = ((body.shoulders, body.shoulder_width), waist, hem)

    def strip(left: float, right: float, colour: Colour) -> None:
        """The part of the trunk between two shares of its half width, -1 to 1."""
        side = [(left * half, y) for y, half in levels]
        brush.polygon([*side, *[(right * half, y) for y, half in reversed(levels)]], colour)

    x, y = body.shoulder_width - 0.03, body.shoulders - 0.01
    brush.limb(((-x, y), (x, y)), (0.06, 0.06), body.top)
    strip(-1, 1, body.top)
    pattern, second = dice.pick(("", "", "", "", "across", "across", "down", "open")), dice.vivid()
    if pattern == "across":
        count = dice.whole(3, 6)
        step = (body.shoulders - hem[0]) / (2 * count)
        for i in range(count):
            upper = body.shoulders - (2 * i + 0.5) * step
            wide, narrow = _half_width(levels, upper), _half_width(levels, upper - step)
            lower = upper - step
            brush.polygon(((-wide, upper), (wide, upper), (narrow, lower), (-narrow, lower)), second)
    elif pattern == "down":
        for left in (-0.8, -0.3, 0.2, 0.7):
            strip(left, left + 0.22, second)
    elif pattern == "open":
        strip(-0.25, 0.25, second)
    else:
        strip(0.45, 1, shade(body.top, 0.84))


def _half_width(levels: Sequence[Point], y: float) -> float:
    """The trunk's half width at height ``y``, between its (height, half width) levels from the top down."""
    for (top, wide), (bottom, narrow) in itertools.pairwise(levels):
        if y >= bottom:
            return wide + (narrow - wide) * (top - y) / (top - bottom)
    return levels[-1][1]


def _head(brush: Brush, dice: Dice, body: Body) -> None:
    """The head with hair, a hat or neither, or seen from behind; a walker's looks to the right."""
    (x, y), size, ahead = body.face, body.head, 0.1 * body.head if body.gait == "walk" else 0.0
    kind = dice.pick(("hair", "hair", "hair", "hat", "cap", "bald", "back"))
    if kind == "back":
        brush.disc(body.face, size * 0.9, body.hair, size * 1.08)
        return
    if kind != "bald":
        brush.disc((x - 3 * ahead, y + 0.22 * size), size * 0.98, body.hair)
    brush.disc((x + ahead, y - 0.05 * size), size * 0.8, body.skin, size)
    if kind == "hair":
        brush.box(x - 0.75 * size, y + 0.42 * size, x + 0.6 * size, y + 0.85 * size, body.hair)
    elif kind in ("hat", "cap"):
        colour = dice.vivid()
        back, front = (1.7 * size, 1.7 * size) if kind == "hat" else (size, 1.9 * size)
        brush.box(x - 0.85 * size, y + 0.35 * size, x + 0.85 * size, y + 1.25 * size, colour)
        brush.box(x - back, y + 0.3 * size, x + front, y + 0.55 * size, shade(colour, 0.7))


def _handbag(brush: Brush, dice: Dice, hand: Point, colour: Colour) -> None:
    x, y = hand
    wide, high, strap = dice.between(0.04, 0.075), dice.between(0.08, 0.13), dice.between(0.04, 0.1)
    for side in (-1, 1):
        brush.limb(((x, y), (x + side * wide * 0.8, y - strap)), (0.013, 0.013), shade(colour, 0.6))
    brush.box(x - wide, y - strap - high, x + wide, y - strap, colour)


def _umbrella(brush: Brush, dice: Dice, hand: Point, crown: float, colour: Colour) -> None:
    x, top = hand[0] - 0.02, crown + dice.between(0.14, 0.2)
    radius, rim = dice.between(0.24, 0.34), crown + dice.between(-0.02, 0.03)
    brush.limb(((hand[0], hand[1] - 0.06), (x, top)), (0.016, 0.014), (60, 56, 54))
    arc = [(x + radius * math.cos(a), rim + (top - rim) * math.sin(a)) for a in (math.pi * k / 8 for k in range(9))]
    brush.polygon(arc, colour)
    brush.polygon((arc[2], arc[4], arc[6], (x, rim)), shade(colour, 0.8))


def tree(brush: Brush, dice: Dice) -> None:
    high, bark = dice.between(0.7, 1.3), hsv(0.08, 0.4, dice.between(0.2, 0.4))
    brush.limb(((0, 0), (0, high)), (0.14, 0.09), bark)
    leaf = hsv(dice.between(0.2, 0.4), dice.between(0.25, 0.55), dice.between(0.25, 0.5))
    for _ in range(5):
        spot = (dice.between(-0.35, 0.35), high + dice.between(-0.1, 0.5))
        brush.disc(spot, dice.between(0.2, 0.36), shade(leaf, dice.between(0.8, 1.2)))


def bush(brush: Brush, dice: Dice) -> None:
    leaf = hsv(dice.between(0.2, 0.4), dice.between(0.25, 0.55), dice.between(0.25, 0.5))
    for _ in range(5):
        brush.disc((dice.between(-0.2, 0.2), dice.between(0.05, 0.17)), 0.12, shade(leaf, dice.between(0.8, 1.2)))


def car(brush: Brush, dice: Dice) -> None:
    paint = dice.vivid() if dice.chance(0.5) else dice.dull()
    brush.polygon(((-0.75, 0.5), (-0.5, 0.85), (0.4, 0.85), (0.75, 0.5)), paint)
    brush.polygon(((-0.62, 0.52), (-0.44, 0.79), (0.34, 0.79), (0.6, 0.52)), (60, 70, 80))
    brush.box(-1.25, 0.15, 1.25, 0.52, paint)
    for x in (-0.75, 0.75):
        brush.disc((x, 0.17), 0.17, (25, 25, 28))
        brush.disc((x, 0.17), 0.08, (150, 150, 150))


def bench(brush: Brush, dice: Dice) -> None:
    wood = hsv(0.08, dice.between(0.3, 0.6), dice.between(0.3, 0.6))
    for x in (-0.45, 0.45):
        brush.box(x - 0.03, 0, x + 0.03, 0.5, (50, 50, 52))
    for y in (0.22, 0.34, 0.44):
        brush.box(-0.6, y, 0.6, y + 0.06, wood)


def pole(brush: Brush, dice: Dice) -> None:
    """A lamp post, or a bare pole."""
    metal, high, wide = dice.dull(), dice.between(1.1, 2.4), dice.between(0.02, 0.05)
    brush.limb(((0, 0), (0, high)), (wide * 1.3, wide), metal)
    if dice.chance(0.5):
        brush.limb(((0, high), (0.3, high + 0.05)), (wide, wide), metal)
        brush.disc((0.32, high + 0.03), 0.07, (240, 235, 200), 0.035)


def sign(brush: Brush, dice: Dice) -> None:
    brush.limb(((0, 0), (0, 1.2)), (0.03, 0.03), (130, 130, 135))
    rim, inner = dice.vivid(), dice.vivid()
    if dice.chance(0.5):
        brush.disc((0, 1.25), 0.14, rim)
        brush.disc((0, 1.25), 0.09, inner)
    else:
        brush.box(-0.18, 1.05, 0.18, 1.35, rim)
        brush.box(-0.13, 1.15, 0.13, 1.22, inner)


def bin_(brush: Brush, dice: Dice) -> None:
    """A litter bin, a letter box or a bollard."""
    paint = dice.vivid() if dice.chance(0.6) else dice.dull()
    wide, high = dice.between(0.03, 0.12), dice.between(0.3, 0.6)
    brush.box(-wide, 0, wide, high, paint)
    brush.box(-wide * 1.15, high, wide * 1.15, high + 0.06, shade(paint, 0.7))


def fence(brush: Brush, dice: Dice) -> None:
    paint, posts = dice.dull(), dice.whole(2, 4)
    for i in range(posts):
        brush.box(i * 0.4 - 0.015, 0, i * 0.4 + 0.015, 0.5, paint)
    for y in (0.22, 0.46):
        brush.box(0, y, (posts - 1) * 0.4, y + 0.03, paint)


def backdrop(dice: Dice, height: int, width: int, horizon: float, ground: Colour) -> Image.Image:
    """Sky, houses with windows and the ground with its marks, as an RGBA canvas that nobody owns.

    Args:
        height, width: of the canvas, in pixels.
        horizon: its distance from the upper edge, in pixels.
        ground: colour of the street.
    """
    canvas = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(canvas)

    def box(left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        draw.rectangle((left, top, max(left, right), max(top, bottom)), (*colour, 0))

    sky = dice.pick(((150, 185, 225), (190, 200, 210), (225, 205, 180)))
    for k in range(12):
        box(0, k * horizon / 12, width, (k + 1) * horizon / 12, shade(sky, 0.8 + k * 0.03))
        top = horizon + k * (height - horizon) / 12
        box(0, top, width, top + height / 12, shade(ground, 0.75 + k * 0.04))
    left = -dice.between(0, 0.2) * width
    while left < width:
        right = left + dice.between(0.15, 0.5) * width
        if dice.chance(0.85):
            _house(dice, box, left, horizon * dice.between(-0.3, 0.6), right, horizon * dice.between(1.0, 1.15))
        left = right + (dice.between(0, 0.1) * width if dice.chance(0.3) else 0)
    for _ in range(dice.whole(0, 3)):  # kerbs, lanes
        top, deep = horizon + dice.between(0.15, 1) * (height - horizon), dice.between(0.01, 0.05) * height
        box(0, top, width, top + deep, shade(ground, dice.between(0.6, 1.5)))
    for _ in range(dice.whole(8, 30)):  # stains, leaves, litter
        x, y, r = (
            dice.between(0, 1) * width,
            dice.between(horizon, height),
            dice.between(0.005, 0.035) * height,
        )
        colour = dice.vivid() if dice.chance(0.2) else shade(ground, dice.between(0.6, 1.4))
        draw.ellipse((x - r, y - r * 0.4, x + r, y + r * 0.4), (*colour, 0))
    return canvas


def _house(
    dice: Dice,
    box: Callable[[float, float, float, float, Colour], None],
    left: float,
    top: float,
    right: float,
    bottom: float,
) -> None:
    wall = shade(dice.vivid(), 0.8) if dice.chance(0.1) else dice.dull()
    box(left, top, right, bottom, wall)
    glass, columns, rows = dice.dull(), dice.whole(2, 5), dice.whole(2, 4)
    wide, high = (right - left) / columns, (bottom - top) / rows
    margin = dice.between(0.15, 0.3)
    for column in range(columns):
        for row in range(rows):
            x, y = left + (column + margin) * wide, top + (row + margin) * high
            pane = shade(glass, dice.between(0.7, 1.3))
            box(x, y, x + (1 - 2 * margin) * wide, y + (1 - 1.7 * margin) * high, pane)


LARGE = (tree, car, bench)
SMALL = (pole, pole, sign, bush, bin_, fence)
