"""Whoever brings a head whose first masks are decided is told."""

from pathlib import Path

import pytest
import torch
from composition import composed
from torch import nn

import heads
from experiments.runs import first_logits
from heads._blocks import initialise
from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs


class Loud(MaskHead):
    """A convolution whose logits begin far from 0."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.logits = nn.Conv2d(in_channels, num_classes, 1)
        nn.init.normal_(self.logits.weight, std=2.0)

    def forward(self, rois: RoIs) -> torch.Tensor:
        return self.logits(rois.align(14))


class Quiet(Loud):
    """The same, begun as the heads here are."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        initialise(self, self.logits)


def test_a_head_that_begins_decided_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    classes: dict[str, type[MaskHead]] = {"loud": Loud, "quiet": Quiet}
    monkeypatch.setattr(heads, "head_class", lambda name: classes[name])
    first_logits._first_loss.cache_clear()
    config = composed(f"results_dir={tmp_path}")
    before = torch.random.get_rng_state()
    for name in classes:
        config.head.variant, config.head.name, config.head.options = f"my_{name}", name, {}
        first_logits.warn(config, num_classes=2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "my_loud begins with a mask loss of about" in lines[0] and "ln 2" in lines[0]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", heads.names())
def test_the_heads_here_begin_undecided(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = composed()
    config.head.variant, config.head.name, config.head.options = name, name, {}
    first_logits.warn(config, num_classes=4)
    assert capsys.readouterr().err == ""
