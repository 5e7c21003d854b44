"""Trees, cars, fences, and the houses and ground behind; see ``brush.py`` for the frame of what stands there."""

from collections.abc import Callable

from PIL import Image, ImageDraw

from instseg.data.sets.scenes.brush import Brush, Colour, Dice, hsv, shade


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
    """Sky, houses with windows and the ground with its marks, as an RGBA canvas of (height, width) that nobody owns;
    ``horizon`` is its distance from the upper edge, in pixels."""
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
        x, y = dice.between(0, 1) * width, dice.between(horizon, height)
        r = dice.between(0.005, 0.035) * height
        colour = dice.vivid() if dice.chance(0.2) else shade(ground, dice.between(0.6, 1.4))
        draw.ellipse((x - r, y - r * 0.4, x + r, y + r * 0.4), (*colour, 0))
    return canvas


def _house(dice: Dice, box: Callable[..., None], left: float, top: float, right: float, bottom: float) -> None:
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
