"""How fast, how large: times in alternating rounds, stages, peak memory, and FLOPs by torch's own counter."""

import math
import os
import statistics
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

# public modules have no hook on every operator and no leaves of nested containers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs

STAGE = "stage/"
"""Prefix of the names of the ``torch.profiler.record_function`` ranges that :func:`stages` reports."""
REST = "rest"


def alternating(
    work: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    device: torch.device,
    least: float = 0.1,
    budget: float = 60.0,
) -> dict[str, list[float]]:
    """Seconds per call of several functions, measured in turns, so that other load on the machine affects all alike.

    Args:
        work: name -> what to time; called once or twice beforehand to warm up.
        rounds: how often each is measured; fewer, but at least 3, where that would take longer than the budget.
        device: waited for before the clock is read.
        least: seconds that a measurement lasts at least; short work is repeated in it.
        budget: seconds that all measurements together should not exceed; may be infinite.

    Returns:
        name -> one time a round.
    """

    def measure(call: Callable[[], Any], repeats: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        _wait(device)
        return (time.perf_counter() - began) / repeats

    estimates = {name: measure(call, 1) for name, call in work.items()}
    # the first call is the slowest: short work is measured again to know how often to repeat it
    estimates = {name: min(took, measure(work[name], 1)) if took < 1 else took for name, took in estimates.items()}
    repeats = {name: math.ceil(least / seconds) for name, seconds in estimates.items()}
    per_round = sum(estimates[name] * repeats[name] for name in work)
    rounds = min(rounds, max(3, int(min(rounds, budget / per_round))))
    times: dict[str, list[float]] = {name: [] for name in work}
    for i in range(rounds):
        # every other round backwards, so that the same work does not always come before
        for name in list(work)[:: 1 if i % 2 == 0 else -1]:
            times[name].append(measure(work[name], repeats[name]))
    return times


def spread(values: list[float]) -> dict[str, float]:
    """``median``, and ``low`` and ``high``, the lower and upper quartile."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median, "low": low, "high": high}


def stages(call: Callable[[], Any], device: torch.device, repeats: int = 3) -> dict[str, float]:
    """What share of a call's time each of its stages takes.

    A stage is a ``torch.profiler.record_function`` range named ``stage/NAME``; the time of a range inside another is
    the inner one's alone. On the CPU it is wall time; on a GPU the time of the kernels that were launched while the
    range was open, by any thread, so that a backward pass counts where it was called.

    Returns:
        stage -> share, the longest first, and ``rest`` for time outside stages; they add up to 1. Empty where the
        profiler may not read a GPU's counters.
    """
    # or the profiler prints its settings
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(repeats):
            with record_function(STAGE + REST):
                call()
        _wait(device)
    times = stage_times(list(profiler.events() or []), of_kernels=cuda)
    whole = sum(times.values())
    if not whole:
        return {}
    return {name: times[name] / whole for name in sorted(times, key=lambda name: (name == REST, -times[name]))}


def stage_times(events: list[FunctionEvent], *, of_kernels: bool) -> dict[str, float]:
    """Microseconds in each stage, without the stages inside it.

    Args:
        events: the profiler's, of the CPU and a GPU.
        of_kernels: count a GPU's kernels, each where it was launched, in place of wall time.
    """
    # a GPU also reports every range as if it were a kernel
    ranges = {event.name for event in events if event.is_user_annotation or event.name.startswith(STAGE)}
    times: dict[str, float] = defaultdict(float)
    opened: list[tuple[str, float]] = []  # stages that have begun, the innermost last, and their ends
    on_cpu = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    for event in sorted(on_cpu, key=lambda event: (event.time_range.start, -event.time_range.end)):
        start, end = event.time_range.start, event.time_range.end
        while opened and opened[-1][1] <= start:
            opened.pop()
        if of_kernels and (took := sum(kernel.duration for kernel in event.kernels if kernel.name not in ranges)):
            times[opened[-1][0] if opened else REST] += took
        if event.name.startswith(STAGE):
            stage = event.name.removeprefix(STAGE)
            if not of_kernels:
                times[stage] += end - start
                if opened:
                    times[opened[-1][0]] -= end - start
            opened.append((stage, end))
    return times


def flops(call: Callable[[], Any]) -> int:
    """Floating-point operations of a call by ``torch.utils.flop_counter``: those of convolutions and matrix products,
    two for a multiply-add, without interpolation, normalisation, and RoIAlign unless it is done as a matrix product.

    Compiled code runs uncompiled meanwhile, since the counter does not look into compiled graphs."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def peak_memory(call: Callable[[], Any], device: torch.device, held: int = 0) -> int:
    """Most bytes of tensors alive at once during a call.

    Tensors from before the call don't count; the caller gives those that should as ``held`` bytes. On a GPU the
    number is the allocator's. On the CPU every storage that an operator makes counts until it is freed, and scratch
    memory inside operators is not included.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before + held
    with _Alive() as alive:
        call()
    return alive.peak + held


def bytes_of(tensors: Any) -> int:
    """Bytes of the tensors in nested lists and dicts."""
    return sum(t.numel() * t.element_size() for t in tree_leaves(tensors) if isinstance(t, Tensor))


def random_rois(channels: int, size: tuple[int, int], count: int, device: torch.device) -> Callable[[], RoIs]:
    """A function that makes ``count`` RoIs over one random pyramid, of an image of (H, W) pixels; each call gives new
    ones, which remember no RoIAlign. Their sides are between an eighth of the image's and all of it."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    pyramid = {
        level: torch.rand(1, channels, -(-height // 2**level), -(-width // 2**level), generator=generator).to(device)
        for level in range(2, 7)
    }
    extent = torch.tensor([width, height])
    sides = extent * (1 / 8 + 7 / 8 * torch.rand(count, 2, generator=generator))
    corners = (extent - sides) * torch.rand(count, 2, generator=generator)
    boxes = torch.cat([corners, corners + sides], dim=1).to(device)
    return lambda: RoIs(pyramid, [boxes])


def head_flops(head: MaskHead, rois: Callable[[], RoIs]) -> float:
    """FLOPs that a mask head predicts one RoI's mask with, RoIAlign left out."""
    regions = rois()
    labels = regions.boxes[0].new_ones(len(regions), dtype=torch.int64)
    with torch.inference_mode():
        # RoIs remember what was aligned, so the second call does not count it
        head.predict(regions, labels)
        return flops(lambda: head.predict(regions, labels)) / len(regions)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Alive(TorchDispatchMode):
    """Follows the bytes of the storages that operators make."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # an operator's input that no operator made was there before
        self._known.update(t.untyped_storage() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage not in self._known:
                    self._known.add(storage)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._free, storage.nbytes())
        return out

    def _free(self, size: int) -> None:
        self.now -= size
