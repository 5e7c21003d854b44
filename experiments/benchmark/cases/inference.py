"""Images to detections with masks, in their boxes, as RLE and pasted, and the trunk's share of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import nn

from experiments.benchmark.calls import inference
from experiments.benchmark.contest import OURS, TRUNK, Entry, make_peers, time_entries, trunk_input
from experiments.benchmark.outcome import BenchmarkResult
from experiments.benchmark.reference_models import add_rle
from experiments.benchmark.setup import Setup


def measure(setup: Setup) -> BenchmarkResult:
    """Our model with RLE and with masks in boxes, each peer with its own masks and with RLE, and the trunk alone."""
    ours, images = setup.model(), setup.images
    precision = setup.config.schedule.precision

    def detector(
        model: nn.Module, detect: Callable[[], Any], stages: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> Entry:
        call = inference(model, detect, setup.device, precision)
        counts = [len(detections["boxes"]) for detections in call()]
        return Entry(call, [model], stages, sum(counts) / len(counts))

    peers, absent = make_peers(setup, ours)
    entries = {
        OURS: detector(ours, lambda: ours.detect_rle(images)),
        f"{OURS}, masks in boxes": detector(ours, lambda: ours.detect(images)),
    }
    for name, peer in peers.items():
        detect = partial(peer.model, images)
        entries[name] = detector(peer.model, detect, peer.stages)
        entries[f"{name} + RLE"] = detector(peer.model, partial(lambda call: add_rle(call()), detect), peer.stages)
    trunk_call = inference(ours.backbone, partial(ours.backbone, trunk_input(setup)), setup.device, precision)
    entries[f"{TRUNK}, forward"] = Entry(trunk_call, [ours.backbone], stages=None)
    result = time_entries(setup, entries, absent)
    result.notes.append(
        f"{OURS}: detections with run-length encoded masks; the limit is "
        f"{setup.config.detector.box_detections_per_img} detections an image."
    )
    return result
