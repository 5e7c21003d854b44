"""What tests of all rooms share."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # test files run side by side, one a core: threads of torch in each would take the cores from one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instseg.errors import DataError


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets that INSTSEG_DATA names."""
    named = os.environ.get("INSTSEG_DATA")
    if not named:
        pytest.skip("INSTSEG_DATA is not set, so there is no real data to read")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"INSTSEG_DATA={named} is no folder, so there is no real data to read")
    return folder


@pytest.fixture
def refused() -> Callable[..., str]:
    """Checks that a call raises a one-line error with all these parts in it, and returns that line."""

    def check(call: Callable[[], Any], *parts: object, error: type[Exception] = DataError) -> str:
        with pytest.raises(error) as caught:
            call()
        line = str(caught.value)
        assert len(line.splitlines()) == 1
        for part in parts:
            assert str(part) in line
        return line

    return check
