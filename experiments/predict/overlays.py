"""Drawings of predictions at any size: translucent outlined masks with captions, and heads side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, product
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import minimum_filter

from experiments.render.masks import OPACITY, colour_of
from experiments.render.table import wrap
from instseg.evaluation import coco, pairing

Rgb = tuple[int, int, int]

_SMALL = 640  # about how long the longer side of a smaller image is made, by repeating its pixels
_PER_ROW = 4
_TITLE_CHARACTERS = 24


@dataclass
class Drawn:
    """An object at the scale of its drawing."""

    mask: NDArray[np.bool_]  # (h, w)
    box: list[float]  # xyxy
    colour: Rgb
    caption: str


def colours(runs: Sequence[coco.Results]) -> list[list[Rgb]]:
    """A colour for each result of each run on one image: in a run no two the same and none black, and the same in
    several runs for masks of the same object."""
    spare = iter(_strong_colours())
    known: coco.Results = []
    known_colours: list[Rgb] = []
    colours_of_runs = []
    for results in runs:
        # heads may see different classes in one object; those on one core have the very same boxes
        same = np.asarray([[result["bbox"] == other["bbox"] for other in known] for result in results], dtype=bool)
        same = same.reshape(len(results), len(known))
        unmatched = ~same.any(axis=1, keepdims=True) & ~same.any(axis=0, keepdims=True)
        masks, objects = ([result["segmentation"] for result in group] for group in (results, known))
        pairs = pairing.pair(masks, objects, same | unmatched)
        chosen = [known_colours[pairs[n][0]] if n in pairs else next(spare) for n in range(len(results))]
        for n in sorted(set(range(len(results))) - pairs.keys()):
            known.append(results[n])
            known_colours.append(chosen[n])
        colours_of_runs.append(chosen)
    return colours_of_runs


@lru_cache
def _strong_colours() -> list[Rgb]:
    """The panels' colours, and then all others on a grid; none twice, and without black."""
    panels = ((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in map(colour_of, range(500)))
    others = ((r, g, b) for r, g, b in product(range(255, -1, -5), repeat=3))
    return [colour for colour in dict.fromkeys(chain(panels, others)) if any(colour)]


def size_of(height: int, width: int, max_side: int) -> tuple[int, int]:
    """(H, W) of the drawing of an image: a small one is enlarged by a whole number, a large one brought to
    ``max_side``."""
    longest = max(height, width)
    if longest > max_side:
        return max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))
    times = max(1, min(round(_SMALL / longest), max_side // longest))
    return height * times, width * times


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image or mask at the size (H, W) of a drawing: pixels averaged, or repeated as they are."""
    how = Image.Resampling.BOX if size[0] < image.height else Image.Resampling.NEAREST
    return image.resize(size[::-1], how)


def overlay(pixels: NDArray[np.uint8], objects: Sequence[Drawn], *, captions: bool) -> Image.Image:
    """An image, (h, w, 3) at the drawing's scale, with objects on it, the last ones on top.

    torchvision's ``draw_segmentation_masks`` has no outlines and gives overlapping masks a colour that is neither's,
    and its ``draw_bounding_boxes`` writes captions over each other.
    """
    blended = pixels.copy()
    width = max(1, round(max(pixels.shape[:2]) / 300))
    for drawn in objects:
        rows, columns = (np.flatnonzero(drawn.mask.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            mask, part = drawn.mask[crop], blended[crop]
            part[mask] = np.rint((1 - OPACITY) * part[mask] + OPACITY * np.asarray(drawn.colour))
            # beyond the crop counts as outside, so that outlines close at the image's edge
            inner = minimum_filter(mask.astype(np.uint8), size=2 * width + 1, mode="constant").astype(bool)
            part[mask & ~inner] = drawn.colour
    image = Image.fromarray(blended)
    draw = ImageDraw.Draw(image)
    for drawn in objects:
        draw.rectangle(drawn.box, outline=drawn.colour, width=max(1, width // 2))
    if captions:
        _write_captions(draw, image.size, objects)
    return image


def _write_captions(draw: ImageDraw.ImageDraw, size: tuple[int, int], objects: Sequence[Drawn]) -> None:
    """Write each caption on a plate of its object's colour: above, inside or below the box, at the first of these
    places that lies in the image and hides no other caption."""
    font = _font(max(11, round(max(size) / 55)))
    taken: list[tuple[float, float, float, float]] = []
    for drawn in reversed(objects):
        left, top, right, bottom = draw.textbbox((0, 0), drawn.caption, font=font)
        width, height = right - left + 4, bottom - top + 4
        x = min(max(drawn.box[0], 0), max(size[0] - width, 0))
        plates = [(x, y, x + width, y + height) for y in (drawn.box[1] - height, drawn.box[1], drawn.box[3])]
        inside = [plate for plate in plates if plate[1] >= 0 and plate[3] <= size[1]] or [plates[1]]
        plate = next((plate for plate in inside if not any(_overlap(plate, other) for other in taken)), inside[0])
        taken.append(plate)
        draw.rectangle(plate, fill=drawn.colour)
        fill = "black" if np.dot(drawn.colour, (0.299, 0.587, 0.114)) > 140 else "white"
        draw.text((plate[0] + 2 - left, plate[1] + 2 - top), drawn.caption, font=font, fill=fill)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def side_by_side(tiles: Sequence[Image.Image], titles: Sequence[str], max_side: int) -> Image.Image:
    """Drawings of one size in a row, or in several where there are many, with titles above them.

    Tiles are shrunk where their longer side is more than half of ``max_side`` pixels.
    """
    shrink = min(1.0, max_side / 2 / max(tiles[0].size))
    width, height = (max(1, round(side * shrink)) for side in tiles[0].size)
    font = _font(max(12, round(max(width, height) / 24)))
    lines = [wrap(title, _TITLE_CHARACTERS) for title in titles]
    gap = max(4, round(max(width, height) / 80))
    line_height = sum(font.getmetrics())
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    # a title may be wider than a narrow image
    cell = max(width, *(int(probe.multiline_textbbox((0, 0), line, font)[2]) + 1 for line in lines))
    head = 2 * gap + line_height * max(line.count("\n") + 1 for line in lines)
    rows = math.ceil(len(tiles) / _PER_ROW)
    columns = math.ceil(len(tiles) / rows)
    panel = Image.new("RGB", (gap + columns * (cell + gap), rows * (head + height) + gap), "white")
    draw = ImageDraw.Draw(panel)
    for number, (tile, line) in enumerate(zip(tiles, lines, strict=True)):
        row, column = divmod(number, columns)
        x, y = gap + column * (cell + gap), row * (head + height)
        at = (x + cell / 2, y + head - gap // 2 - line_height * (line.count("\n") + 1))
        draw.multiline_text(at, line, "black", font, anchor="ma", spacing=0, align="center")
        panel.paste(tile.resize((width, height), Image.Resampling.LANCZOS), (x + (cell - width) // 2, y + head))
    return panel


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's own has Latin letters alone
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
