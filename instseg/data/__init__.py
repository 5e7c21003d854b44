"""Data sets on disk (or from a seed) -> samples -> batches."""

from instseg.data.dataset import InstanceDataset
from instseg.data.sets import build, check_files, names, options, source

__all__ = ["InstanceDataset", "build", "check_files", "names", "options", "source"]
