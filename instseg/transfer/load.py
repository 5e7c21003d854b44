"""Weights of one Mask R-CNN as the first weights of another: what fits is loaded, and what doesn't is named."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from instseg.detector import MaskRCNN
from instseg.errors import UserError
from instseg.transfer.detectron2 import PER_CLASS
from instseg.transfer.sources import Source

PARTS = ("backbone.body", "backbone.fpn", "rpn", "roi_heads.box_head", "roi_heads.box_predictor")
"""The parts of the core, by torchvision's names."""
HEAD = "mask head"


class Report(NamedTuple):
    """What was loaded, layer by layer; a layer is what has its parameters together, such as one convolution."""

    loaded: list[str]  # layers that have their weights from the source
    new: dict[str, str]  # layers that keep their random first weights, and why
    unused: list[str]  # layers of the source that have no place

    @property
    def has_head(self) -> bool:
        """Whether some of the mask head was loaded."""
        return any(_part(layer) == HEAD for layer in self.loaded)

    def line(self) -> str:
        """All of it, in one line."""
        new = []
        for part in (*PARTS, HEAD):
            layers = [layer for layer in self.new if _part(layer) == part]
            if len(layers) > 2 and not any(_part(layer) == part for layer in self.loaded):
                reasons = list(dict.fromkeys(self.new[layer] for layer in layers))
                shown = ", ".join(reasons[:2]) + ", ..." * (len(reasons) > 2)
                new.append(f"{part}, all {len(layers)} layers ({shown})")
            else:
                new += [f"{layer} ({self.new[layer]})" for layer in layers]
        line = f"{len(self.loaded)} of {len(self.loaded) + len(self.new)} layers loaded"
        if new:
            line += f"; new: {'; '.join(new)}"
        if self.unused:
            more = f" and {len(self.unused) - 6} more" if len(self.unused) > 6 else ""
            line += f"; without a place here: {', '.join(self.unused[:6])}{more}"
        return line


def load(
    model: MaskRCNN, source: Source, classes: Sequence[str] | None = None, *, core: bool = True, head: bool = True
) -> Report:
    """Put weights into a model, layer by layer, where names and shapes fit.

    A mask head is loaded only if all its tensors bear the names of the source's. Where the source has the model's
    classes by name, but in another order or with gaps, they are brought into the model's order.

    Args:
        classes: the names of the model's classes, without the background.
        core, head: whether all but the mask head is loaded, and whether the mask head is.

    Raises:
        UserError: less than half of the backbone fits.
    """
    own, given = model.state_dict(), _ordered(source, classes)
    layers, given_layers = _layers(own), _layers(given)
    other_head = _other_head(layers, given_layers)
    asked = dict.fromkeys((*PARTS, ""), core) | {HEAD: head}
    report = Report([], {}, [])
    for layer, names in layers.items():
        if asked[_part(layer)]:
            if reason := (_part(layer) == HEAD and other_head) or _misfit(names, own, given):
                report.new[layer] = reason
            else:
                report.loaded.append(layer)
    for layer, names in given_layers.items():
        if asked[_part(layer)] and not (other_head and _part(layer) == HEAD):
            report.unused.extend([name for name in names if name not in own] if layer in layers else [layer])
    body = {layer for layer in layers if _part(layer) == PARTS[0]}
    fitting = len(body.intersection(report.loaded))
    if core and 2 * fitting < len(body):
        raise UserError(
            f"{source.name}: only {fitting} of the {len(body)} layers of this trunk fit; it has another trunk"
        )
    # a layer's counter of batches comes with it
    loaded = set(report.loaded)
    own |= {name: value for name, value in given.items() if name in own and name.rpartition(".")[0] in loaded}
    model.load_state_dict(own)
    return report


def _layers(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Layer -> the names of its tensors."""
    layers: dict[str, list[str]] = {}
    for name in state:
        # only some state dicts have this counter, and no result depends on it
        if not name.endswith(".num_batches_tracked"):
            layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return layers


def _part(layer: str) -> str:
    """The part of the model that a layer belongs to; empty for a layer that no model here has."""
    if layer.startswith(("roi_heads.mask_head", "roi_heads.mask_predictor", "mask_head")):
        return HEAD
    return next((part for part in PARTS if layer.startswith(f"{part}.")), "")


def _misfit(names: Sequence[str], own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """Why a layer can't be loaded, or None."""
    for name in names:
        if name not in given:
            absent = not any(other in given for other in names)
            return "not in it" if absent else f"no {name.rpartition('.')[2]} in it"
        if given[name].shape != own[name].shape:
            there, here = ("×".join(map(str, state[name].shape)) for state in (given, own))
            return f"{there} in it, {here} here"
    return None


def _other_head(layers: Mapping[str, list[str]], given: Mapping[str, list[str]]) -> str | None:
    """Why the model's mask head is not the source's, or None."""
    tensors, given_tensors = (
        {name for layer, names in state.items() if _part(layer) == HEAD for name in names} for state in (layers, given)
    )
    if tensors == given_tensors:
        return None
    return "another head's is in it" if given_tensors else "not in it"


def _ordered(source: Source, classes: Sequence[str] | None) -> dict[str, Tensor]:
    """The source's weights with the classes in the model's order, where both have the same classes."""
    if source.classes is None or classes is None or {*source.classes[1:], "N/A"} != {*classes, "N/A"}:
        return source.state
    rows = torch.tensor([0, *(source.classes.index(name) for name in classes)])
    state = dict(source.state)
    for name, value in state.items():
        if outputs := PER_CLASS.get(name.rpartition(".")[0]):
            state[name] = value.unflatten(0, (-1, outputs))[rows].flatten(0, 1)
    return state
