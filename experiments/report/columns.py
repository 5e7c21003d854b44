"""What the tables of CSV files hold again and again, and the names of its columns, which are made here alone."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from experiments.render import table
from instseg.statistics.verdict import Comparison


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation of a number over runs.

    Attributes:
        n: how many runs have the number.
    """

    mean: float = math.nan
    std: float = math.nan
    n: float = math.nan

    @classmethod
    def over(cls, values: pd.Series) -> "Mean":
        """Over the runs that have the number."""
        values = values.dropna().astype(float)
        return cls(values.mean(), values.std(ddof=1), len(values))

    def columns(self, name: str) -> dict[str, float]:
        """As columns of a CSV file."""
        return {f"{name}_mean": self.mean, f"{name}_std": self.std, f"{name}_n": self.n}

    def __str__(self) -> str:
        return table.mean_std(self.mean, self.std)


def difference_columns(comparison: Comparison, prefix: str = "") -> dict[str, Any]:
    """A difference as it was measured."""
    low, high = comparison.interval
    return {
        f"{prefix}diff": comparison.value,
        f"{prefix}diff_low": low,
        f"{prefix}diff_high": high,
        f"{prefix}diff_n": comparison.pairs,
        f"{prefix}diff_p": comparison.p,
    }


def verdict_columns(comparison: Comparison, prefix: str = "") -> dict[str, Any]:
    """What Holm's correction makes of it, and the verdict."""
    low, high = comparison.corrected_interval
    return {
        f"{prefix}diff_p_holm": comparison.corrected_p,
        f"{prefix}diff_holm_low": low,
        f"{prefix}diff_holm_high": high,
        f"{prefix}real": comparison.is_real,
    }
