"""Progress bars that are readable on a terminal and in a log."""

import sys
from typing import Any

from tqdm import tqdm


def bar(**options: Any) -> tqdm:
    """A tqdm bar; where stderr is no terminal it says where it is every ten seconds instead of ten times a second."""
    live = sys.stderr.isatty()
    return tqdm(dynamic_ncols=live, mininterval=0.1 if live else 10, maxinterval=10, **options)
