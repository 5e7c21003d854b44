"""Heads that begin decided: a few steps leave the masks of others all below 0.5, and a test of masks needs some."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from experiments.runs import first_logits
from heads import _blocks


@contextmanager
def decided_heads() -> Iterator[None]:
    """Inside, layers that make mask logits begin with large weights."""
    with patch.object(_blocks, "FIRST_DEVIATION", 1.0):
        yield
    # what is remembered of these heads is not true of others
    first_logits._first_loss.cache_clear()
