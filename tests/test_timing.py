"""Timing's bookkeeping: turns, spread, FLOPs and bytes that are known beforehand."""

import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.profiler import record_function

import heads
from instseg import timing

CPU = torch.device("cpu")


def test_work_takes_turns() -> None:
    calls: list[str] = []

    def work(name: str) -> None:
        calls.append(name)
        time.sleep(0.02)

    times = timing.alternating(
        {name: partial(work, name) for name in "abc"}, rounds=4, device=CPU, least=0.01, budget=9
    )
    assert "".join(calls) == "abc" * 2 + "abc" + "cba" + "abc" + "cba"
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert all(value >= 0.02 for values in times.values() for value in values)


def test_short_work_is_repeated_and_long_work_kept_in_its_budget() -> None:
    calls: list[float] = []
    timing.alternating({"short": lambda: calls.append(0)}, rounds=3, device=CPU, least=0.01, budget=9)
    assert len(calls) > 3 * 10
    times = timing.alternating({"long": lambda: time.sleep(0.02)}, rounds=50, device=CPU, least=0.01, budget=0.03)
    assert len(times["long"]) == 3


def test_spread() -> None:
    assert timing.spread([1.0, 2.0, 3.0, 4.0, 100.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert timing.spread([2.0]) == {"median": 2.0, "low": 2.0, "high": 2.0}


def test_flops_of_the_fcn_head() -> None:
    head = heads.build("fcn", 16, 3)
    multiply_adds = 4 * 16 * 16 * 9 * 14**2 + 16 * 16 * 28**2 + 16 * 3 * 28**2
    assert timing.head_flops(head, timing.random_rois(16, (64, 96), 5, CPU)) == 2 * multiply_adds


def test_peak_memory_counts_what_lives_at_once() -> None:
    mib = 2**18  # floats in a MiB

    def in_turn() -> None:
        for _ in range(5):
            torch.zeros(mib)

    def together() -> list[torch.Tensor]:
        kept = [torch.zeros(mib) for _ in range(5)]
        kept[0][1:].view(-1).reshape(-1, 1)
        return kept

    assert timing.peak_memory(in_turn, CPU) == pytest.approx(2**20, rel=1.01)
    assert timing.peak_memory(together, CPU) == pytest.approx(5 * 2**20, rel=0.01)
    assert timing.peak_memory(in_turn, CPU, held=7) - timing.peak_memory(in_turn, CPU) == 7


def test_peak_memory_leaves_out_what_was_there_before() -> None:
    weight = torch.zeros(2**18)

    def in_place() -> None:
        weight.add_(1)
        weight.view(2, -1).mul_(2)

    assert timing.peak_memory(in_place, CPU) < 1000
    assert timing.peak_memory(lambda: weight + 1, CPU) == pytest.approx(2**20, rel=0.01)


def test_peak_memory_sees_what_backward_keeps() -> None:
    weight = torch.zeros(2**18, requires_grad=True)
    depth = 8

    def train() -> None:
        x = weight
        for _ in range(depth):
            x = x.sin()
        x.sum().backward()

    # each sine keeps its input for the way back
    assert timing.peak_memory(train, CPU) >= depth * 2**20


def test_random_rois_lie_in_the_image() -> None:
    rois = timing.random_rois(4, (100, 150), 40, CPU)()
    boxes = rois.boxes[0]
    assert len(rois) == 40
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 150.01).all() and (boxes[:, 3] <= 100.01).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_a_stage_s_time_is_its_own() -> None:
    def call() -> None:
        with record_function("stage/outer"):
            time.sleep(0.02)
            with record_function("stage/inner"):
                time.sleep(0.04)
        with record_function("something else"):
            time.sleep(0.02)

    shares = timing.stages(call, CPU)
    assert list(shares) == ["inner", "outer", "rest"] and sum(shares.values()) == pytest.approx(1)
    assert shares["inner"] == pytest.approx(0.5, abs=0.1)
    assert shares["outer"] == pytest.approx(0.25, abs=0.1) and shares["rest"] == pytest.approx(0.25, abs=0.1)
    assert timing.stages(lambda: time.sleep(0.01), CPU) == {"rest": 1}


def test_kernels_belong_to_the_innermost_stage_open_when_they_were_launched() -> None:
    def event(
        name: str, begin: float, end: float, *kernels: tuple[str, float], cpu: bool = True, mark: bool = False
    ) -> Any:
        return SimpleNamespace(
            name=name,
            time_range=SimpleNamespace(start=begin, end=end),
            kernels=[SimpleNamespace(name=kernel, duration=took) for kernel, took in kernels],
            device_type=torch.autograd.DeviceType.CPU if cpu else torch.autograd.DeviceType.CUDA,
            is_user_annotation=mark,
        )

    events = [
        event("stage/rest", 0, 100, mark=True),
        event("stage/box", 10, 50, ("stage/box", 999), mark=True),
        event("stage/mask", 20, 30, mark=True),
        event("stage/backward", 60, 90, mark=True),
        event("stage/box", 300, 900, cpu=False, mark=True),
        event("Optimizer.step", 91, 95, ("Optimizer.step", 999), mark=True),
        event("aten::conv2d", 12, 14, ("gemm", 5), ("copy", 1)),
        event("aten::conv2d", 22, 24, ("gemm", 7)),
        # autograd's own thread, while the caller waits
        event("aten::convolution_backward", 70, 71, ("gemm", 20)),
        event("aten::add_", 92, 93, ("add", 3)),
    ]
    assert timing.stage_times(events, of_kernels=True) == {"box": 6, "mask": 7, "backward": 20, "rest": 3}


def test_flops_of_what_is_compiled() -> None:
    weight = torch.rand(8, 16)
    compiled = torch.compile(lambda x: x @ weight.T, backend="aot_eager")
    batch = torch.rand(3, 16)
    compiled(batch)
    assert timing.flops(lambda: compiled(batch)) == 2 * 3 * 16 * 8
