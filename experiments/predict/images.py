"""Masks on images of your own: ``python -m experiments.predict input=PATH_OR_FOLDER run=RUN``.

With several runs, ``run=A,B``, each image also gets a comparison of them.
"""

import errno
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle_tools

from experiments.config import apps, cli
from experiments.config.run import torch_device
from experiments.predict import overlays
from experiments.predict.journal import Journal
from experiments.render.plot import file_names
from experiments.runs import trained
from experiments.runs.end_to_end import prepare
from experiments.runs.trained import Trained
from instseg import device as memory
from instseg import progress
from instseg.data import folders
from instseg.data.images import read_upright
from instseg.detector import MaskRCNN
from instseg.errors import DataError, UserError
from instseg.evaluation import coco
from instseg.evaluation.predict import predict_image
from instseg.files import write_atomically

_COMPARISON = "comparison"


@dataclass(frozen=True)
class _Predictor:
    """A trained run, its model, and its folder in the output."""

    run: Trained
    model: MaskRCNN
    folder: Path

    def detect(self, image: NDArray[np.uint8]) -> coco.Results:
        """COCO results of an image, the best first; its id is set later."""
        # precision is a setting of the process
        device = prepare(self.run.config)
        detections = predict_image(self.model, image, device=device, precision=self.run.config.schedule.precision)
        results = coco.to_results([detections], [0], [category["id"] for category in self.run.categories])
        return sorted(results, key=lambda result: -result["score"])


def predict(config: apps.Predict) -> int:
    """Predict, draw and write; 1 where an image failed.

    Raises:
        UserError: input, runs or output can't be used.
    """
    source = Path(config.input).expanduser()
    output = Path(config.output or Path(config.results_dir) / "predictions" / source.resolve().name).expanduser()
    listing = _list(source, output, config.recursive)
    predictors = _predictors(config, output)
    runs = [[run.label, run.config.hash(), run.trained_at()] for run in (predictor.run for predictor in predictors)]
    with _naming(output):
        settings = [config.score, config.max_side, config.max_pixels]
        journal = Journal(output / ".progress.jsonl", {"runs": runs, "settings": settings})
    entries: dict[int, dict[str, Any]] = {}
    resumed = 0
    failed = [_printable(line) for line in listing.unread]
    try:
        with progress.bar(total=len(listing.paths), desc="predict", unit="img") as bar:
            for image_id, path in enumerate(listing.paths, 1):
                name = path.relative_to(source if source.is_dir() else source.parent).as_posix()
                try:
                    entry = journal.get(name, path)
                    resumed += entry is not None
                    if entry is None:
                        entry = _predict_image(path, name, predictors, output, config)
                        journal.add(name, path, entry)
                    entries[image_id] = entry
                except Exception as error:
                    if not isinstance(error, DataError) and memory.ran_out(error) is None:
                        raise
                    reason = str(error) if isinstance(error, DataError) else f"{path} needs more memory than there is"
                    failed.append(_printable(reason))
                    progress.say(f"failed: {failed[-1]}")
                bar.update()
    except KeyboardInterrupt:
        done = f"{len(entries)} of {len(listing.paths)} images are in {output}"
        cli.fail(f"interrupted; {done}, and the same command goes on with the rest", 130)
    finally:
        _write_results(predictors, entries)
    journal.end()
    drawn = [sum(entry["drawn"][i] for entry in entries.values()) for i in range(len(predictors))]
    objects = ", ".join(f"{predictor.run.label} {n}" for predictor, n in zip(predictors, drawn, strict=True))
    counts = f"{len(entries)} of {len(listing.paths)} images in {output}"
    print(f"{counts}; objects with a score above {config.score}: {objects}")
    if resumed:
        print(f"{resumed} of them had been done before this was broken off")
    if listing.others:
        print(f"files that are no images, passed over: {listing.others}")
    if listing.subfolders:
        print(f"subfolders not looked into, as recursive=true does: {listing.subfolders}")
    for line in failed:
        print(f"failed: {line}")
    return 1 if failed else 0


def _list(source: Path, output: Path, recursive: bool) -> folders.Listing:
    """The images to predict, at least one."""
    if not source.is_dir():
        if not source.exists():
            raise UserError(f"input={source}: no such file or folder")
        return folders.Listing([source])
    listing = folders.list_images(source, recursive=recursive, leave_out=output)
    if not listing.paths:
        inner = listing.subfolders
        hint = f", subfolders: {inner} (recursive=true looks into them)" if inner else ""
        raise UserError(f"input={source}: no image in this folder, other files: {listing.others}{hint}")
    return listing


def _predictors(config: apps.Predict, output: Path) -> list[_Predictor]:
    device = torch_device(config.device, "device")
    runs = trained.find(config.names(), Path(config.results_dir).expanduser())
    names = file_names([_COMPARISON, *(run.label for run in runs)])
    predictors = []
    for run in runs:
        run.config.runtime.device, run.config.runtime.threads = config.device, config.threads
        predictors.append(_Predictor(run, run.model(device), output / names[run.label]))
    return predictors


def _write_results(predictors: Sequence[_Predictor], entries: Mapping[int, dict[str, Any]]) -> None:
    """Write each run's results, and the images that they are of; ``entries`` as :func:`_predict_image` gives them."""
    images = [{"id": image_id, **entry["image"]} for image_id, entry in entries.items()]
    for i, predictor in enumerate(predictors):
        results = [{**result, "image_id": n} for n, entry in entries.items() for result in entry["results"][i]]
        about = {"images": images, "annotations": [], "categories": predictor.run.categories}
        with _naming(predictor.folder):
            write_atomically(predictor.folder / "results.json", json.dumps(results))
            write_atomically(predictor.folder / "images.json", json.dumps(about, indent=1))


def _predict_image(
    path: Path, name: str, predictors: Sequence[_Predictor], output: Path, config: apps.Predict
) -> dict[str, Any]:
    """Predict and draw one image; returns its entry for COCO's ``images``, without its id, and for each run its
    ``results`` and how many of them were ``drawn``."""
    pixels = read_upright(path, config.max_pixels)
    height, width = pixels.shape[:2]
    results = [predictor.detect(pixels) for predictor in predictors]
    shown = [[result for result in of_run if result["score"] > config.score] for of_run in results]
    drawing = overlays.size_of(height, width, config.max_side)
    base = np.asarray(overlays.resized(Image.fromarray(pixels), drawing))
    del pixels
    tiles = [Image.fromarray(base)]
    several = len(predictors) > 1
    with _naming(output, path):
        for predictor, of_run, colours in zip(predictors, shown, overlays.colours(shown), strict=True):
            objects = _write_masks(predictor, name, of_run, colours, (height, width), drawing)
            _write(predictor.folder / "overlays" / f"{name}.png", overlays.overlay(base, objects, captions=True))
            if several:
                tiles.append(overlays.overlay(base, objects, captions=False))
        if several:
            titles = ["image", *(predictor.run.label for predictor in predictors)]
            _write(output / _COMPARISON / f"{name}.png", overlays.side_by_side(tiles, titles, config.max_side))
    image = {"file_name": name, "height": height, "width": width}
    return {"image": image, "results": results, "drawn": [len(of_run) for of_run in shown]}


def _write_masks(
    predictor: _Predictor,
    name: str,
    results: coco.Results,
    colours: list[overlays.Rgb],
    size: tuple[int, int],
    drawing: tuple[int, int],
) -> list[overlays.Drawn]:
    """Write an image's masks, each and all in one; returns what an overlay shows, the best last.

    One mask at a time is held in full. Results have the best first; ``size`` and ``drawing`` are (H, W) of the image
    and of its overlay.
    """
    names = {category["id"]: category["name"] for category in predictor.run.categories}
    folder = predictor.folder / "masks" / name
    for old in folder.glob("[0-9]*.png"):
        old.unlink()
    together = np.zeros((*size, 3), dtype=np.uint8)
    down, across = drawing[0] / size[0], drawing[1] / size[1]
    objects = []
    for number, (result, colour) in reversed(list(enumerate(zip(results, colours, strict=True), 1))):
        rle = result["segmentation"]
        x, y, w, h = map(int, rle_tools.toBbox(rle))
        # work in the mask's own rectangle, which is mostly a small part of a large image
        inside = np.ascontiguousarray(rle_tools.decode(rle)[y : y + h, x : x + w])
        together[y : y + h, x : x + w][inside.view(bool)] = colour
        mask = Image.new("L", size[::-1])
        mask.paste(Image.fromarray(inside * 255), (x, y))
        _write(folder / f"{number:03}.png", mask)
        x, y, w, h = result["bbox"]
        box = [x * across, y * down, (x + w) * across, (y + h) * down]
        caption = f"{names[result['category_id']]} {result['score']:.2f}"
        shape = np.asarray(overlays.resized(mask, drawing)) > 127
        objects.append(overlays.Drawn(shape, box, colour, caption))
    _write(predictor.folder / "instances" / f"{name}.png", Image.fromarray(together))
    return objects


def _write(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    # the quickest level: large masks would take seconds each
    image.save(buffer, "PNG", compress_level=1)
    write_atomically(path, buffer.getvalue())


@contextmanager
def _naming(output: Path, image: Path | None = None) -> Iterator[None]:
    """Turns a failure to write into the one line that names what can't be written."""
    try:
        yield
    except OSError as error:
        if image is not None and error.errno == errno.ENAMETOOLONG:
            raise DataError(f"{image} has too long a name: {image.name}.png can't be written") from error
        # a full disk names no file
        file = "" if error.filename is None else f"{error.filename} "
        raise UserError(f"output={output}: {file}can't be written ({error.strerror or error})") from error


def _printable(line: str) -> str:
    """A line for any terminal: names of files may hold line breaks and broken characters."""
    return " ".join(line.splitlines()).encode(errors="backslashreplace").decode()
