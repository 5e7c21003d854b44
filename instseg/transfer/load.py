"""Weights of one Mask R-CNN as the first weights of another: what fits is loaded, and what doesn't is named."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from instseg.detector import MaskRCNN
from instseg.errors import UserError
from instseg.transfer.sources import Source

PARTS = ("backbone.body", "backbone.fpn", "rpn", "roi_heads.box_head", "roi_heads.box_predictor")
"""Of the core, by torchvision's names."""
HEAD = "mask head"
HEADS = ("roi_heads.mask_head", "roi_heads.mask_predictor", "mask_head")
COUNTER = "num_batches_tracked"
"""Is in a state dict or not, and changes nothing."""
PER_CLASS = {
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}
"""Layers whose outputs are classes, and how many each has."""
NAMED = 6


class Report(NamedTuple):
    """What was loaded, layer by layer; a layer is what has its parameters together, such as one convolution."""

    loaded: list[str]
    """Layers that have their weights from the source."""
    new: dict[str, str]
    """Layers that stay as they were drawn, and why."""
    unused: list[str]
    """Layers of the source that have no place."""

    @property
    def has_head(self) -> bool:
        """Whether some of the mask head was loaded."""
        return any(_part(layer) == HEAD for layer in self.loaded)

    def line(self) -> str:
        """All of it, in one line."""
        line = f"{len(self.loaded)} of {len(self.loaded) + len(self.new)} layers loaded"
        if self.new:
            line += f"; new: {'; '.join(self._new())}"
        if self.unused:
            rest = len(self.unused) - NAMED
            more = f" and {rest} more" if rest > 0 else ""
            line += f"; without a place here: {', '.join(self.unused[:NAMED])}{more}"
        return line

    def _new(self) -> list[str]:
        told = []
        for part in (*PARTS, HEAD):
            layers = [layer for layer in self.new if _part(layer) == part]
            whole = not any(_part(layer) == part for layer in self.loaded)
            reasons = list(dict.fromkeys(self.new[layer] for layer in layers))
            if whole and len(layers) > 2:
                told.append(
                    f"{part}, all {len(layers)} layers ({', '.join(reasons[:2])}{', ...' * (len(reasons) > 2)})"
                )
            else:
                told += [f"{layer} ({self.new[layer]})" for layer in layers]
        return told


def load(
    model: MaskRCNN, source: Source, classes: Sequence[str] | None = None, *, core: bool = True, head: bool = True
) -> Report:
    """Put weights into a model, layer by layer, where names and shapes fit.

    Layers of a mask head are loaded if it is the source's head, by the names of all its tensors. Where the source has
    the model's classes by name, but in another order or with gaps, they are brought into the model's order.

    Args:
        model: with its first weights.
        source: what to load.
        classes: the names of the model's classes, without the background.
        core: whether all but the mask head is loaded.
        head: whether the mask head is.

    Raises:
        UserError: less than half of the backbone fits.
    """
    own = model.state_dict()
    given = _ordered(source, classes)
    theirs, ours = _layers(given), _layers(own)
    wanted = {layer: names for layer, names in ours.items() if (head if _part(layer) == HEAD else core)}
    other_head = _other_head(own, given)
    report = Report([], {}, _unused(ours, theirs, core=core, head=head and not other_head))
    for layer, names in wanted.items():
        why = other_head if _part(layer) == HEAD and other_head else _misfit(names, own, given)
        if why:
            report.new[layer] = why
        else:
            report.loaded.append(layer)
    if core:
        body = [layer for layer in ours if _part(layer) == PARTS[0]]
        fit = sum(layer in report.loaded for layer in body)
        if 2 * fit < len(body):
            raise UserError(
                f"{source.name}: only {fit} of the {len(body)} layers of this trunk fit; it has another trunk"
            )
    loaded = set(report.loaded)
    model.load_state_dict({**own, **{k: v for k, v in given.items() if k in own and k.rpartition(".")[0] in loaded}})
    return report


def _layers(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Layer -> its tensors."""
    layers: dict[str, list[str]] = {}
    for name in state:
        if not name.endswith(f".{COUNTER}"):
            layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return layers


def _part(layer: str) -> str:
    if layer.startswith(HEADS):
        return HEAD
    return next((part for part in PARTS if layer.startswith(f"{part}.")), "")


def _misfit(names: Sequence[str], own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """Why a layer can't be loaded, or None."""
    for name in names:
        if name not in given:
            return "not in it" if not any(one in given for one in names) else f"no {name.rpartition('.')[2]} in it"
        if given[name].shape != own[name].shape:
            there, here = ("×".join(map(str, one.shape)) for one in (given[name], own[name]))
            return f"{there} in it, {here} here"
    return None


def _unused(ours: Mapping[str, list[str]], theirs: Mapping[str, list[str]], *, core: bool, head: bool) -> list[str]:
    """Layers of the source, or single tensors of layers, that have no place."""
    unused = []
    for layer, names in theirs.items():
        if head if _part(layer) == HEAD else core:
            more = [name for name in names if name not in ours.get(layer, ())]
            unused += more if layer in ours else [layer]
    return unused


def _other_head(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """Why the mask head is none of the source's, or None."""
    ours, theirs = (
        {name for name in state if _part(name) == HEAD and not name.endswith(COUNTER)} for state in (own, given)
    )
    if ours == theirs:
        return None
    return "another head's is in it" if theirs else "not in it"


def _ordered(source: Source, classes: Sequence[str] | None) -> dict[str, Tensor]:
    """The source's weights with the classes in the model's order, where both have the same ones."""
    if source.classes is None or classes is None or {*source.classes[1:], "N/A"} != {*classes, "N/A"}:
        return source.state
    rows = torch.tensor([0, *(source.classes.index(name) for name in classes)])
    state = dict(source.state)
    for name, value in state.items():
        if each := PER_CLASS.get(name.rpartition(".")[0]):
            state[name] = value.unflatten(0, (-1, each))[rows].flatten(0, 1)
    return state
