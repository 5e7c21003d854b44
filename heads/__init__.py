"""Mask heads, one a file: ``heads/NAME.py`` holds the one :class:`MaskHead` that is built as ``NAME``.

Files whose name begins with ``_`` hold parts that several heads share.
"""

import importlib
import inspect
import math
import pkgutil
from types import NoneType
from typing import Any, get_args, get_type_hints

from instseg.detector.mask_head import MaskHead
from instseg.errors import UserError, unknown_name

COMMON = ("class_agnostic", "dice_weight", "boundary_weight")
"""What :func:`build` takes for every head."""


def names() -> list[str]:
    """Every head that :func:`build` knows."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def head_class(name: str) -> type[MaskHead]:
    """The class of a head.

    Raises:
        UserError: there is no such head.
        TypeError: its file does not define exactly one head.
    """
    if name not in names():
        raise unknown_name("head", name, names())
    module = importlib.import_module(f"{__name__}.{name}")
    defined = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, MaskHead) and value.__module__ == module.__name__
    ]
    if len(defined) != 1:
        raise TypeError(f"heads/{name}.py must define one MaskHead, and defines {len(defined)}")
    return defined[0]


def options(name: str) -> dict[str, Any]:
    """The options of a head and their defaults."""
    parameters = inspect.signature(head_class(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def build(
    name: str,
    in_channels: int,
    num_classes: int,
    *,
    class_agnostic: bool = False,
    dice_weight: float = 0.0,
    boundary_weight: float = 0.0,
    **chosen: Any,
) -> MaskHead:
    """A mask head by name.

    Args:
        name: one of :func:`names`.
        in_channels: channels of the pyramid's maps.
        num_classes: the background included.
        class_agnostic: predict one mask that serves every class, instead of one a class.
        dice_weight, boundary_weight: of the losses on shape; see :meth:`MaskHead.losses`.
        chosen: the head's options; see :func:`options`.

    Raises:
        UserError: an unknown head or option, or an option's value that the head can't take.
    """
    known = options(name)
    wanted = get_type_hints(head_class(name).__init__)
    for option, value in chosen.items():
        if option not in known:
            raise unknown_name(f"option of head {name}:", option, [*known, *COMMON])
        if not _fits(value, wanted.get(option, Any)):
            raise UserError(f"option of head {name}: {option}={value!r} is no {_said(wanted[option])}")
    for weight, value in (("dice_weight", dice_weight), ("boundary_weight", boundary_weight)):
        if not 0 <= value < math.inf:
            raise UserError(f"head.{weight}={value}: must be 0 or more")
    head = head_class(name)(in_channels, 1 if class_agnostic else num_classes, **chosen)
    head.dice_weight, head.boundary_weight = dice_weight, boundary_weight
    return head


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a plain type, or of one of several; other hints are left to the head."""
    kinds = get_args(hint) or (hint,)
    if not all(isinstance(kind, type) for kind in kinds):
        return True
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)


def _said(hint: Any) -> str:
    names = {int: "whole number", float: "number", str: "name", bool: "true or false", NoneType: "null"}
    return " or ".join(names.get(kind, str(kind)) for kind in get_args(hint) or (hint,))
