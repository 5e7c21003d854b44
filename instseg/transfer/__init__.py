"""First weights from Mask R-CNNs that were trained before: of this suite, torchvision or detectron2."""

from instseg.transfer.load import Report, load
from instseg.transfer.sources import Source, find, identity, read

__all__ = ["Report", "Source", "find", "identity", "load", "read"]
