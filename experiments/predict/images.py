"""Masks on images of your own: ``python -m experiments.predict input=PATH_OR_FOLDER run=RUN``.

With several runs, ``run=A,B``, each image also gets a comparison of them.
"""

import errno
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle_tools

from experiments.config import apps, cli
from experiments.config.run import torch_device
from experiments.predict import overlays
from experiments.predict.journal import Journal
from experiments.render.plot import file_names
from experiments.runs import named_runs
from experiments.runs.end_to_end import prepare
from experiments.runs.named_runs import Trained
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


@dataclass
class _Predictor:
    """A run, its folder in the output, and what it has found so far."""

    run: Trained
    model: MaskRCNN
    device: torch.device
    folder: Path
    results: coco.Results = field(default_factory=list)
    drawn: int = 0

    def find(self, image: NDArray[np.uint8]) -> coco.Results:
        """COCO results of an image, which is not named yet, the best first."""
        # precision is a setting of the process
        prepare(self.run.config)
        found = predict_image(self.model, image, device=self.device, precision=self.run.config.schedule.precision)
        results = coco.to_results([found], [0], [category["id"] for category in self.run.categories])
        return sorted(results, key=lambda result: -result["score"])

    def finish(self, images: list[dict[str, Any]]) -> None:
        """Write the results and what they are of."""
        about = {"images": images, "annotations": [], "categories": self.run.categories}
        try:
            write_atomically(self.folder / "results.json", json.dumps(self.results))
            write_atomically(self.folder / "images.json", json.dumps(about, indent=1))
        except OSError as error:
            raise _unwritable(self.folder, error) from error


def predict(config: apps.Predict) -> int:
    """Predict, draw and write; 1 where an image failed.

    Raises:
        UserError: input, runs or output can't be used.
    """
    source = Path(config.input).expanduser()
    output = Path(config.output or Path(config.results_dir) / "predictions" / source.resolve().name).expanduser()
    paths, found = _images(source, output, config.recursive)
    predictors = _predictors(config, output)
    journal = _journal(config, predictors, output)
    images: list[dict[str, Any]] = []
    before = 0
    failed = [_printable(line) for line in found.unread]
    try:
        with progress.bar(total=len(paths), desc="predict", unit="img") as bar:
            for image_id, path in enumerate(paths, 1):
                name = path.relative_to(source if source.is_dir() else source.parent).as_posix()
                try:
                    one = journal.get(name, path)
                    before += one is not None
                    if one is None:
                        one = _one(path, name, predictors, output, config)
                        journal.add(name, path, one)
                    images.append(_take(one, image_id, predictors))
                except Exception as error:
                    if not isinstance(error, DataError) and memory.ran_out(error) is None:
                        raise
                    why = str(error) if isinstance(error, DataError) else f"{path} needs more memory than there is"
                    failed.append(_printable(why))
                    progress.say(f"failed: {failed[-1]}")
                bar.update()
    except KeyboardInterrupt:
        done = f"{len(images)} of {len(paths)} images are in {output}"
        cli.fail(f"interrupted; {done}, and the same command goes on with the rest", 130)
    finally:
        for predictor in predictors:
            predictor.finish(images)
    journal.end()
    print(_summary(len(images), before, predictors, found, failed, config.score, output))
    return 1 if failed else 0


def _images(source: Path, output: Path, recursive: bool) -> tuple[list[Path], folders.Listing]:
    if not source.is_dir():
        if not source.exists():
            raise UserError(f"input={source}: no such file or folder")
        return [source], folders.Listing([source])
    found = folders.list_images(source, recursive=recursive, leave_out=output)
    if not found.paths:
        hint = f", subfolders: {found.subfolders} (recursive=true looks into them)" if found.subfolders else ""
        raise UserError(f"input={source}: no image in this folder, other files: {found.others}{hint}")
    return found.paths, found


def _predictors(config: apps.Predict, output: Path) -> list[_Predictor]:
    device = torch_device(config.device, "device")
    runs = named_runs.find(config.names(), Path(config.results_dir).expanduser())
    names = file_names([_COMPARISON, *(run.label for run in runs)])
    predictors = []
    for run in runs:
        run.config.runtime.device, run.config.runtime.threads = config.device, config.threads
        predictors.append(_Predictor(run, run.model(device), device, output / names[run.label]))
    for one in predictors:
        try:
            one.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(output, error) from error
    return predictors


def _journal(config: apps.Predict, predictors: Sequence[_Predictor], output: Path) -> Journal:
    about = {
        "runs": [[one.run.label, one.run.config.hash(), one.run.trained_at()] for one in predictors],
        "settings": [config.score, config.max_side, config.max_pixels],
    }
    try:
        return Journal(output / ".progress.jsonl", about)
    except OSError as error:
        raise _unwritable(output, error) from error


def _one(path: Path, name: str, predictors: Sequence[_Predictor], output: Path, config: apps.Predict) -> dict[str, Any]:
    """Predict and draw one image; returns its entry for COCO's ``images``, without its id, and what each run found
    and shows."""
    pixels = read_upright(path, config.max_pixels)
    height, width = pixels.shape[:2]
    found = [one.find(pixels) for one in predictors]
    shown = [[result for result in results if result["score"] > config.score] for results in found]
    colours = overlays.colours(shown)
    base = np.asarray(overlays.resized(Image.fromarray(pixels), overlays.size_of(height, width, config.max_side)))
    del pixels
    tiles = [Image.fromarray(base)]
    several = len(predictors) > 1
    try:
        for one, results, theirs in zip(predictors, shown, colours, strict=True):
            drawn = _write_masks(one, name, results, theirs, (height, width), base.shape[:2])
            _write(one.folder / "overlays" / f"{name}.png", overlays.overlay(base, drawn, captions=True))
            if several:
                tiles.append(overlays.overlay(base, drawn, captions=False))
        if several:
            titles = ["image", *(one.run.label for one in predictors)]
            _write(output / _COMPARISON / f"{name}.png", overlays.side_by_side(tiles, titles, config.max_side))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise DataError(f"{path} has too long a name: {name}.png can't be written") from error
        raise _unwritable(output, error) from error
    image = {"file_name": name, "height": height, "width": width}
    return {"image": image, "results": found, "drawn": [len(above) for above in shown]}


def _take(found: dict[str, Any], image_id: int, predictors: Sequence[_Predictor]) -> dict[str, Any]:
    """Give the runs what was found on an image; returns its entry for COCO's ``images``."""
    for one, results, drawn in zip(predictors, found["results"], found["drawn"], strict=True):
        one.results += [{**result, "image_id": image_id} for result in results]
        one.drawn += drawn
    return {"id": image_id, **found["image"]}


def _write_masks(
    one: _Predictor,
    name: str,
    results: coco.Results,
    colours: list[overlays.Rgb],
    size: tuple[int, int],
    small: tuple[int, ...],
) -> list[overlays.Drawn]:
    """Write an image's masks, each and all in one; returns what an overlay shows, the best last.

    One mask at a time is held in full.
    """
    names = {category["id"]: category["name"] for category in one.run.categories}
    folder = one.folder / "masks" / name
    for old in folder.glob("[0-9]*.png"):
        old.unlink()
    together = np.zeros((*size, 3), dtype=np.uint8)
    down, across = small[0] / size[0], small[1] / size[1]
    drawn = []
    for number in reversed(range(len(results))):
        result, colour = results[number], colours[number]
        rle = result["segmentation"]
        x, y, w, h = map(int, rle_tools.toBbox(rle))
        # work in the mask's own rectangle: it is mostly a small part of a large image
        inside = np.ascontiguousarray(rle_tools.decode(rle)[y : y + h, x : x + w])
        together[y : y + h, x : x + w][inside.view(bool)] = colour
        mask = Image.new("L", size[::-1])
        mask.paste(Image.fromarray(inside * 255), (x, y))
        _write(folder / f"{number + 1:03}.png", mask)
        x, y, w, h = result["bbox"]
        box = [x * across, y * down, (x + w) * across, (y + h) * down]
        caption = f"{names[result['category_id']]} {result['score']:.2f}"
        shape = np.asarray(overlays.resized(mask, (small[0], small[1]))) > 127
        drawn.append(overlays.Drawn(shape, box, colour, caption))
    _write(one.folder / "instances" / f"{name}.png", Image.fromarray(together))
    return drawn


def _write(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    # the quickest level: large masks would take seconds each
    image.save(buffer, "PNG", compress_level=1)
    write_atomically(path, buffer.getvalue())


def _summary(
    done: int,
    before: int,
    predictors: Sequence[_Predictor],
    found: folders.Listing,
    failed: Sequence[str],
    score: float,
    output: Path,
) -> str:
    objects = ", ".join(f"{one.run.label} {one.drawn}" for one in predictors)
    lines = [f"{done} of {len(found.paths)} images in {output}; objects with a score above {score}: {objects}"]
    if before:
        lines.append(f"{before} of them had been done before this was broken off")
    if found.others:
        lines.append(f"files that are no images, passed over: {found.others}")
    if found.subfolders:
        lines.append(f"subfolders not looked into, as recursive=true does: {found.subfolders}")
    return "\n".join([*lines, *(f"failed: {line}" for line in failed)])


def _unwritable(output: Path, error: OSError) -> UserError:
    # a full disk names no file
    what = "" if error.filename is None else f"{error.filename} "
    return UserError(f"output={output}: {what}can't be written ({error.strerror or error})")


def _printable(line: str) -> str:
    """Names of files may hold anything, line breaks and broken characters too."""
    return " ".join(line.splitlines()).encode(errors="backslashreplace").decode()
