"""COCO 2017: 118,287 training and 5,000 validation photographs with instances of 80 classes.

Source: T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org.
"""

from pathlib import Path

from instseg.data.annotated import AnnotatedImages
from instseg.data.annotations.coco_file import read_coco
from instseg.data.annotations.faults import Invalid
from instseg.data.archives.fetch import Archive, Source
from instseg.data.folders import find_root
from instseg.data.split import check_split
from instseg.errors import DataError

_SERVER = "http://images.cocodataset.org"


class Coco2017(AnnotatedImages):
    """COCO 2017 as its archives unpack, one split: ``annotations/instances_{split}2017.json`` and ``{split}2017/``."""

    # The publisher gives no checksums. These sizes and SHA-256 are those that independent public projects record
    # alike, KerasCV's and ParlAI's lists of downloads among them. Small archives first: what is wrong with the network
    # or the disk shows at once.
    SOURCE = Source(
        "coco",
        ("annotations", "val2017", "train2017"),
        (
            Archive(
                f"{_SERVER}/annotations/annotations_trainval2017.zip",
                "annotations",
                size=252_907_541,
                unpacked=850_000_000,
                sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            ),
            Archive(
                f"{_SERVER}/zips/val2017.zip",
                "val2017",
                size=815_585_330,
                unpacked=815_000_000,
                sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            ),
            Archive(
                f"{_SERVER}/zips/train2017.zip",
                "train2017",
                size=19_336_861_798,
                unpacked=19_330_000_000,
                sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            ),
        ),
    )

    def __init__(self, split: str, *, root: Path, images: int | None = None, invalid: Invalid = "error") -> None:
        check_split(split, images)
        layout = (
            f"annotations/instances_{split}2017.json and {split}2017/ are expected, or a folder coco/ with them; "
            "python -m experiments.data dataset=coco download=true fetches COCO 2017, 19 GB, from "
            "https://cocodataset.org/#download"
        )
        folder = find_root(root, self.SOURCE.folder, self.SOURCE.parts, layout)
        annotations, photographs = folder / "annotations" / f"instances_{split}2017.json", folder / f"{split}2017"
        for path in (annotations, photographs):
            if not path.exists():
                raise DataError(f"{path} does not exist: {layout}")
        contents = read_coco(annotations, photographs, invalid=invalid, limit=images)
        super().__init__(contents, photographs, name="coco", source=annotations)
