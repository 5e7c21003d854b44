"""Objects of one image pasted into another: G. Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation
Method for Instance Segmentation", CVPR 2021."""

import torch
from torchvision import tv_tensors

from instseg.data.batches.instances import joined, sanitized, tight_box
from instseg.data.dataset import Sample


def paste(sample: Sample, partner: Sample, *, min_area: int, min_visible: float) -> Sample:
    """Paste a random subset of a partner's objects on top of a sample.

    Masks lose the pixels that are pasted over. Instances with too little left are dropped; those that lost pixels get
    new tight boxes. Edges are not blended, which made no difference in the paper.

    Args:
        sample, partner: of one size; ``area`` is that of the masks.
        min_area: least pixels of a mask that was covered in part.
        min_visible: least share of its pixels that must stay visible.

    Returns:
        The sample with the partner's objects behind its own in the target.
    """
    (image, target), (other_image, other) = sample, partner
    count = len(other["labels"])
    if not count:
        return sample
    number = int(torch.randint(1, count + 1, ()))
    chosen = torch.randperm(count)[:number].tolist()
    own = len(target["labels"])
    target = joined(target, other, chosen)
    masks = target["masks"].as_subclass(torch.Tensor)
    covered = masks[own:].amax(dim=0)
    left, top, right, bottom = tight_box(covered)
    window = (..., slice(top, bottom), slice(left, right))
    free = 1 - covered[window]
    # only where something is pasted: whole masks are large
    lost = torch.zeros(len(masks), dtype=torch.bool)
    for i, mask in enumerate(masks[:own]):
        under = mask[window]
        lost[i] = bool((under > free).any())
        under &= free
    least = (min_visible * target["area"]).clamp(min=min_area)
    least[own:] = 1
    pixels = image.as_subclass(torch.Tensor).clone()
    pixels[window] = torch.where(free.bool(), pixels[window], other_image.as_subclass(torch.Tensor)[window])
    return tv_tensors.Image(pixels), sanitized(target, lost, least)
