"""Predictions on images of any kind: what is written, what is said of the bad ones, and how runs are named."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apps
import numpy as np
import pytest
import torch
from composition import composed
from decided import decided_heads
from PIL import Image
from pycocotools import mask as rle_tools

from experiments.config.apps import Predict
from experiments.evaluate import score
from experiments.predict import images as app
from experiments.predict.images import predict
from experiments.runs import frozen_core, trained
from instseg.data.sets.generated import Generated
from instseg.errors import UserError
from instseg.evaluation import predict as on_any_size

HEIGHT, WIDTH = 64, 96
# a model of six steps is sure of nothing
LOW = 0.05


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny trained runs on one core, which hold whole models each."""
    folder = tmp_path_factory.mktemp("trained")
    options = ("protocol=frozen_core", "runtime.evaluate_every=0", "runtime.threads=1", f"results_dir={folder}")
    options += ("detector.box_detections_per_img=5", "detector.box_score_thresh=0.01")
    with decided_heads():
        errors = frozen_core.run_group([composed(*apps.TINY, f"head={head}", *options) for head in ("fcn", "unet")])
    assert not errors
    return folder


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def predicted(source: Path, results: Path, output: Path, *runs: str, code: int = 0, **more: Any) -> Path:
    """Predict by ``runs`` (``quick/fcn``); returns the output."""
    options = {"score": LOW, "threads": 1, "device": "cpu", **more}
    config = Predict(str(source), list(runs or ["quick/fcn"]), str(output), results_dir=str(results), **options)
    config.check()
    assert predict(config) == code
    return output


def scene(number: int = 0) -> np.ndarray:
    """(64, 96, 3) uint8."""
    return Generated("val", images=4, size=(HEIGHT, WIDTH), seed=3)[number][0].permute(1, 2, 0).numpy()


def detections(output: Path, run: str = "fcn") -> list[dict[str, Any]]:
    return json.loads((output / run / "results.json").read_text())


def listed(output: Path, run: str = "fcn") -> dict[str, dict[str, Any]]:
    return {image["file_name"]: image for image in json.loads((output / run / "images.json").read_text())["images"]}


def test_all_is_written_and_the_masks_are_those_of_the_json(results: Path, tmp_path: Path) -> None:
    source = tmp_path / "my images"
    names = ["a.png", "a.bmp", "100% ünïcode (1), [x]=y.PNG", "inner/a.png"]
    for number, name in enumerate(names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(number)).save(source / name)
    output = predicted(source, results, tmp_path / "out", "quick", recursive=True)
    for run in ("fcn", "unet"):
        images, of_run = listed(output, run), detections(output, run)
        assert set(images) == set(names) and len({image["id"] for image in images.values()}) == len(names)
        assert len(of_run) > len(names)
        for name, image in images.items():
            of_image = [result for result in of_run if result["image_id"] == image["id"]]
            assert [result["score"] for result in of_image] == sorted(
                (result["score"] for result in of_image), reverse=True
            )
            sure = [result for result in of_image if result["score"] > LOW]
            files = sorted((output / run / "masks" / name).iterdir())
            assert len(files) == len(sure) > 0
            together = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
            drawn = np.asarray(Image.open(output / run / "instances" / f"{name}.png"))
            colours = set()
            for file, result in reversed(list(zip(files, sure, strict=True))):
                with Image.open(file) as mask:
                    assert mask.mode == "L"
                    pixels = np.asarray(mask)
                expected = rle_tools.decode(result["segmentation"]).astype(bool)
                assert np.array_equal(pixels, np.where(expected, 255, 0))
                together[expected] = 1
                colours |= {tuple(colour) for colour in drawn[expected]}
            assert np.array_equal(together.any(axis=2), drawn.any(axis=2))
            # the best is on top
            assert len(np.unique(drawn[rle_tools.decode(sure[0]["segmentation"]).astype(bool)], axis=0)) == 1
            assert len(colours) <= len(sure)
            with Image.open(output / run / "overlays" / f"{name}.png") as overlay:
                assert overlay.size == (7 * WIDTH, 7 * HEIGHT)
    with Image.open(output / "comparison" / "inner" / "a.png.png") as panel:
        assert panel.width > 3 * WIDTH / HEIGHT * 0.9 * panel.height


@pytest.mark.parametrize("run", ["fcn", "unet"])
def test_files_of_the_held_out_images_give_the_run_s_own_predictions(results: Path, tmp_path: Path, run: str) -> None:
    (held_out,) = trained.find([f"quick/{run}"], results)
    data = held_out.config.make_dataset("val")
    (tmp_path / "in").mkdir()
    for index, image_id in enumerate(data.image_ids):
        pixels = data[index][0].permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(tmp_path / "in" / f"{image_id:03}.png")
    output = predicted(tmp_path / "in", results, tmp_path / "out", f"quick/{run}")
    key = {image["id"]: int(name[:3]) for name, image in listed(output, run).items()}
    predicted_now = [{**result, "image_id": key[result["image_id"]]} for result in detections(output, run)]
    stored = json.loads((held_out.folder / "predictions.json").read_text())
    assert len(predicted_now) == len(stored) > 0
    # batches of another size are rounded otherwise
    predicted_now, stored = (
        sorted(group, key=lambda result: (result["image_id"], -result["score"])) for group in (predicted_now, stored)
    )
    for now, before in zip(predicted_now, stored, strict=True):
        assert (now["image_id"], now["category_id"]) == (before["image_id"], before["category_id"])
        assert now["score"] == pytest.approx(before["score"], abs=1e-4)
        assert now["bbox"] == pytest.approx(before["bbox"], abs=1e-2)
        (iou,) = rle_tools.iou([now["segmentation"]], [before["segmentation"]], [0])
        assert iou > 0.98 or not rle_tools.area(before["segmentation"])


def test_the_json_can_be_scored(results: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        Image.fromarray(scene(number)).save(tmp_path / "in" / f"{number}.png")
    output = predicted(tmp_path / "in", results, tmp_path / "out")
    truth = json.loads((output / "fcn" / "images.json").read_text())
    # what was found is the truth: every number that there are objects for is 100
    for number, result in enumerate(detections(output), 1):
        area = float(rle_tools.area(result["segmentation"]))
        truth["annotations"].append({**result, "id": number, "area": area, "iscrowd": 0})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    numbers, _ = score(tmp_path / "truth.json", output / "fcn" / "results.json")
    assert numbers["mask"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(results: Path, tmp_path: Path, orientation: int) -> None:
    stored = Image.fromarray(scene())
    upright = np.asarray(stored)
    # by hand, and not by Pillow: which row and which column of the upright image the stored first ones are
    upright = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[:, ::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, image, more in (("turned", stored, {"exif": exif}), ("plain", Image.fromarray(upright.copy()), {})):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "a.png", **more)
        predicted(tmp_path / name / "a.png", results, tmp_path / f"{name}-out")
    assert detections(tmp_path / "turned-out") == detections(tmp_path / "plain-out") != []
    image = listed(tmp_path / "turned-out")["a.png"]
    assert (image["height"], image["width"]) == upright.shape[:2]


def test_bad_images_are_named_and_the_rest_go_on(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    (source / "deeper").mkdir(parents=True)
    Image.fromarray(scene()).save(source / "good.png")
    whole = (source / "good.png").read_bytes()
    (source / "cut.png").write_bytes(whole[: len(whole) // 2])
    (source / "empty.jpg").touch()
    (source / "text.jpg").write_text("no image")
    Path(os.fsdecode(os.fsencode(source) + b"/two\nlines\xff.jpg")).touch()
    (source / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (source / "gone.png").symlink_to(tmp_path / "nowhere.png")
    Image.fromarray(scene()).save(source / ("n" * 246 + ".png"))
    for other in ("notes.txt", "._good.png"):
        (source / other).write_text("nothing")
    output = predicted(source, results, tmp_path / "out", code=1)
    said = capsys.readouterr()
    # as a terminal would have it
    said.out.encode()
    for name, why in {
        "cut.png": "truncated",
        "empty.jpg": "empty file",
        "text.jpg": "no image",
        "two lines": "empty file",
        "phone.heic": "no image",
        "gone.png": "does not exist",
        "n" * 246: "too long a name",
    }.items():
        (line,) = [line for line in said.out.splitlines() if name in line]
        assert line.startswith("failed: ") and str(source) in line and why in line
        assert line in said.err
    assert "1 of 8 images" in said.out
    assert "no images, passed over: 2" in said.out and "recursive=true does: 1" in said.out
    assert "Traceback" not in said.err
    assert set(listed(output)) == {"good.png"}
    assert {result["image_id"] for result in detections(output)} == {listed(output)["good.png"]["id"]}


def test_images_of_all_modes_and_shapes(results: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    rgb = Image.fromarray(scene())
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"):
        rgb.convert(mode).save(source / f"{mode}.{'tif' if mode in ('CMYK', 'YCbCr') else 'png'}")
    Image.fromarray(scene()[:, :, 0].astype(np.uint16) * 257).save(source / "deep.png")
    Image.fromarray(scene()[:1, :1]).save(source / "pixel.png")
    Image.fromarray(scene()[:1, np.arange(3000) % WIDTH]).save(source / "strip.png")
    frames = [Image.fromarray(scene(number)) for number in range(2)]
    frames[0].save(source / "moves.gif", save_all=True, append_images=frames[1:])
    output = predicted(source, results, tmp_path / "out")
    assert len(listed(output)) == 11
    # grey values of 16 bits are those of 8 bits in finer steps
    ids = {name: image["id"] for name, image in listed(output).items()}
    deep = [{**result, "image_id": 1} for result in detections(output) if result["image_id"] == ids["deep.png"]]
    Image.fromarray(scene()[:, :, 0]).save(tmp_path / "grey.png")
    assert deep == detections(predicted(tmp_path / "grey.png", results, tmp_path / "alone")) != []


def test_a_huge_image_is_predicted_at_its_size_and_drawn_smaller(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = 20
    huge = Image.fromarray(scene()).resize((WIDTH * times, HEIGHT * times), Image.Resampling.BICUBIC)
    huge.save(tmp_path / "huge.png", compress_level=1)
    # what the network sees of it
    huge.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR).save(tmp_path / "small.png")
    monkeypatch.setattr(on_any_size, "_LARGE", huge.width * huge.height - 1)
    output = predicted(tmp_path / "huge.png", results, tmp_path / "out", max_side=320)
    image = listed(output)["huge.png"]
    assert (image["height"], image["width"]) == (HEIGHT * times, WIDTH * times)
    with Image.open(output / "fcn" / "overlays" / "huge.png.png") as overlay:
        assert overlay.size == (320, 213)
    files = sorted((output / "fcn" / "masks" / "huge.png").iterdir())
    with Image.open(files[0]) as mask:
        assert mask.size == huge.size
        assert np.array_equal(np.asarray(mask) > 0, rle_tools.decode(detections(output)[0]["segmentation"]))
    other = detections(predicted(tmp_path / "small.png", results, tmp_path / "other"))
    assert [result["score"] for result in detections(output)] == [result["score"] for result in other] != []
    for large, small in zip(detections(output), other, strict=True):
        assert np.asarray(large["bbox"]) / times == pytest.approx(np.asarray(small["bbox"]), abs=1e-3)
        assert rle_tools.area(large["segmentation"]) / times**2 == pytest.approx(
            float(rle_tools.area(small["segmentation"])), rel=0.2, abs=30
        )


def test_a_image_of_more_than_max_pixels_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    predicted(tmp_path / "a.png", results, tmp_path / "out", code=1, max_pixels=HEIGHT * WIDTH - 1)
    assert f"a.png is too large: {WIDTH} x {HEIGHT} pixels" in capsys.readouterr().out
    predicted(tmp_path / "a.png", results, tmp_path / "out", max_pixels=HEIGHT * WIDTH)


def test_masks_of_a_lower_score_are_gone_from_the_folder(results: Path, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    output = predicted(tmp_path / "a.png", results, tmp_path / "out", score=0.0)
    files, before = list((output / "fcn" / "masks" / "a.png").iterdir()), detections(output)
    assert len(files) == len(before) > 0
    predicted(tmp_path / "a.png", results, tmp_path / "out", score=1.0)
    assert not list((output / "fcn" / "masks" / "a.png").iterdir())
    assert detections(output) == before


def test_what_is_no_input_or_output_is_one_line(results: Path, tmp_path: Path, refused: Any) -> None:
    def check(source: Path, *parts: object, output: Path = tmp_path / "out") -> None:
        refused(lambda: predicted(source, results, output), *parts, error=UserError)

    check(tmp_path / "none", f"input={tmp_path / 'none'}", "no such file")
    (tmp_path / "in" / "inner").mkdir(parents=True)
    check(tmp_path / "in", "other files: 0, subfolders: 1", "recursive=true")
    Image.fromarray(scene()).save(tmp_path / "a.png")
    check(tmp_path / "a.png", f"output={tmp_path / 'a.png'}", "can't be written", output=tmp_path / "a.png")
    for device, why in (("gpu", "auto, cpu"), ("cuda:99", "cuda:99")):
        if device == "gpu" or not torch.cuda.is_available():
            refused(
                lambda device=device: predicted(tmp_path / "a.png", results, tmp_path / "out", device=device),
                *(f"device={device}", why),
                error=UserError,
            )
    (tmp_path / "out" / "fcn").mkdir(parents=True)
    (tmp_path / "out" / "fcn" / "overlays").touch()
    check(tmp_path / "a.png", f"output={tmp_path / 'out'}", "overlays", "can't be written")


def test_runs_go_by_many_names(results: Path, tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (fcn,) = results.glob("quick/runs/fcn-*")
    (unet,) = results.glob("quick/runs/unet-*")
    for name in (fcn, f"{fcn}/", fcn / "checkpoint.pt", f"quick/{fcn.name}", "quick/fcn"):
        (run,) = trained.find([str(name)], results)
        assert (run.folder.name, run.label, run.categories) == (fcn.name, "fcn", [{"id": 1, "name": "person"}])
    for name in ("quick", str(results / "quick")):
        assert [run.folder.name for run in trained.find([name], results)] == [fcn.name, unet.name]
    # a folder that happens to bear a study's name
    (tmp_path / "quick").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(trained.find(["quick"], results)) == 2

    def check(name: str, *parts: str) -> None:
        refused(lambda: trained.find(name.split(","), results), *parts, error=UserError)

    check("quikc", "unknown run 'quikc'", "did you mean 'quick'")
    check("quick/uent", "unknown run 'quick/uent'", "did you mean 'quick/unet'")
    check("quick,quick/fcn", "is there twice")
    check(str(tmp_path), "no config.yaml")
    copy = tmp_path / "copy" / "runs" / fcn.name
    shutil.copytree(fcn, copy)
    check(str(copy), "ground_truth", "missing")
    (copy / "result.json").unlink()
    check(str(copy), "not finished", "finished beside it: none")
    shutil.copytree(results / "quick" / "ground_truth", tmp_path / "copy" / "ground_truth")
    shutil.copy(fcn / "result.json", copy)
    shutil.copy(unet / "checkpoint.pt", copy)
    (wrong,) = trained.find([str(copy)], results)
    refused(lambda: wrong.model(torch.device("cpu")), copy / "checkpoint.pt", "of another model", error=UserError)
    (copy / "checkpoint.pt").unlink()
    refused(lambda: wrong.model(torch.device("cpu")), copy / "checkpoint.pt", "no such checkpoint", error=UserError)


def test_runs_of_one_variant_are_told_apart(results: Path, tmp_path: Path) -> None:
    (fcn,) = results.glob("quick/runs/fcn-*")
    shutil.copytree(results / "quick", tmp_path / "quick")
    (copy,) = tmp_path.glob("quick/runs/fcn-*")
    result = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps({**result, "seed": 7, "hash": "7"}))
    assert [run.label for run in trained.find([str(fcn), str(copy)], results)] == ["fcn, f0 s0", "fcn, f0 s7"]
    (copy / "result.json").write_text(json.dumps({**result, "hash": "7"}))
    labels = [run.label for run in trained.find([str(fcn), str(copy)], results)]
    assert labels == [f"fcn, {result['hash']}", "fcn, 7"]
    # of another study, with other settings: its name says enough
    (tmp_path / "quick").rename(tmp_path / "other")
    (copy,) = tmp_path.glob("other/runs/fcn-*")
    (copy / "result.json").write_text(json.dumps({**result, "settings": {}, "iterations": 3}))
    labels = [run.label for run in trained.find(["quick/fcn", str(copy), "quick/unet"], results)]
    assert labels == ["fcn, quick", "fcn, other", "unet"]


def test_the_app_takes_any_name_and_several_runs(results: Path, tmp_path: Path) -> None:
    source = tmp_path / "it's 100% (a), [b]=c"
    source.mkdir()
    Image.fromarray(scene()).save(source / "a.png")
    (source / "b.png").touch()
    done = apps.run(
        *("predict", f"input={source}", "run=quick/fcn,quick/unet", f"results_dir={results}", f"score={LOW}"),
        env={"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    output = results / "predictions" / source.name
    assert f"1 of 2 images in {output}" in done.stdout
    assert (output / "comparison" / "a.png.png").exists()


def test_a_full_disk_is_one_line(results: Path, tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Image.fromarray(scene()).save(tmp_path / "a.png")
    monkeypatch.setattr(app, "write_atomically", full)
    refused(
        lambda: predicted(tmp_path / "a.png", results, tmp_path / "out"),
        f"output={tmp_path / 'out'}",
        "can't be written (No space left on device)",
        error=UserError,
    )


def test_a_broken_off_prediction_goes_on(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number in range(4):
        Image.fromarray(scene(number)).save(images / f"{number}.png")
    whole = predicted(images, results, tmp_path / "whole", "quick/fcn", "quick/unet")
    read: list[str] = []

    def reader(stop_at: int | None) -> None:
        read.clear()

        def read_image(path: Path, largest: int) -> np.ndarray:
            if len(read) == stop_at:
                raise KeyboardInterrupt
            read.append(path.name)
            return np.array(Image.open(path))

        monkeypatch.setattr(app, "read_upright", read_image)

    reader(stop_at=2)
    with pytest.raises(SystemExit):
        predicted(images, results, output, "quick/fcn", "quick/unet")
    assert set(listed(output)) == {"0.png", "1.png"}
    assert {result["image_id"] for result in detections(output)} == {1, 2}
    assert "2 of 4 images" in capsys.readouterr().err

    # a kill leaves half a line; a changed image is a new one, and a new one in front moves all ids
    journal = output / ".progress.jsonl"
    journal.write_text(journal.read_text() + '{"name": "2.png", "fi')
    os.utime(images / "1.png", ns=(1, 1))
    Image.fromarray(scene(0)).save(images / "+.png")
    reader(stop_at=None)
    predicted(images, results, output, "quick/fcn", "quick/unet")
    assert read == ["+.png", "1.png", "2.png", "3.png"] and not journal.exists()
    assert "1 of them had been done before" in capsys.readouterr().out
    moved = {before: before + 1 for before in (1, 2, 3, 4)}
    for variant in ("fcn", "unet"):
        expected = json.loads((whole / variant / "results.json").read_text())
        of_run = [
            result for result in json.loads((output / variant / "results.json").read_text()) if result["image_id"] > 1
        ]
        assert of_run == [{**result, "image_id": moved[result["image_id"]]} for result in expected]

    # all of it is done again when it is asked for again, and by other runs or settings
    for runs, least in ((("quick/fcn", "quick/unet"), 0.3), (("quick/fcn",), LOW)):
        reader(stop_at=3)
        with pytest.raises(SystemExit):
            predicted(images, results, output, "quick/fcn", "quick/unet")
        assert len(read) == 3
        reader(stop_at=None)
        predicted(images, results, output, *runs, score=least)
        assert len(read) == 5
