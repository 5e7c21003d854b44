"""Weights of Mask R-CNNs that were trained before: where they are, what is in them, by torchvision's names."""

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
TRAINED_AS: dict[str, Any] = detectron2.TRAINED_AS | dict.fromkeys(
    ("trunk.stride_in_1x1", "detector.roi_aligned", "detector.exact_anchors"), False
)
"""What torchvision's Mask R-CNNs were trained with."""

WITHOUT_EPSILON = MaskRCNN_ResNet50_FPN_Weights.COCO_V1
"""Trained when torchvision's frozen batch norms added nothing to the variance; now they add 1e-5."""

COCO = tuple(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
"""torchvision's 91 classes of COCO, the background first, with ``N/A`` where COCO left a number out."""


@dataclass(frozen=True)
class Source:
    """Weights of a Mask R-CNN."""

    name: str  # as the user gave it
    state: dict[str, Tensor]  # parameters and statistics by torchvision's names
    # keys of the configuration that the weights are right for, and their values, where that is known
    trained_as: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None  # the name of each class, the background first; None: not known


def find(given: str) -> Path | WeightsEnum:
    """The file or torchvision's entry that weights come from: of a run's folder; a file; or the name of weights of
    torchvision's Mask R-CNN, such as ``MaskRCNN_ResNet50_FPN_Weights.COCO_V1``, or ``COCO_V1`` for these.

    Raises:
        UserError: there is no such thing.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        if (path / CHECKPOINT).is_file():
            return path / CHECKPOINT
        raise UserError(f"{given} has no {CHECKPOINT}; a run's folder has one once it has begun to train")
    if path.is_file():
        return path
    kinds = [tvm.get_model_weights(name) for name in tvm.list_models(tvm.detection, include="maskrcnn_*")]
    known = {"COCO_V1": MaskRCNN_ResNet50_FPN_Weights.COCO_V1}
    known |= {f"{kind.__name__}.{name}": entry for kind in kinds for name, entry in kind.__members__.items()}
    if given in known:
        return known[given]
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(
        f"{given}: no such file or folder of a run, and no weights of torchvision's Mask R-CNN by that name; "
        f"{hint}known: {', '.join(known)}"
    )


@lru_cache
def identity(given: str) -> str:
    """What identifies weights wherever they lie: torchvision's name for them, or the SHA-256 of a file's content.

    Of a checkpoint of this suite it is the SHA-256 of the weights alone, since the file also holds how long the
    training took. The process keeps the answer.

    Raises:
        UserError: as :func:`find`, or the file can't be read.
    """
    place = find(given)
    if isinstance(place, WeightsEnum):
        return str(place)
    if place.name != CHECKPOINT:
        return _file_digest(place)
    digest = hashlib.sha256()
    for name, value in sorted(_weights_in(_load(place), place).items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def short_identity(given: str) -> str:
    """:func:`identity`, a file's cut to eight digits, for tables."""
    full = identity(given)
    return full[:8] if re.fullmatch("[0-9a-f]{64}", full) else full


def label(given: str) -> str:
    """What to call weights without saying in which folder they lie."""
    place = find(given)
    if isinstance(place, WeightsEnum):
        return str(place)
    return f"{place.parent.name if place.name == CHECKPOINT else place.name} {short_identity(given)}"


def read(given: str) -> Source:
    """The weights that :func:`find` finds, fetched from torchvision where needed.

    Raises:
        UserError: as :func:`find`, or they can't be fetched, or the file holds no Mask R-CNN that is known here.
    """
    place = find(given)
    if isinstance(place, WeightsEnum):
        return _from_torchvision(given, _fetch(place), place.meta["categories"], place is WITHOUT_EPSILON)
    content = _load(place)
    state = _weights_in(content, place)
    try:
        # the keys that instseg.training.checkpoint writes
        return Source(given, state) if {"iteration", "seconds"} <= content.keys() else _from_file(given, state, place)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def _from_file(given: str, state: dict[str, Tensor], path: Path) -> Source:
    if any(name.startswith("res2_0_branch2a_") for name in state):
        state = detectron2.from_caffe2(state)
    if any(name.startswith("backbone.bottom_up.") for name in state):
        classes = [name for name in COCO if name != "N/A"]
        return _source(given, detectron2.converted(state), detectron2.TRAINED_AS, classes)
    if any(name.startswith("backbone.body.") for name in state):
        # the name of torchvision's file ends with the first digits of its content's SHA-256
        prefix = WITHOUT_EPSILON.url.rpartition("-")[2].removesuffix(".pth")
        return _from_torchvision(given, state, COCO, _file_digest(path).startswith(prefix))
    if "layer1.0.conv1.weight" in state:
        raise UserError("the weights of a classifier; give them as trunk.weights=FILE")
    if "stem.conv1.weight" in state:
        raise UserError("a classifier of torchvision's in detectron2's form; use trunk.weights=IMAGENET1K_V1")
    names = ", ".join(list(state)[:3])
    raise UserError(f"no Mask R-CNN of this suite, torchvision or detectron2; its parameters are called {names}, ...")


def _from_torchvision(given: str, state: dict[str, Tensor], classes: Sequence[str], without_epsilon: bool) -> Source:
    state = {_current_name(name): value for name, value in state.items()}
    if without_epsilon:
        _add_epsilon(state)
    return _source(given, state, TRAINED_AS, classes)


def _source(given: str, state: dict[str, Tensor], trained_as: dict[str, Any], classes: Sequence[str]) -> Source:
    """A source that has these classes, if its box branch has as many."""
    count = len(state.get("roi_heads.box_predictor.cls_score.weight", ()))
    return Source(given, state, trained_as, tuple(classes) if count == len(classes) else None)


def _current_name(name: str) -> str:
    """torchvision's present name of a parameter; its checkpoint still has those of 2019."""
    name = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)
    name = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", name)
    layer = re.match(r"roi_heads\.mask_head\.mask_fcn(\d+)\.", name)
    return f"roi_heads.mask_head.{int(layer[1]) - 1}.0.{name[layer.end() :]}" if layer else name


def _add_epsilon(state: dict[str, Tensor]) -> None:
    """Scale batch norms so that, with 1e-5 added to the variance, they give what they gave without."""
    for name, variance in state.items():
        if name.endswith(".running_var"):
            scale = name.replace(".running_var", ".weight")
            # in doubles, since some channels have a variance below float32's normal range
            wide = variance.double()
            state[scale] = (state[scale].double() * ((wide + detectron2.EPSILON) / wide).sqrt()).to(variance.dtype)


def _fetch(entry: WeightsEnum) -> dict[str, Tensor]:
    try:
        return entry.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{entry}: cannot fetch {entry.url} ({reason}); put that file into "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'} or give its path"
        ) from error


def _load(path: Path) -> Any:
    if path.suffix == ".pkl":
        return pickles.read(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # torch raises many kinds, and explains its safety in a page of text
    except Exception as error:
        raise UserError(f"{path} is cut off or no file of weights ({type(error).__name__})") from error


def _weights_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights in what a file holds: all of it, or its ``model`` or ``blobs``."""
    if isinstance(content, Mapping):
        for key in ("model", "blobs"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
        tensors = {name: torch.tensor(v) if isinstance(v, np.ndarray) else v for name, v in content.items()}
        if state := {name: v for name, v in tensors.items() if isinstance(name, str) and isinstance(v, Tensor)}:
            return state
    raise UserError(f"{path} holds no weights")


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from error
