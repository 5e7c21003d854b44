"""Images to detections with masks: in their boxes, as RLE, or pasted into images."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmark.contest import OURS, TRUNK, Entry, found_peers, parameters_of, time_entries, trunk_input
from experiments.benchmark.outcome import BenchmarkResult
from experiments.benchmark.reference_models import Peer
from experiments.benchmark.setup import Setup
from instseg.device import autocast


def measure(setup: Setup) -> BenchmarkResult:
    """Ours with RLE, ours with masks in boxes, each peer as it is and with RLE, and the trunk alone."""
    ours = setup.model()
    found, absent = found_peers(setup, ours)
    entries = {
        OURS: _entry(setup, ours, lambda: ours.detect_rle(setup.images)),
        f"{OURS}, masks in boxes": _entry(setup, ours, lambda: ours.detect(setup.images)),
    }
    for name, peer in found.items():
        entries[name] = _entry(setup, peer.model, partial(peer.detect, setup.images), peer.stages)
        entries[f"{name} + RLE"] = _entry(setup, peer.model, partial(_with_rle, peer, setup.images), peer.stages)
    batch = trunk_input(setup)
    trunk = ours.backbone
    entries[f"{TRUNK}, forward"] = Entry(
        _inferring(setup, trunk, lambda: trunk(batch)), lambda: parameters_of(trunk), stages=None
    )
    outcome = time_entries(setup, entries, absent)
    outcome.notes.append(
        f"{OURS}: detections with run-length encoded masks; the limit is "
        f"{setup.config.detector.box_detections_per_img} detections an image."
    )
    return outcome


def _with_rle(peer: Peer, images: list[Tensor]) -> Any:
    return peer.encode(peer.detect(images))


def _entry(
    setup: Setup,
    model: nn.Module,
    detect: Callable[[], Any],
    stages: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Entry:
    call = _inferring(setup, model, detect)
    found = call()
    return Entry(
        call,
        lambda: parameters_of(model),
        stages=stages,
        detections=sum(len(one["boxes"]) for one in found) / len(found),
    )


def _inferring(setup: Setup, model: nn.Module, call: Callable[[], Any]) -> Callable[[], Any]:
    def work() -> Any:
        model.eval()
        with torch.inference_mode(), autocast(setup.device, setup.config.schedule.precision):
            return call()

    return work
