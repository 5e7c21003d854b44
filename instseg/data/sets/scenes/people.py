"""People with joints, clothes and what they carry; see ``brush.py`` for the frame that they are drawn in."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from instseg.data.sets.scenes.brush import Brush, Colour, Dice, Point, elbow, shade, towards

SKINS: tuple[Colour, ...] = (
    (246, 208, 180), (232, 184, 150), (214, 160, 120), (188, 130, 92), (146, 96, 66), (106, 70, 50)
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (30, 24, 22), (62, 40, 26), (104, 66, 36), (168, 122, 60), (214, 180, 112), (150, 60, 30), (170, 170, 172)
)  # fmt: skip


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
            lower = upper - step
            wide, narrow = _half_width(levels, upper), _half_width(levels, lower)
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
