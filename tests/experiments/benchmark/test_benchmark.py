"""Each benchmark from its keys to its files, at sizes where the times mean nothing."""

import importlib
import importlib.util
import json
import math
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import apps
import pandas as pd
import pytest
import torch
from composition import benchmark_options as options
from hydra.errors import HydraException

import heads
from experiments.benchmark import contest, outcome, reference_models, setup
from experiments.benchmark.cases import accuracy
from experiments.benchmark.cases import heads as heads_benchmark
from experiments.config import apps as app_config
from experiments.config import cli
from experiments.config.apps import Benchmark
from instseg.detector import nms
from instseg.errors import UserError
from instseg.masks import paste

TINY = ("batch=2", "instances=3", "rounds=2", "rois=5", "images=3", "workers=1", "iterations=4", "device=cpu")
SMALL = "image=[64,96]"


@pytest.fixture(autouse=True)
def _restore_torch_settings() -> Iterator[None]:
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.use_deterministic_algorithms(False)


def measured(folder: Path, *overrides: str) -> tuple[pd.DataFrame, dict[str, Any], str]:
    """The CSV file by name, the JSON file, and the text for the terminal."""
    prepared = setup.make(options(*TINY, f"out={folder}", *overrides))
    what = prepared.options.what
    result = importlib.import_module(f"experiments.benchmark.cases.{what}").measure(prepared)
    text = outcome.write(result, prepared.options, prepared.config, prepared.device)
    stem = folder / f"{what}-quick"
    assert stem.with_suffix(".md").read_text().count("|") > 10
    return pd.read_csv(f"{stem}.csv").set_index("name"), json.loads(stem.with_suffix(".json").read_text()), text


def check_times(table: pd.DataFrame, record: dict[str, Any], unit: str) -> None:
    """Finite positive numbers, ratios of medians, and every raw time behind them."""
    timed = table.dropna(subset=["seconds_median"])
    numbers = timed.select_dtypes("number")
    assert ((numbers > 0) | numbers.isna()).all(axis=None) and (numbers < math.inf).sum(axis=None) > 0
    for name, row in timed.iterrows():
        assert row["seconds_low"] <= row["seconds_median"] <= row["seconds_high"]
        if pd.notna(row["compared_with"]):
            base = timed.loc[row["compared_with"]]
            assert row["ratio"] == pytest.approx(row["seconds_median"] / base["seconds_median"])
        (raw,) = [raw for raw in record["rows"] if raw["name"] == name]
        assert len(raw["seconds"]) == record["what"]["rounds"] == 2
        assert row["seconds_median"] == pytest.approx(sum(raw["seconds"]) / 2)
        rate = sorted(raw["items"] / s for s in raw["seconds"])
        assert rate[0] <= row[f"{unit}_per_s_median"] <= rate[1]
    assert record["provenance"]["device"] and set(record["provenance"]) >= {"commit", "dirty", "versions", "finished"}


@pytest.mark.parametrize(
    ("what", "unit", "rows"),
    [
        ("heads", "rois", [name + end for end in ("", ", training") for name in heads.names()]),
        ("rle", "masks", ["ours", "torchvision paste + pycocotools encode"]),
        ("nms", "boxes", ["nms.keep", "torchvision.ops.batched_nms", "nms.fixed_point"]),
        ("eval", "images", ["ours, box", "pycocotools, box", "ours, mask", "pycocotools, mask", "ours, boundary"]),
        ("data", "samples", ["reading + transform, one core", "reading, one core", "transform, one core"]),
    ],
)
def test_parts(what: str, unit: str, rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # one configuration of each head; all would take minutes
    monkeypatch.setattr(heads_benchmark, "names", heads.names)
    table, record, words = measured(tmp_path, f"what={what}", *([] if what == "data" else [SMALL]))
    assert list(table.index) == rows + ["loader, 1 processes"] * (what == "data")
    check_times(table, record, unit)
    assert f"{rows[1]} takes" in words and f"written: {tmp_path / f'{what}-quick'}" in words


def test_training_steps(tmp_path: Path) -> None:
    table, record, words = measured(tmp_path, "what=train", SMALL, "against=[torchvision]")
    assert list(table.index) == ["ours", "torchvision", "trunk alone, forward + backward"]
    check_times(table, record, "images")
    for name in ("ours", "torchvision"):
        shares = table.loc[name].filter(like="share_")
        assert shares.sum() == pytest.approx(1) and shares["share_trunk"] > 0 and shares["share_backward"] > 0
    flops = table["gflop_per_image"]
    assert flops["trunk alone, forward + backward"] < min(flops["ours"], flops["torchvision"])
    assert table.loc["ours", "peak_memory_mib"] > table.loc["trunk alone, forward + backward", "peak_memory_mib"]
    assert record["what"]["height"] == 64 and record["what"]["images"] == 2
    for ending in ("png", "pdf"):
        assert (tmp_path / f"train-quick.{ending}").stat().st_size > 1000
    assert "share of the time in" in words and "torchvision takes" in words


def test_heads_at_once_and_apart(tmp_path: Path) -> None:
    table, record, words = measured(tmp_path, "what=frozen_core", SMALL, "heads=[fcn,unet]", "instances=1")
    # the most positives that two images may have, half of them and a quarter
    detector = setup.make(options("study=quick", "device=cpu")).config.detector
    most = 2 * int(detector.box_batch_size_per_image * detector.box_positive_fraction)
    counts = [most, most // 2, most // 4]
    assert record["what"]["rois"] == " ".join(map(str, counts)) and record["what"]["heads"] == "fcn unet"
    groups = [(f"{n} RoIs: 2 heads apart, end_to_end", f"{n} RoIs: 2 heads at once, frozen_core") for n in counts]
    names = [[apart, together, f"{together}, and the core's training"] for apart, together in groups]
    alone = [f"{most} RoIs: {head}, end_to_end" for head in ("fcn", "unet")]
    assert list(table.index) == [*chain(*names), *alone]
    check_times(table, record, "images")
    assert list(table["compared_with"].fillna("")) == [apart for apart, _ in groups for _ in range(3)] + [""] * 2
    raw = {row["name"]: row["seconds"] for row in record["rows"]}
    for apart, fcn, unet in zip(raw[groups[0][0]], *(raw[name] for name in alone), strict=True):
        assert apart == fcn + unet
    for _, together, with_core in names:
        assert all(more > less for more, less in zip(raw[with_core], raw[together], strict=True))
        assert f"{together} takes" in words
    assert "0.25" in words


def test_inference(tmp_path: Path) -> None:
    table, record, _ = measured(tmp_path, "what=inference", SMALL, "against=[torchvision]")
    detectors = ["ours", "ours, masks in boxes", "torchvision", "torchvision + RLE"]
    assert list(table.index) == [*detectors, "trunk alone, forward"]
    check_times(table, record, "images")
    # every implementation has the full number of detections to make masks of
    assert (table.loc[detectors, "detections_per_image"] == 20).all()
    assert (tmp_path / "inference-quick.png").exists()


def test_another_number_of_detections_is_not_compared() -> None:
    prepared = setup.make(options(*TINY, SMALL))
    entries = {
        name: contest.Entry(lambda: torch.zeros(1), [], stages=None, detections=count)
        for name, count in (("ours", 20.0), ("same", 20.0), ("fewer", 19.5))
    }
    table = outcome.frame(contest.time_entries(prepared, entries, [outcome.Row("absent", note="not run")])).set_index(
        "name"
    )
    assert list(table.index) == ["ours", "same", "fewer", "absent"]
    assert table.loc["same", "ratio"] > 0 and math.isnan(table.loc["fewer", "ratio"])
    assert "other number of detections" in table.loc["fewer", "note"] and not table.loc["same", "note"]


def test_torchvision_does_the_same_work() -> None:
    prepared = setup.make(options(*TINY, SMALL))
    ours = prepared.model()
    peer = reference_models.torchvision(ours, prepared.config, prepared.classes, prepared.images)
    peer.model.eval()
    with torch.inference_mode():
        expected, detections = reference_models.add_rle(peer.model(prepared.images)), ours.detect_rle(prepared.images)
    same = []
    for reference, image in zip(expected, detections, strict=True):
        torch.testing.assert_close(image["boxes"], reference["boxes"], atol=1e-2, rtol=0)
        assert torch.equal(image["labels"], reference["labels"])
        pairs = zip(image["segmentations"], reference["segmentations"], strict=True)
        same += [a["counts"] == b["counts"].decode() for a, b in pairs]
    # a logit at the threshold may fall to either side
    assert len(same) == 40 and sum(same) >= 35


def test_a_head_that_torchvision_does_not_have() -> None:
    prepared = setup.make(options(*TINY, SMALL, "head=unet"))
    ours = prepared.model()
    with pytest.raises(reference_models.NotRun, match="fcn head alone"):
        reference_models.torchvision(ours, prepared.config, prepared.classes, prepared.images)
    with torch.inference_mode():
        assert all(len(image["boxes"]) == 20 for image in ours.detect(prepared.images))


@pytest.mark.parametrize(
    ("what", "module", "function"), [("rle", paste, "to_rles"), ("nms", nms, "keep"), ("nms", nms, "fixed_point")]
)
def test_a_wrong_answer_is_never_timed(
    what: str, module: Any, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(module, function)

    def wrong(*args: Any) -> Any:
        found = right(*args)
        return [found[0][::-1]] if what == "rle" else torch.zeros_like(found)

    monkeypatch.setattr(module, function, wrong)
    with pytest.raises(AssertionError, match="otherwise than"):
        measured(tmp_path, f"what={what}", SMALL)
    assert not list(tmp_path.iterdir())


def test_accuracy(tmp_path: Path) -> None:
    table, record, words = measured(tmp_path, "what=accuracy", SMALL)
    assert list(table.index[:4]) == [f"loss, iterations {i} to {i}" for i in (1, 2, 3, 4)]
    assert {"loss_mask, all iterations", "box AP", "mask AP"} <= set(table.index)
    runs = table[["plain_seed_0", "plain_seed_1", "fast_seed_0", "fast_seed_1"]]
    assert runs.notna().all(axis=None)
    loss = runs.loc["loss, iterations 4 to 4"]
    assert loss["plain_seed_0"] != loss["fast_seed_0"] and loss["plain_seed_0"] != loss["plain_seed_1"]
    means = runs.T.groupby([0, 0, 1, 1]).mean().T
    assert table["difference"].tolist() == pytest.approx((means[1] - means[0]).tolist(), abs=1e-12)
    assert record["what"]["fast"] == "bfloat16" and "differences between" in words


def test_within_the_noise_of_two_seeds() -> None:
    def row(plain: tuple[float, float], fast: tuple[float, float]) -> dict[str, Any]:
        runs = {"plain": [{"AP": v} for v in plain], "fast": [{"AP": v} for v in fast]}
        return accuracy.compare_seeds("AP", runs).numbers

    assert row((40.0, 42.0), (40.5, 40.5)) | {"difference": -0.5, "seed_spread": 2.0, "within": "yes"} == row(
        (40.0, 42.0), (40.5, 40.5)
    )
    assert row((40.0, 41.0), (43.0, 43.5))["within"] == "no"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("what=trian", ["unknown what 'trian'", "did you mean 'train'", "inference"]),
        ("against=[torchvison]", ["unknown against 'torchvison'", "torchvision"]),
        ("image=[10,10]", ["image=[10,10]", "[height,width]", "32 or more"]),
        ("image=[64]", ["image=[64]", "[height,width]"]),
        ("batch=0", ["batch=0", "1 or more"]),
        ("classes=1", ["classes=1", "2 or more"]),
        ("out=", ["out=", "empty"]),
        ("study=quik", ["unknown study 'quik'", "did you mean 'quick'"]),
        ("head=fnc", ["unknown head 'fnc'", "did you mean 'fcn'"]),
        ("precision=half", ["precision 'half'", "bfloat16"]),
        ("compile=maybe", ["compile 'maybe'", "auto"]),
        ("device=gpu", ["device=gpu", "cuda"]),
    ],
)
def test_wrong_keys_are_named(override: str, parts: list[str]) -> None:
    with pytest.raises((UserError, HydraException)) as error:
        setup.make(options(*TINY, override))
    line = str(error.value) if isinstance(error.value, UserError) else cli.one_line(error.value)
    assert len(line.splitlines()) == 1
    for part in parts:
        assert part in line


@pytest.mark.skipif(importlib.util.find_spec("detectron2") is not None, reason="detectron2 is installed")
def test_the_app_names_a_peer_that_is_absent(tmp_path: Path) -> None:
    done = apps.run("benchmark", "what=train", "against=torchvision,detectron2", SMALL, f"out={tmp_path}", *TINY)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "detectron2: not installed" in done.stderr.splitlines()
    assert "| not run: not installed" in done.stdout and "torchvision takes" in done.stdout
    row = pd.read_csv(tmp_path / "train-quick.csv").set_index("name").loc["detectron2"]
    assert row["note"] == "not run: not installed" and math.isnan(row["seconds_median"])


def test_help_names_all_that_can_be_measured() -> None:
    shown = apps.run("benchmark", "--help").stdout
    described = dict(line.split(maxsplit=1) for line in shown.splitlines() if line.startswith(" " * 2) and "." in line)
    assert {"study", "train", "frozen_core"} <= set(app_config.WHATS) <= set(described)
    keys = {field.name for field in fields(Benchmark)} - {"what", "results_dir", "device"}
    assert all(f"{key}=" in shown for key in keys)


@pytest.mark.parametrize(
    ("head", "reads", "output"),
    [
        ("fcn", "14×14 of the fitting level", "28×28"),
        ("unet_p2_p3", "14×14 of the fitting level, 28×28 of P2, 28×28 of P3, 56×56 of P2, 56×56 of P3", "56×56"),
        ("pointrend", "14×14 of P2, points of P2", "224×224"),
        ("refinemask", "14×14 of the fitting level, 14×14 of P2, 28×28 of P2, 56×56 of P2", "112×112"),
    ],
)
def test_what_a_head_reads_and_gives(head: str, reads: str, output: str) -> None:
    prepared = setup.make(options("what=heads", *TINY))
    numbers = heads_benchmark.properties(prepared, setup.load("quick", f"head={head}").make_head(2))
    assert (numbers["reads"], numbers["output"]) == (reads, output)


def test_a_control_is_resolved_before_it_is_timed() -> None:
    prepared = setup.make(options("what=train", "head=fcn_flops_of_unet", *TINY))
    assert (prepared.config.head.name, prepared.config.head.variant) == ("fcn", "fcn_flops_of_unet")
    assert prepared.model().mask_head.predictor[-1].in_channels == prepared.config.head.options["width"]


def test_all_configurations_of_heads_are_timed() -> None:
    names = heads_benchmark.names()
    assert {*heads.names(), "fcn_flops_of_unet", "unet_p2_p3"} <= set(names) and names == sorted(names)
