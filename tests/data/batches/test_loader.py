"""Batches are the same from any number of workers, and workers hand them over in few files."""

import gc
import os
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_files import Files, document

from instseg.data.batches import loader, transforms
from instseg.data.batches.packed_batch import PackedBatch
from instseg.data.dataset import InstanceDataset
from instseg.data.sets.generated import Generated
from instseg.errors import DataError


def batches(data: InstanceDataset, *, iterations: int = 4, batch_size: int = 3, **options: Any) -> list[loader.Batch]:
    transform = transforms.TrainTransform(flip=0.5, min_size=[48, 64], max_size=96)
    return list(
        loader.training_batches(
            data, data.trainable_indices(), transform, batch_size=batch_size, iterations=iterations, seed=1, **options
        )
    )


def leaves(batch: loader.Batch) -> list[Any]:
    images, targets = batch
    return [*images, *(target[key] for target in targets for key in sorted(target))]


def check_same(first: list[loader.Batch], second: list[loader.Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert [sorted(target) for target in a[1]] == [sorted(target) for target in b[1]]
        for one, other in zip(leaves(a), leaves(b), strict=True):
            assert type(one) is type(other)
            if isinstance(one, torch.Tensor):
                assert one.dtype == other.dtype
                assert one.stride() == other.stride()
                assert torch.equal(one, other)
            else:
                assert one == other


@pytest.fixture
def data() -> Generated:
    return Generated("train", images=5, size=(64, 64), seed=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers_or_restarts(data: Generated, workers: int) -> None:
    expected = batches(data)
    check_same(expected, batches(data, workers=workers))
    check_same(expected[2:], batches(data, workers=workers, start=2))


def test_coco_images_and_masks_survive_the_hand_over(tmp_path: Path) -> None:
    data = Files(tmp_path).load(document())
    check_same(batches(data), batches(data, workers=1))
    in_process, by_worker = (list(loader.read_images(data, batch_size=2, workers=n)) for n in (0, 1))
    assert [indices for indices, _ in by_worker] == [indices for indices, _ in in_process] == [[0, 1], [2]]
    for (_, one), (_, other) in zip(in_process, by_worker, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_damaged_image_is_the_same_one_line_from_a_worker(tmp_path: Path) -> None:
    files = Files(tmp_path)
    data = files.load(document())
    path = files.images / "7.png"
    path.write_bytes(path.read_bytes()[:40])
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"7\.png"):
            batches(data, workers=workers)


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files by /proc")
def test_a_batch_from_a_worker_holds_few_files_open(data: Generated) -> None:
    def files() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = files()
    held = batches(data, batch_size=16, iterations=2, workers=1)
    # on a busy machine the worker's own pipes are closed a little later
    deadline = time.monotonic() + 20
    # one for each of uint8, float32 and int64, and nothing else of the 96 tensors of a batch
    while files() - before > 3 * len(held):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_packed_batch_gives_back_what_was_put_in() -> None:
    wide = torch.arange(24.0).reshape(2, 3, 4)
    images = [wide, wide.permute(1, 2, 0), wide[:, ::2]]
    targets: list[dict[str, Any]] = [
        {"ids": torch.tensor([3, 4]), "image_id": 7, "boxes": torch.zeros(0, 4)},
        {"ids": torch.zeros((2, 0), dtype=torch.int64), "area": torch.tensor(2, dtype=torch.uint8), "rest": [1, None]},
    ]
    unpacked_images, unpacked = PackedBatch((images, targets)).open()
    assert all(torch.equal(a, b) for a, b in zip(unpacked_images, images, strict=True))
    assert unpacked_images[1].stride() == wide.permute(1, 2, 0).stride()
    assert unpacked[0]["ids"].tolist() == [3, 4] and unpacked[0]["image_id"] == 7
    assert unpacked[1]["area"].item() == 2 and unpacked[1]["rest"] == [1, None]
    assert [tuple(tensor.shape) for tensor in (unpacked[0]["boxes"], unpacked[1]["ids"])] == [(0, 4), (2, 0)]
    assert [list(target) for target in unpacked] == [list(target) for target in targets]


def test_batches_are_of_tall_or_of_wide_images_and_leave_nobody_out() -> None:
    indices, tall = list(range(100, 111)), [i % 4 == 0 for i in range(11)]
    order = list(islice(loader.batch_order(indices, tall, 3, 0), 40))
    assert [len(batch) for batch in order] == [3] * 40
    for batch in order:
        assert len({tall[index - 100] for index, _ in batch}) == 1
    drawn = [position for batch in order for _, position in batch]
    assert len(set(drawn)) == 120
    counts = Counter(index for batch in order for index, _ in batch)
    # 120 samples of 11 images, and no image waits for longer than until its kind is drawn again
    assert set(counts) == set(indices)
    assert max(counts.values()) - min(counts.values()) <= 2
    assert list(islice(loader.batch_order(indices, tall, 3, 0), 17, 40)) == order[17:]


def test_images_of_one_kind_come_in_the_order_they_are_drawn() -> None:
    order = list(islice(loader.batch_order(list(range(7)), [False] * 7, 2, 3), 14))
    assert [position for batch in order for _, position in batch] == list(range(28))
    for epoch in range(4):
        flat = [index for batch in order for index, _ in batch][7 * epoch : 7 * epoch + 7]
        assert sorted(flat) == list(range(7))


def test_sizes_are_those_of_the_images(tmp_path: Path, data: Generated) -> None:
    for one in (data, Files(tmp_path).load(document())):
        assert one.sizes() == [tuple(one[i][0].shape[-2:]) for i in range(len(one))]


@pytest.mark.parametrize("workers", [0, 1])
def test_every_image_is_examined_and_faults_are_told(tmp_path: Path, workers: int) -> None:
    files = Files(tmp_path)
    data = files.load(document())
    (files.images / "8.png").write_bytes((files.images / "9.png").read_bytes()[:50])
    (files.images / "9.png").write_bytes((files.images / "7.png").read_bytes())
    (first, _, one), (second, fault, none), (third, _, same) = loader.verify_images(data, [0, 1, 2], workers=workers)
    assert (first, second, third) == (0, 1, 2)
    assert fault is not None and "8.png" in fault and none == b""
    assert one == same != b""
    assert [index for index, _, _ in loader.verify_images(data, [2], workers=workers)] == [2]
