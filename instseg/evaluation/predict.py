"""Models' detections on a data set, as COCO results."""

from collections.abc import Sequence

import torch

from instseg import progress
from instseg.data.dataset import InstanceDataset
from instseg.data.loader import pictures, to_unit
from instseg.detector.mask_rcnn import MaskRCNN, in_rle
from instseg.evaluation.coco import Results, to_results
from instseg.training.loop import autocast


def predict(
    model: MaskRCNN,
    dataset: InstanceDataset,
    *,
    device: torch.device,
    batch_size: int = 4,
    workers: int = 0,
    precision: str = "float32",
    title: str = "evaluate",
) -> Results:
    """Detections on every picture. Leaves the model in evaluation mode.

    Raises:
        DataError: a picture cannot be read.
    """
    (results,) = predict_each(
        [model], dataset, device=device, batch_size=batch_size, workers=workers, precision=precision, title=title
    )
    return results


@torch.inference_mode()
def predict_each(
    models: Sequence[MaskRCNN],
    dataset: InstanceDataset,
    *,
    device: torch.device,
    batch_size: int = 4,
    workers: int = 0,
    precision: str = "float32",
    title: str = "evaluate",
) -> list[Results]:
    """:func:`predict` for models that share all but the mask head: the boxes are found once."""
    for model in models:
        model.eval()
    category_ids = [category["id"] for category in dataset.categories]
    results: list[Results] = [[] for _ in models]
    with progress.bar(total=len(dataset), desc=title, unit="img", nested=True) as bar:
        for indices, images in pictures(dataset, batch_size=batch_size, workers=workers):
            image_ids = [dataset.image_ids[i] for i in indices]
            batch = [to_unit(image, device) for image in images]
            with autocast(device, precision):
                found = models[0].find(batch)
                for model, one in zip(models, results, strict=True):
                    masks = model.mask_head.predict(found.rois, found.labels)
                    one += to_results(in_rle(found.with_masks(masks), batch), image_ids, category_ids)
            bar.update(len(indices))
    return results
