"""Reading the annotations of the VGG Image Annotator (VIA), versions 1 and 2, and checking all of them.

Source: A. Dutta and A. Zisserman, "The VIA Annotation Software for Images, Audio and Video", ACM Multimedia 2019;
https://www.robots.ox.ac.uk/~vgg/software/via.
"""

from math import cos, pi, sin
from pathlib import Path
from typing import Any

from instseg.data.annotated import Contents, ImageRecord
from instseg.data.annotations.coco_shapes import missing_box
from instseg.data.annotations.faults import Faults, Invalid, drops, skipped
from instseg.data.annotations.file_names import FileFinder
from instseg.data.annotations.headers import check_headers
from instseg.data.annotations.json_file import is_text, read_json, short
from instseg.data.images import SUFFIXES
from instseg.errors import DataError

_FORM = "a VIA file is one object with an entry {filename, regions} for each image"
_PROJECT = "_via_img_metadata"
_CORNERS = 180  # of a round shape's polygon, which keeps it within 0.02 % of its radius


def read_via(path: Path, *, category: str, invalid: Invalid, limit: int | None) -> Contents:
    """Read a VIA file beside its images: an export of VIA 1 or 2, or a project of VIA 2.

    Polygons, closed polylines, rectangles, circles and ellipses are instances, all of one category; points and
    open lines have no inside and are degenerate. Images are in the order of their names, and their ids are
    their positions in that order, from 1; with ``limit`` only the first so many are kept.

    Raises:
        UserError: ``invalid`` has no such value.
        DataError: the file or a part of it cannot be used.
    """
    drop = drops(invalid)
    entries = _entries(path)
    images = [
        ImageRecord({"id": i, "file_name": name}, [], set(), name) for i, name in enumerate(sorted(entries), start=1)
    ][:limit]
    check_headers(path, path.parent, images, every=True)
    lines = []
    annotation_id = 0
    for image in images:
        for key, region in entries[image.file]:
            annotation_id += 1
            if (reason := _add(image, annotation_id, region)) is not None:
                lines.append(f"region {key} of {image.file}: {reason}")
    lines = skipped(path, lines, what="region", drop=drop)
    known = {image.file for image in images}
    if limit is None:
        beside = {p.name for p in path.parent.iterdir() if p.suffix.lower() in SUFFIXES}
        lines = lines + [f"image {name} has no entry in {path.name}" for name in sorted(beside - known)]
    return Contents([{"id": 1, "name": category}], images, lines)


def _entries(path: Path) -> dict[str, list[tuple[str, Any]]]:
    """The regions, each with its number or key, of every image by its file, which is there."""
    data = read_json(path)
    if isinstance(data, dict):
        data = data.get(_PROJECT, data)
    if not isinstance(data, dict):
        raise DataError(f"{path} holds no object; {_FORM}")
    if not data:
        raise DataError(f"{path} holds no image; {_FORM}")
    finder, faults = FileFinder(path.parent), Faults(path)
    entries: dict[str, list[tuple[str, Any]]] = {}
    for key, entry in data.items():
        name, regions = (entry.get(k) if isinstance(entry, dict) else None for k in ("filename", "regions"))
        if not is_text(name):
            faults.add("entry", f"entry {short(key)} is no object with a text as 'filename'; {_FORM}")
        elif not isinstance(regions, dict | list):
            faults.add("regions", f"{name} has regions {short(regions)}; a list or an object is needed")
        elif (file := finder.find(name)) is None:
            faults.add("file", f"image {path.parent / name.lstrip('/')} does not exist")
        elif file in entries:
            faults.add("twice", f"{file} is there twice; each image has one entry")
        else:
            numbered = regions.items() if isinstance(regions, dict) else enumerate(regions)
            entries[file] = [(" ".join(str(number).split())[:60], region) for number, region in numbered]
    faults.raise_first()
    return entries


def _add(image: ImageRecord, annotation_id: int, region: Any) -> str | None:
    """Give a region to its image as a COCO annotation, or say why it can be none."""
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict):
        return "it has no shape_attributes"
    try:
        segmentation = [_polygon(shape)]
    except KeyError as error:
        return f"its shape {short(shape.get('name'))} has no {error}"
    except (ValueError, OverflowError) as error:
        return str(error)
    box, fault = missing_box(segmentation, image.record["height"], image.record["width"])
    if fault is not None:
        return fault.reason
    ids = {"id": annotation_id, "image_id": image.record["id"], "category_id": 1}
    image.annotations.append({**ids, "segmentation": segmentation, "bbox": box, "iscrowd": 0})
    return None


def _polygon(shape: dict[str, Any]) -> list[float]:
    """x1, y1, x2, y2, ... of a shape, in pixels."""
    name = shape.get("name")
    if name in ("polygon", "polyline"):
        xs, ys = shape["all_points_x"], shape["all_points_y"]
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise ValueError("all_points_x and all_points_y are no lists of one length")
        points = [(_number(x), _number(y)) for x, y in zip(xs, ys, strict=True)]
        if name == "polyline" and points[:1] != points[-1:]:
            raise ValueError("an open polyline has no inside")
    elif name == "rect":
        x, y, width, height = (_number(shape[key]) for key in ("x", "y", "width", "height"))
        points = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    elif name in ("circle", "ellipse"):
        x, y = _number(shape["cx"]), _number(shape["cy"])
        rx, ry = (_number(shape[key]) for key in (("r", "r") if name == "circle" else ("rx", "ry")))
        points = _ellipse(x, y, rx, ry, _number(shape.get("theta", 0)))
    elif name == "point":
        raise ValueError("a point has no inside")
    else:
        raise ValueError(f"its shape is {short(name)}; polygon, polyline, rect, circle and ellipse are known")
    return [number for point in points for number in point]


def _ellipse(x: float, y: float, rx: float, ry: float, theta: float) -> list[tuple[float, float]]:
    """Points on an ellipse turned by ``theta`` radians."""
    c, s = cos(theta), sin(theta)
    turns = [2 * pi * k / _CORNERS for k in range(_CORNERS)]
    return [(x + rx * cos(t) * c - ry * sin(t) * s, y + rx * cos(t) * s + ry * sin(t) * c) for t in turns]


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{short(value)} is no number")
    return float(value)
