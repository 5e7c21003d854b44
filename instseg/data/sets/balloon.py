"""The balloon data set: 61 training and 13 validation photographs with balloons as VIA polygons.

Source: W. Abdulla, "Splash of Color: Instance Segmentation with Mask R-CNN and TensorFlow", 2018, and the data set's
release at https://github.com/matterport/Mask_RCNN/releases/tag/v2.1.
"""

from pathlib import Path

from instseg.data.annotated import AnnotatedImages
from instseg.data.annotations.faults import Invalid
from instseg.data.annotations.via import read_via
from instseg.data.archives.fetch import Archive, Source
from instseg.data.folders import find_root
from instseg.data.split import check_split
from instseg.errors import DataError

FILE = "via_region_data.json"
URL = "https://github.com/matterport/Mask_RCNN/releases/download/v2.1/balloon_dataset.zip"

_LAYOUT = (
    f"balloon/ with train/{FILE} and val/{FILE} beside the photos is expected, as {URL} unpacks; "
    "python -m experiments.data dataset=balloon download=true fetches it"
)


class Balloon(AnnotatedImages):
    """Balloon, one split; its images are in the order of their names."""

    # neither the publisher nor enough independent projects give a checksum
    SOURCE = Source("balloon", ("train", "val"), (Archive(URL, "balloon", size=39_000_000, unpacked=40_000_000),))

    def __init__(self, split: str, *, root: Path, images: int | None = None, invalid: Invalid = "drop") -> None:
        check_split(split, images)
        path = find_root(root, self.SOURCE.folder, self.SOURCE.parts, _LAYOUT) / split / FILE
        if not path.exists():
            raise DataError(f"{path} does not exist; {_LAYOUT}")
        contents = read_via(path, category="balloon", invalid=invalid, limit=images)
        super().__init__(contents, path.parent, name="balloon", source=path)
