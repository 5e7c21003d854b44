"""The smallest model and data that still have every part."""

from pathlib import Path
from typing import Any

import torch

import heads
from instseg import detector, seeds
from instseg.data.batches import loader, transforms
from instseg.data.sets.generated import Generated
from instseg.detector import MaskRCNN
from instseg.evaluation.predict import Inference
from instseg.training.loop import train
from instseg.training.schedule import Schedule

CPU = torch.device("cpu")
INFERENCE = Inference(CPU)


def data(split: str = "train", images: int = 6) -> Generated:
    return Generated(split, images=images, size=(64, 64), seed=0, figures=(1, 2))


def model(head: str = "fcn", seed: int = 0, norm: str = "batch") -> MaskRCNN:
    with seeds.stream(seed):
        mask_head = heads.build(head, 8, 2)
        return detector.build(
            "small",
            head=mask_head,
            num_classes=2,
            norm=norm,
            out_channels=8,
            min_size=64,
            max_size=64,
            resize_in_training=False,
            anchor_sizes=[[12], [24], [32], [48], [64]],
            box_features=16,
            rpn_pre_nms_top_n_train=50,
            rpn_post_nms_top_n_train=20,
            rpn_pre_nms_top_n_test=50,
            rpn_post_nms_top_n_test=20,
            box_batch_size_per_image=16,
            box_detections_per_img=5,
        )


def recipe(iterations: int = 4, **others: Any) -> Schedule:
    others = {"batch_size": 2, "optimizer": "adamw", "lr": 1e-3, "warmup": 2, **others}
    return Schedule(iterations=iterations, **others)


def batches(iterations: int, start: int = 0, *, batch_size: int = 2, workers: int = 0, seed: int = 0) -> Any:
    dataset = data()
    transform = transforms.TrainTransform(flip=0.5, min_size=[48, 64], max_size=80)
    return loader.training_batches(
        dataset,
        dataset.trainable_indices(),
        transform,
        batch_size=batch_size,
        iterations=iterations,
        seed=seed,
        start=start,
        workers=workers,
    )


def trained(folder: Path, schedule: Schedule, given: MaskRCNN | None = None, **options: Any) -> MaskRCNN:
    """Train in ``folder``, going on from its checkpoint; ``feed`` may replace the batches."""
    net = model() if given is None else given
    feed = options.pop("feed", lambda start: batches(schedule.iterations, start, batch_size=schedule.batch_size))
    options = {"seed": 0, "device": CPU, "checkpoint_every": 2, "log_every": 1, **options}
    (result,) = train([net], schedule, feed, [folder], **options)
    if result.error is not None:
        raise result.error
    return net
