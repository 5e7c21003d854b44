"""Mask R-CNN's own mask head."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from heads._blocks import Doubling, Pointwise, Predictor, conv, doublings, initialise
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs
from instseg.errors import UserError


class FCN(MaskHead):
    """Four 3×3 convolutions, one 2×2 deconvolution, a 1×1 convolution: 14×14 -> 28×28.

    He et al., *Mask R-CNN*, ICCV 2017, figure 4 (right). On a pyramid of 256 channels the parameters are those of
    torchvision's ``maskrcnn_resnet50_fpn``.

    Args:
        in_channels: channels of the pyramid's maps.
        num_classes: output channels.
        convs: number of 3×3 convolutions.
        width: channels of each layer; None: as many as the pyramid's.
        norm: ``none``, ``group`` or ``batch``.
        roi_size: height and width of the RoIs' grid.
        output_size: height and width of the masks: ``roi_size`` times 1, 2, 4 or so on.
    """

    torchvision_names = {"convs.": "mask_head.", "predictor.": "mask_predictor."}  # noqa: RUF012

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        convs: int = 4,
        width: int | None = None,
        norm: str = "none",
        roi_size: int = 14,
        output_size: int = 28,
    ) -> None:
        super().__init__()
        width = in_channels if width is None else width
        if convs < 1 or width < 1:
            raise UserError(f"head.options: convs={convs} and width={width} must be 1 or more")
        self.roi_size = roi_size
        self.convs = nn.Sequential(*(conv(width if i else in_channels, width, norm) for i in range(convs)))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(doublings(roi_size, output_size)):
            # the first deconvolution bears torchvision's name
            layers[f"conv{5 + i}_mask"] = Doubling(width, width)
            layers["relu" if i == 0 else f"relu{i + 1}"] = nn.ReLU()
        layers["mask_fcn_logits"] = Pointwise(width, num_classes)
        self.predictor = Predictor(layers)
        initialise(self)
        self.register_load_state_dict_pre_hook(_rename_first_release)

    def forward(self, rois: RoIs) -> Tensor:
        return self.predictor(self.convs(rois.align(self.roi_size)))


def _rename_first_release(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """torchvision's first release named the convolutions ``mask_fcn1`` and so on; its checkpoints still do."""
    for key in list(state):
        if key.startswith(f"{prefix}convs.mask_fcn"):
            number, kind = key.removeprefix(f"{prefix}convs.mask_fcn").split(".")
            state[f"{prefix}convs.{int(number) - 1}.0.{kind}"] = state.pop(key)
