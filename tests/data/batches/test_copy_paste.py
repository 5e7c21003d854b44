"""Copy-paste on images that are small enough to be worked out by hand."""

import torch
from torchvision import tv_tensors

from instseg.data.batches.copy_paste import paste
from instseg.data.dataset import Sample, make_target


def sample(value: int, *masks: str) -> Sample:
    """An image of one colour with masks drawn as rows of # and dots."""
    drawn = torch.tensor([[[int(c == "#") for c in row] for row in mask.split()] for mask in masks])
    drawn = drawn.reshape(-1, *SIZE).to(torch.uint8)
    # one column wider than the masks, so that it can be seen which are made anew
    boxes = torch.tensor([[0.0, 0, 6, 4]] * len(masks)).reshape(-1, 4)
    image = torch.full((3, *SIZE), value, dtype=torch.uint8)
    return tv_tensors.Image(image), make_target(boxes, torch.arange(len(masks)) + value, drawn, value)


SIZE = (4, 6)
WALL = "###... ###... ###... ###..."
DOT = "...... ...... ...... .....#"
BAR = "...... ###### ###### ......"


def test_an_object_hides_what_lies_under_it() -> None:
    torch.manual_seed(0)
    image, target = paste(sample(10, WALL, DOT), sample(20, BAR), min_area=1, min_visible=0.1)
    assert image[0].tolist() == [[10] * 6, [20] * 6, [20] * 6, [10] * 6]
    assert target["labels"].tolist() == [10, 11, 20] and target["image_id"] == 10
    assert target["masks"][0].tolist() == [[1, 1, 1, 0, 0, 0], [0] * 6, [0] * 6, [1, 1, 1, 0, 0, 0]]
    # what lost pixels has a new box, the others keep theirs
    assert target["boxes"].tolist() == [[0, 0, 3, 4], [0, 0, 6, 4], [0, 0, 6, 4]]
    assert target["area"].tolist() == [6, 1, 12]
    assert type(target["masks"]) is tv_tensors.Mask and type(target["boxes"]) is tv_tensors.BoundingBoxes


def test_what_is_hidden_or_nearly_so_is_dropped() -> None:
    under = "...... ###### ###### #....."
    for options, labels in (
        ({"min_area": 1, "min_visible": 0.0}, [11, 20]),
        ({"min_area": 2, "min_visible": 0.0}, [20]),
        ({"min_area": 1, "min_visible": 0.05}, [11, 20]),
        ({"min_area": 1, "min_visible": 0.1}, [20]),
    ):
        gone = "...... .####. ...... ......"
        _, target = paste(sample(10, gone, under), sample(20, BAR), **options)  # type: ignore[arg-type]
        assert target["labels"].tolist() == labels
        assert all(len(target[key]) == len(labels) for key in ("boxes", "masks", "area", "iscrowd"))


def test_nothing_to_paste_and_nothing_to_paste_on() -> None:
    full, empty = sample(10, WALL), sample(20)
    image, target = paste(full, empty, min_area=1, min_visible=0.1)
    assert (image == 10).all() and target["labels"].tolist() == [10]
    image, target = paste(empty, full, min_area=1, min_visible=0.1)
    assert image[0].tolist() == [[10] * 3 + [20] * 3] * 4 and target["labels"].tolist() == [10]
    assert target["image_id"] == 20


def test_any_number_of_objects_is_pasted_and_the_samples_stay_as_they_are() -> None:
    parts = ("#..... ...... ...... ......", ".#.... ...... ...... ......", "..#... ...... ...... ......")
    first, second = sample(10, WALL), sample(20, *parts)
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        image, target = paste(first, second, min_area=1, min_visible=0.1)
        chosen = target["labels"][1:] - 20
        assert (image[0, 0] == 20).nonzero()[:, 0].tolist() == sorted(chosen.tolist())
        assert target["area"][0] == 12 - len(chosen)
        seen.add(frozenset(chosen.tolist()))
    assert len(seen) == 7
    assert (first[0] == 10).all() and first[1]["masks"].sum() == 12 and second[1]["labels"].tolist() == [20, 21, 22]
