"""Images to detections with masks, in their boxes, as RLE and pasted, and the trunk's share of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import nn

from experiments.benchmark import calls
from experiments.benchmark.contest import OURS, TRUNK, Entry, make_peers, time_entries, trunk_input
from experiments.benchmark.outcome import BenchmarkResult
from experiments.benchmark.setup import Setup


def measure(setup: Setup) -> BenchmarkResult:
    """Our model with RLE and with masks in boxes, each peer with its own masks and with RLE, and the trunk alone."""
    ours, images = setup.model(), setup.images
    peers, absent = make_peers(setup, ours)
    entries = {
        OURS: _entry(setup, ours, lambda: ours.detect_rle(images)),
        f"{OURS}, masks in boxes": _entry(setup, ours, lambda: ours.detect(images)),
    }
    for name, peer in peers.items():
        detect = partial(peer.detect, images)
        entries[name] = _entry(setup, peer.model, detect, peer.stages)
        with_rle = partial(lambda peer, detect: peer.encode(detect()), peer, detect)
        entries[f"{name} + RLE"] = _entry(setup, peer.model, with_rle, peer.stages)
    batch, trunk = trunk_input(setup), ours.backbone
    entries[f"{TRUNK}, forward"] = Entry(
        _inference(setup, trunk, lambda: trunk(batch)), lambda: [trunk.state_dict()], stages=None
    )
    result = time_entries(setup, entries, absent)
    result.notes.append(
        f"{OURS}: detections with run-length encoded masks; the limit is "
        f"{setup.config.detector.box_detections_per_img} detections an image."
    )
    return result


def _entry(
    setup: Setup,
    model: nn.Module,
    detect: Callable[[], Any],
    stages: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Entry:
    call = _inference(setup, model, detect)
    counts = [len(detections["boxes"]) for detections in call()]
    return Entry(call, lambda: [model.state_dict()], stages=stages, detections=sum(counts) / len(counts))


def _inference(setup: Setup, model: nn.Module, call: Callable[[], Any]) -> Callable[[], Any]:
    return calls.inference(model, call, setup.device, setup.config.schedule.precision)
