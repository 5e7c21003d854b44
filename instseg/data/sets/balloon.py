"""The balloon data set: 61 training and 13 validation photographs with balloons as VIA polygons.

Source: W. Abdulla, "Splash of Color: Instance Segmentation with Mask R-CNN and TensorFlow", 2018, and the data set's
release at https://github.com/matterport/Mask_RCNN/releases/tag/v2.1.
"""

from pathlib import Path

from instseg.data.annotated import AnnotatedImages
from instseg.data.annotations.faults import Invalid, drops
from instseg.data.annotations.via import read_via
from instseg.data.split import check_split
from instseg.errors import DataError, UserError

FOLDER = "balloon"
FILE = "via_region_data.json"
URL = "https://github.com/matterport/Mask_RCNN/releases/download/v2.1/balloon_dataset.zip"

_LAYOUT = (
    f"{FOLDER}/ with train/{FILE} and val/{FILE} beside the photos is expected, as {URL} unpacks; "
    "python -m experiments.data dataset=balloon download=true fetches it"
)


class Balloon(AnnotatedImages):
    """Balloon, one split.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder ``balloon`` or the one that holds it.
        images: keep only the first so many images of the split, by name.
        invalid: whether regions that cannot be instances are left out, or an error.

    Raises:
        UserError: no such split, or ``images`` or ``invalid`` has no such value.
        DataError: a folder or file is missing or cannot be used, in one line with the file.
    """

    def __init__(self, split: str, *, root: Path, images: int | None = None, invalid: Invalid = "drop") -> None:
        check_split(split)
        drop = drops(invalid)
        if images is not None and images < 1:
            raise UserError(f"images={images}: at least 1 image must be kept")
        source = _found(Path(root)) / split / FILE
        if not source.exists():
            raise DataError(f"{source} does not exist; {_LAYOUT}")
        contents = read_via(source, category="balloon", drop_invalid=drop, limit=images)
        super().__init__(contents, source.parent, name="balloon", source=source)


def _found(root: Path) -> Path:
    """The folder that holds the two splits."""
    if not root.is_dir():
        raise DataError(f"balloon folder {root} does not exist; {_LAYOUT}")
    for folder in (root / FOLDER, root):
        if (folder / "train").is_dir() or (folder / "val").is_dir():
            return folder
    raise DataError(f"{root} holds no balloon data set: {_LAYOUT}")
