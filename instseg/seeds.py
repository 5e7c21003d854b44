"""Random streams that depend on names and counters, never on what was drawn before."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *keys: int | str) -> int:
    """A seed of its own for each (seed, keys), the same on every machine; 0 <= seed < 2^63."""
    words: list[int] = [seed]
    for key in keys:
        words += [len(key), *key.encode()] if isinstance(key, str) else [key]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def stream(seed: int, *keys: int | str) -> Iterator[None]:
    """Inside, torch's CPU generator gives the stream of (seed, keys); afterwards it continues its own stream."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive(seed, *keys))
        yield
