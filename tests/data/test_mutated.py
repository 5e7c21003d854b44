"""Annotation files and images damaged at random: a usable data set, or one clear line; never anything else."""

import copy
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import coco_files
import numpy as np
import pytest
import torch
import via_files
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from instseg.data import InstanceDataset, build
from instseg.errors import UserError
from instseg.evaluation import coco

# more examples than the tests take: INSTSEG_EXAMPLES=3000 pytest tests/data/test_mutated.py
bounded = settings(
    max_examples=int(os.environ.get("INSTSEG_EXAMPLES", "60")),
    deadline=None,
    derandomize="INSTSEG_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)

JUNK = st.one_of(
    st.sampled_from(
        [
            *(
                None,
                True,
                False,
                0,
                1,
                -1,
                7,
                8,
                9,
                11,
                12,
                1.5,
                7.0,
                -0.0,
                1e-9,
                1e308,
                -1e308,
                10**9,
                10**18,
                10**400,
            ),
            *(math.nan, math.inf, -math.inf, "", "7", "7.png", "a.png", "../7.png", "x\ny", "\0", "\ud800", "ä", "%00"),
            *(
                "é" * 3000,
                "7" * 5000,
                "0",
                "O",
                "o" * 40,
                "PPPPPPPPPPPPPPPPPP0",
                "polygon",
                "circle",
                "rect",
                "ellipse",
            ),
            *([], {}, [[]], [{}], [None], {"size": [20, 30], "counts": [600]}, {"size": [20, 30], "counts": "X1d0"}),
            *({"size": [20, 30], "counts": [300, 300]}, {"size": [10**9, 10**9], "counts": [10**18]}, [[0] * 6]),
            *([1, 2, 3, 4], [0, 0, 0, 0], [1e308] * 4, [[1e9, 0, 0, 1e9, 5, 5]], [[1, 1, 9, 1, 9, 9, math.nan, 3]]),
            *([[x for i in range(2000) for x in ((-30, 60)[i % 2], i % 20)]], [[4, 5, 14, 5, 14, 15]] * 3),
        ]
    ),
    st.integers(-40, 700),
    st.floats(-1e3, 1e3),
    st.text(max_size=8),
    st.recursive(st.integers(-2, 40) | st.text(max_size=3), lambda s: st.lists(s, max_size=4), max_leaves=8),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to everything inside a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def reach(document: Any, at: tuple[Any, ...]) -> Any:
    for key in at:
        document = document[key]
    return document


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """A document with one to four things taken away, doubled, exchanged or replaced."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 4))):
        known = list(places(document))
        if not known:
            break
        *parent, key = draw(st.sampled_from(known))
        holder = reach(document, tuple(parent))
        what = draw(st.sampled_from(["drop", "junk", "junk", "junk", "swap", "double", "rename", "nest"]))
        if what == "drop":
            del holder[key]
        elif what == "junk":
            holder[key] = copy.deepcopy(draw(JUNK))
        elif what == "swap":
            other = draw(st.sampled_from(known))
            holder[key] = copy.deepcopy(reach(document, other))
        elif what == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif what == "rename" and isinstance(holder, dict):
            holder[draw(st.text(max_size=4))] = holder.pop(key)
        elif what == "nest":
            for _ in range(draw(st.sampled_from([1, 3, 300]))):
                holder[key] = [holder[key]]
    return document


@st.composite
def written(draw: st.DrawFn, document: Any) -> bytes:
    """A mutated document as bytes that may themselves be damaged."""
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-16", "latin-1", "utf-8-sig"]))
    text = json.dumps(draw(mutated(document)), ensure_ascii=draw(st.booleans()))
    content = text.encode(encoding, "replace")
    if draw(st.integers(0, 5)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    return content


def check(load: Callable[[], InstanceDataset]) -> None:
    """What is loaded can be used in every way, or is refused in one line."""
    try:
        data = load()
        samples = [sample_of(data, i) for i in range(len(data))]
    except UserError as error:
        event("refused")
        refused(error)
        return
    event("used, with something left out" if data.skipped else "used")
    assert len(data) > 0 and data.trainable_indices() == sorted(set(data.trainable_indices()))
    assert len(data.fingerprint()) == 16
    assert all(len(line.splitlines()) == 1 for line in data.skipped)
    truth = data.ground_truth()
    assert [image["id"] for image in truth["images"]] == data.image_ids
    again = json.loads(json.dumps(truth, sort_keys=True))
    sound = [sample for sample in samples if sample is not None]
    if len(sound) == len(samples):
        assert [i for i, target in enumerate(sound) if (target["iscrowd"] == 0).any()] == data.trainable_indices()
    results = [
        result
        for (height, width), image_id in zip(data.sizes(), data.image_ids, strict=True)
        for result in guesses(image_id, height, width, data.categories[0]["id"])
    ]
    for engine in ("pycocotools", "faster_coco_eval"):
        for kind in ("box", "mask"):
            with redirect_stdout(StringIO()):
                scores = coco.metrics(coco.evaluate(copy.deepcopy(again), copy.deepcopy(results), kind, engine))  # type: ignore[arg-type]
            assert scores["AP"] is None or 0 <= scores["AP"] <= 100


def refused(error: UserError) -> None:
    assert len(str(error).splitlines()) == 1 and len(str(error)) < 2000
    str(error).encode()
    assert all(len(line.splitlines()) == 1 for line in getattr(error, "lines", []))


def sample_of(data: InstanceDataset, index: int) -> dict[str, Any] | None:
    try:
        image, target = data[index]
    except UserError as error:
        refused(error)
        return None
    height, width = image.shape[1:]
    assert image.dtype == torch.uint8 and (height, width) == data.sizes()[index]
    n = len(target["labels"])
    assert target["masks"].shape == (n, height, width) and target["masks"].flatten(1).any(1).all()
    assert target["boxes"].shape == (n, 4) and torch.isfinite(target["boxes"]).all()
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()
    assert (x1 < x2).all() and (y1 < y2).all()
    assert ((target["labels"] >= 1) & (target["labels"] < data.num_classes)).all()
    return target


def guesses(image_id: int, height: int, width: int, category: int) -> list[dict[str, Any]]:
    everywhere = coco_mask.encode(np.ones((height, width), dtype=np.uint8, order="F"))
    segmentation = {"size": [height, width], "counts": everywhere["counts"].decode()}
    box = [0, 0, width, height]
    return [{"image_id": image_id, "category_id": category, "bbox": box, "score": 0.5, "segmentation": segmentation}]


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@bounded
@given(content=written(coco_files.document()), invalid=st.sampled_from(["drop", "error"]))
def test_coco_files(content: bytes, invalid: Any) -> None:
    with folder() as root:
        files = coco_files.Files(root)
        files.json.write_bytes(content)
        check(lambda: coco_files.read(files.json, files.images, invalid=invalid))


def label_studio() -> dict[str, Any]:
    """An export as Label Studio writes it: ids from 0, Windows' separators, ``ignore``."""
    document = coco_files.document()
    for image in document["images"]:
        image["file_name"] = f"images\\{image['file_name']}"
        image["id"] -= 7
    for number, annotation in enumerate(document["annotations"]):
        annotation |= {"id": number, "image_id": annotation["image_id"] - 7, "ignore": 0}
    return document | {"info": {"contributor": "Label Studio", "year": 2024}}


@bounded
@given(content=written(label_studio()), split=st.sampled_from(["train", "val"]), fold=st.integers(0, 2))
def test_label_studio_exports(content: bytes, split: str, fold: int) -> None:
    with folder() as root:
        files = coco_files.Files(root)
        files.json.write_bytes(content)
        given_files = {"annotations": files.json, "images": root}
        check(lambda: build("coco_json", split, fold=fold, files=given_files, folds=3))


def via_document() -> dict[str, Any]:
    more = [
        via_files.shape("circle", cx=12, cy=10, r=7),
        via_files.shape("ellipse", cx=12, cy=10, rx=9, ry=5, theta=0.3),
        via_files.shape("rect", x=4, y=5, width=10, height=10),
        via_files.shape("point", cx=3, cy=3),
    ]
    document = via_files.document()
    document["a.png98"]["regions"] += more
    return document


@bounded
@given(content=written(via_document()), invalid=st.sampled_from(["drop", "error"]))
def test_via_files(content: bytes, invalid: str) -> None:
    with folder() as root:
        files = via_files.Files(root)
        files.json.write_bytes(content)
        check(lambda: build("balloon", "train", root=root, invalid=invalid))


def encoded(form: str, mode: str = "RGB", size: tuple[int, int] = (30, 20)) -> bytes:
    buffer = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, form)
    return buffer.getvalue()


@st.composite
def damaged(draw: st.DrawFn, sources: list[bytes]) -> bytes:
    """An image file cut short, with bytes changed, or of another kind."""
    content = bytearray(draw(st.sampled_from(sources)))
    for _ in range(draw(st.integers(0, 6))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        content = content[: draw(st.integers(0, len(content)))]
    return bytes(content)


IMAGES = [encoded("PNG"), encoded("JPEG"), encoded("PNG", "P"), encoded("GIF"), encoded("TIFF"), encoded("WEBP")]
MASKS = [encoded("PNG", "1"), encoded("PNG", "L"), encoded("PNG", "1", (60, 40)), encoded("PNG", "RGBA")]


@bounded
@given(content=damaged(IMAGES), which=st.sampled_from(["coco", "coco_json", "balloon"]))
@pytest.mark.filterwarnings("ignore")
def test_images(content: bytes, which: str) -> None:
    with folder() as root:
        if which == "balloon":
            via = via_files.Files(root)
            via.json.write_text(json.dumps(via_files.document()))
            (via.folder / "a.png").write_bytes(content)
            check(lambda: build("balloon", "train", root=root))
            return
        files = coco_files.Files(root)
        files.json.write_text(json.dumps(coco_files.document()))
        (files.images / "7.png").write_bytes(content)
        if which == "coco":
            check(lambda: coco_files.read(files.json, files.images))
        else:
            check(lambda: build("coco_json", "train", files={"annotations": files.json, "images": root}, folds=2))


@bounded
@given(content=damaged(MASKS + IMAGES), of=st.sampled_from(["images/a.png", "segmentations/a_m_1.png"]))
@pytest.mark.filterwarnings("ignore")
def test_open_images(content: bytes, of: str) -> None:
    with folder() as root:
        for part, sources in (("images", IMAGES), ("segmentations", MASKS)):
            (root / "cat" / part).mkdir(parents=True)
            for name in "abc":
                file = f"{name}.png" if part == "images" else f"{name}_m_1.png"
                (root / "cat" / part / file).write_bytes(sources[0])
        (root / "cat" / of).write_bytes(content)
        check(lambda: build("open_images", "train", root=root, folds=2))
        check(lambda: build("open_images", "val", root=root, folds=2))


@bounded
@given(content=damaged(IMAGES + MASKS), part=st.sampled_from(["PNGImages/P1.png", "PedMasks/P1_mask.png"]))
@pytest.mark.filterwarnings("ignore")
def test_penn_fudan(content: bytes, part: str) -> None:
    with folder() as root:
        for name in ("PNGImages", "PedMasks"):
            (root / "PennFudanPed" / name).mkdir(parents=True)
        for i in range(6):
            (root / "PennFudanPed" / "PNGImages" / f"P{i}.png").write_bytes(IMAGES[0])
            (root / "PennFudanPed" / "PedMasks" / f"P{i}_mask.png").write_bytes(MASKS[0])
        (root / "PennFudanPed" / part).write_bytes(content)
        check(lambda: build("pennfudan", "train", root=root))
