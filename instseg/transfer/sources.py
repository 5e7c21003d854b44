"""Weights of Mask R-CNNs that were trained before: where they are, what is in them, by torchvision's names."""

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
import torchvision.models as tvm
from torch import Tensor
from torchvision.models import WeightsEnum
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from instseg.errors import UserError
from instseg.transfer import detectron2, pickles

CHECKPOINT = "checkpoint.pt"
TRAINED_AS: dict[str, Any] = {
    **detectron2.TRAINED_AS,
    "trunk.stride_in_1x1": False,
    "detector.roi_aligned": False,
    "detector.exact_anchors": False,
}
"""What torchvision's Mask R-CNNs were trained with."""

WITHOUT_EPSILON = MaskRCNN_ResNet50_FPN_Weights.COCO_V1
"""Trained when torchvision's frozen batch norms added nothing to the variance; today's add 1e-5."""

COCO = tuple(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
"""torchvision's 91 classes of COCO, the background first, with ``N/A`` where COCO left a number out."""


@dataclass(frozen=True)
class Source:
    """Weights that were trained before.

    Attributes:
        name: what was asked for.
        state: parameters and statistics by torchvision's names.
        trained_as: keys of the configuration that the weights are right for, and their values, where that is known.
        classes: the name of each class, the background first; None: not known.
    """

    name: str
    state: dict[str, Tensor]
    trained_as: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None


def find(given: str) -> Path | WeightsEnum:
    """Where weights come from.

    Args:
        given: a run's folder; a file; or the name of weights of torchvision's Mask R-CNN, such as
            ``MaskRCNN_ResNet50_FPN_Weights.COCO_V1``, or ``COCO_V1`` for these.

    Returns:
        A file, or torchvision's entry.

    Raises:
        UserError: there is neither.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        if (path / CHECKPOINT).is_file():
            return path / CHECKPOINT
        raise UserError(f"{given} has no {CHECKPOINT}; a run's folder has one once it has begun to train")
    if path.is_file():
        return path
    known = _named()
    if given in known:
        return known[given]
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(
        f"{given}: no such file or folder of a run, and no weights of torchvision's Mask R-CNN by that name; "
        f"{hint}known: {', '.join(known)}"
    )


def _named() -> dict[str, WeightsEnum]:
    kinds = [tvm.get_model_weights(name) for name in tvm.list_models(tvm.detection, include="maskrcnn_*")]
    named = {f"{kind.__name__}.{name}": entry for kind in kinds for name, entry in kind.__members__.items()}
    return {"COCO_V1": MaskRCNN_ResNet50_FPN_Weights.COCO_V1, **named}


@lru_cache
def identity(given: str) -> str:
    """What tells weights from others, wherever they lie: torchvision's name of theirs, or the SHA-256 of a file; of a
    checkpoint of this suite that of its weights, since it also holds the seconds that the training took. The same for
    as long as this process lives.

    Raises:
        UserError: as :func:`find`, or the file can't be read.
    """
    found = find(given)
    if isinstance(found, WeightsEnum):
        return str(found)
    if found.name != CHECKPOINT:
        return _file_digest(found)
    digest = hashlib.sha256()
    for name, value in sorted(_unpacked(_content(found), found).items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def short_identity(given: str) -> str:
    """:func:`identity`, a file's in eight digits, for tables."""
    found = identity(given)
    return found[:8] if re.fullmatch("[0-9a-f]{64}", found) else found


def label(given: str) -> str:
    """What to call weights where the folder they lie in is nobody's business."""
    found = find(given)
    if isinstance(found, WeightsEnum):
        return str(found)
    return f"{found.parent.name if found.name == CHECKPOINT else found.name} {short_identity(given)}"


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from error


def read(given: str) -> Source:
    """The weights that :func:`find` finds, fetched from torchvision where needed.

    Raises:
        UserError: as :func:`find`, or they can't be fetched, or the file holds no Mask R-CNN that is known here.
    """
    found = find(given)
    if isinstance(found, WeightsEnum):
        source = _of_torchvision(given, _fetched(found), found.meta["categories"])
        return replace(source, state=_with_epsilon(source.state)) if found is WITHOUT_EPSILON else source
    content = _content(found)
    state = _unpacked(content, found)
    try:
        # what instseg.training.checkpoint writes
        return Source(given, state) if {"iteration", "seconds"} <= content.keys() else _of_file(given, state, found)
    except UserError as error:
        raise UserError(f"{found}: {error}") from error


def _of_file(given: str, state: dict[str, Tensor], path: Path) -> Source:
    if detectron2.is_detectron2(state) or detectron2.is_caffe2(state):
        convert = detectron2.converted if detectron2.is_detectron2(state) else detectron2.from_caffe2
        names = tuple(name for name in COCO if name != "N/A")
        source = Source(given, convert(state), dict(detectron2.TRAINED_AS))
        return replace(source, classes=names if _classes(source.state) == len(names) else None)
    if any(name.startswith("backbone.body.") for name in state):
        source = _of_torchvision(given, state, COCO)
        # the name of torchvision's file ends with the first digits of its content's SHA-256
        prefix = WITHOUT_EPSILON.url.rpartition("-")[2].removesuffix(".pth")
        return replace(source, state=_with_epsilon(source.state)) if _file_digest(path).startswith(prefix) else source
    if "layer1.0.conv1.weight" in state:
        raise UserError("the weights of a classifier; give them as trunk.weights=FILE")
    if "stem.conv1.weight" in state:
        raise UserError("a classifier of torchvision's in detectron2's form; use trunk.weights=IMAGENET1K_V1")
    some = ", ".join(list(state)[:3])
    raise UserError(f"no Mask R-CNN of this suite, torchvision or detectron2; its parameters are called {some}, ...")


def _of_torchvision(given: str, state: dict[str, Tensor], classes: Any) -> Source:
    state = {_of_today(name): value for name, value in state.items()}
    return Source(given, state, TRAINED_AS, tuple(classes) if _classes(state) == len(classes) else None)


def _of_today(name: str) -> str:
    """torchvision's names of 2019, which its checkpoint still has, as they are now."""
    name = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)
    name = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", name)
    first = re.match(r"roi_heads\.mask_head\.mask_fcn(\d+)\.", name)
    return f"roi_heads.mask_head.{int(first[1]) - 1}.0.{name[first.end() :]}" if first else name


def _with_epsilon(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch norms that add 1e-5 to the variance, and give what these give without."""
    state = dict(state)
    for name, variance in state.items():
        if name.endswith(".running_var"):
            scale = name.replace(".running_var", ".weight")
            # some channels' variance is so small that float32 would not do
            wide = variance.double()
            state[scale] = (state[scale].double() * ((wide + detectron2.EPSILON) / wide).sqrt()).to(variance.dtype)
    return state


def _fetched(entry: WeightsEnum) -> dict[str, Tensor]:
    try:
        return entry.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{entry}: cannot fetch {entry.url} ({reason}); put that file into "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'} or give its path"
        ) from error


def _content(path: Path) -> Any:
    if path.suffix == ".pkl":
        return pickles.read(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own words are a page about its safety
        raise UserError(f"{path} is cut off or no file of weights ({type(error).__name__})") from error


def _unpacked(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights in what a file holds: all of it, or its ``model`` or ``blobs``."""
    if isinstance(content, Mapping):
        for key in ("model", "blobs"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
        state = {name: torch.tensor(v) if isinstance(v, np.ndarray) else v for name, v in content.items()}
        state = {name: v for name, v in state.items() if isinstance(name, str) and isinstance(v, Tensor)}
        if state:
            return state
    raise UserError(f"{path} holds no weights")


def _classes(state: Mapping[str, Tensor]) -> int:
    """How many classes a Mask R-CNN has, the background included; 0: it has no box branch."""
    return len(state.get("roi_heads.box_predictor.cls_score.weight", ()))
