"""A model's detections on a data set, as COCO results."""

import torch

from instseg import progress
from instseg.data.dataset import InstanceDataset
from instseg.data.loader import pictures, to_unit
from instseg.detector.mask_rcnn import MaskRCNN
from instseg.evaluation.coco import Results, to_results
from instseg.training.loop import autocast


@torch.inference_mode()
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
    model.eval()
    category_ids = [category["id"] for category in dataset.categories]
    results: Results = []
    with progress.bar(total=len(dataset), desc=title, unit="img", nested=True) as bar:
        for indices, images in pictures(dataset, batch_size=batch_size, workers=workers):
            with autocast(device, precision):
                found = model.detect_rle([to_unit(image, device) for image in images])
            results += to_results(found, [dataset.image_ids[i] for i in indices], category_ids)
            bar.update(len(indices))
    return results
