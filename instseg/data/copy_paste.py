"""Objects of one picture pasted into another: G. Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation
Method for Instance Segmentation", CVPR 2021."""

import torch
from torchvision import tv_tensors

from instseg.data.dataset import Sample, areas
from instseg.data.instances import joined, select, settled


def paste(sample: Sample, partner: Sample, *, min_area: int, min_visible: float) -> Sample:
    """A random number of a partner's objects, any of them, on top of a sample.

    Pasted pixels leave the masks that lay there. Instances with too little left are dropped; the boxes of those that
    lost pixels are put around the rest. Edges are not blended, which made no difference in the paper.

    Args:
        sample: the picture that is pasted into; ``area`` is that of its masks.
        partner: the picture that is pasted from, of the same size.
        min_area: least pixels of a mask that was covered in part.
        min_visible: least share of its pixels that must still be seen.

    Returns:
        The sample with the partner's objects behind its own in the target.
    """
    (image, target), (other_image, other) = sample, partner
    count = len(other["labels"])
    if not count:
        return sample
    number = int(torch.randint(1, count + 1, ()))
    pasted = select(other, torch.randperm(count)[:number])
    covered = pasted["masks"].as_subclass(torch.Tensor).view(torch.bool).any(dim=0)
    masks = target["masks"].as_subclass(torch.Tensor).masked_fill(covered, 0)
    before = target["area"]
    target = settled(
        {**target, "masks": tv_tensors.Mask(masks)},
        areas(masks) < before,
        (min_visible * before).clamp(min=min_area),
    )
    pixels = torch.where(covered, other_image.as_subclass(torch.Tensor), image.as_subclass(torch.Tensor))
    return tv_tensors.Image(pixels), joined(target, pasted)
