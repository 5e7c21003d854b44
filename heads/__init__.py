"""Mask heads, one a file: ``heads/NAME.py`` defines the :class:`MaskHead` that is built as ``NAME``.

Files whose names begin with ``_`` hold layers that several heads share.

Every head is called with ``in_channels`` of the pyramid's maps and ``num_classes``, the channels of its logits (1
where a single mask serves all classes). Its keyword-only arguments are its options. Most heads have these:

- ``width``: channels of its layers; None: as many as the pyramid's maps have, or the share of them that the head names.
- ``norm``: normalisation behind its 3×3 convolutions: ``none``, ``group`` or ``batch``.
- ``roi_size``: height and width M of the grid that RoIAlign lays over each box.
- ``output_size``: height and width of the predicted masks: ``roi_size`` times 1, 2, 4 or so on.

Shapes in the docstrings: R RoIs, C ``in_channels``, K ``num_classes``. Costs are those of the defaults with 256
channels and COCO's 81 classes, per RoI of 100 in an image of 800 × 1066 pixels, RoIAlign left out.
"""

import math
from types import NoneType
from typing import Any, get_args, get_type_hints

from instseg import plugins
from instseg.detector.mask_head import MaskHead
from instseg.errors import UserError, unknown_name

COMMON = ("class_agnostic", "loss_weight", "dice_weight", "boundary_weight", "lr_mult", "decay_mult")
"""Options of :func:`build` that every head has."""


def names() -> list[str]:
    """Names of all heads."""
    return plugins.names(__name__)


def head_class(name: str) -> type[MaskHead]:
    """The class of a head; see :func:`instseg.plugins.load`."""
    return plugins.load(__name__, name, MaskHead, "head")


def options(name: str) -> dict[str, Any]:
    """The options of a head and their defaults."""
    return plugins.options(head_class(name))


def build(
    name: str,
    in_channels: int,
    num_classes: int,
    *,
    class_agnostic: bool = False,
    loss_weight: float = 1.0,
    dice_weight: float = 0.0,
    boundary_weight: float = 0.0,
    lr_mult: float = 1.0,
    decay_mult: float = 1.0,
    **head_options: Any,
) -> MaskHead:
    """A mask head by name.

    Args:
        num_classes: the background included.
        class_agnostic: predict a single mask for all classes instead of one for each class.
        loss_weight, dice_weight, boundary_weight: of its losses together, and of the losses on shape among them; see
            :meth:`MaskHead.losses`.
        lr_mult, decay_mult: its learning rate and weight decay, in multiples of the schedule's.
        head_options: see :func:`options`.

    Raises:
        UserError: there is no such head or option, or the head can't take an option's value.
    """
    known = options(name)
    hints = get_type_hints(head_class(name).__init__)
    for option, value in head_options.items():
        if option not in known:
            raise unknown_name(f"option of head {name}:", option, [*known, *COMMON])
        if not _has_type(value, hints.get(option, Any)):
            raise UserError(f"option of head {name}: {option}={value!r} is no {_type_name(hints[option])}")
    weights = {"loss_weight": loss_weight, "dice_weight": dice_weight, "boundary_weight": boundary_weight}
    numbers = {**weights, "lr_mult": lr_mult, "decay_mult": decay_mult}
    for key, value in numbers.items():
        if not 0 <= value < math.inf:
            raise UserError(f"head.{key}={value}: must be 0 or more")
    head = head_class(name)(in_channels, 1 if class_agnostic else num_classes, **head_options)
    for key, value in numbers.items():
        setattr(head, key, value)
    return head


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value has a plain type or one of a union of plain types; True for any other hint."""
    types = get_args(hint) or (hint,)
    if not all(isinstance(t, type) for t in types):
        return True
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) or (isinstance(value, int) and float in types)


def _type_name(hint: Any) -> str:
    words = {int: "whole number", float: "number", str: "name", bool: "true or false", NoneType: "null"}
    return " or ".join(words.get(t, str(t)) for t in get_args(hint) or (hint,))
