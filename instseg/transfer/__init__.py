"""First weights from Mask R-CNNs that were trained before: of this suite, torchvision or detectron2."""

from instseg.transfer.load import Report, load
from instseg.transfer.sources import TRAINED_AS, Source, find, identity, label, read, short_identity

__all__ = ["TRAINED_AS", "Report", "Source", "find", "identity", "label", "load", "read", "short_identity"]
