"""Mask R-CNN's own mask head."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from heads._blocks import Doubling, Pointwise, Predictor, check_at_least, conv_stack, doublings, initialise
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs


class FCN(MaskHead):
    """Four 3×3 convolutions, one 2×2 deconvolution, a 1×1 convolution.

    He et al., *Mask R-CNN*, ICCV 2017, figure 4 (right): (R, C, 14, 14) -> (R, C, 28, 28) -> (R, K, 28, 28). On a
    pyramid of 256 channels the parameters are those of torchvision's ``maskrcnn_resnet50_fpn``.

    Cost: 2.6 M parameters, 1.06 GFLOP.
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
        check_at_least(1, convs=convs, width=width)
        self.roi_size = roi_size
        self.convs = conv_stack(in_channels, width, norm, convs)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(doublings(roi_size, output_size)):
            # the first deconvolution has torchvision's name
            layers[f"conv{5 + i}_mask"] = Doubling(width, width)
            layers["relu" if i == 0 else f"relu{i + 1}"] = nn.ReLU()
        layers["mask_fcn_logits"] = Pointwise(width, num_classes)
        self.predictor = Predictor(layers)
        initialise(self, self.predictor[-1])
        self.register_load_state_dict_pre_hook(_rename_first_release)

    def forward(self, rois: RoIs) -> Tensor:
        return self.predictor(self.convs(rois.align(self.roi_size)))


def _rename_first_release(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename ``mask_fcn1`` and so on, the convolutions' names in the checkpoints of torchvision's first release."""
    for key in list(state):
        if key.startswith(f"{prefix}convs.mask_fcn"):
            number, kind = key.removeprefix(f"{prefix}convs.mask_fcn").split(".")
            state[f"{prefix}convs.{int(number) - 1}.0.{kind}"] = state.pop(key)
