"""``plan.json`` made up by hand."""

from typing import Any

from experiments.runs.plan_file import FrozenPlan, Promise

SPREADS = {"images": 1.0, "training": 0.5, "seed_images": 0.3, "training_set": 0.0}


def frozen(variants: tuple[str, ...] = ("fcn", "unet"), seeds: int = 2, **changes: Any) -> FrozenPlan:
    """The plan of a study of :func:`synthetic.make_study`, made before its runs."""
    values: dict[str, Any] = {
        "date": "2025-12-31T00:00:00+00:00",
        "commit": "0123456789abcdef",
        "metric": "mask AP",
        "margin": 1.0,
        "baseline": "fcn",
        "contrasts": [],
        "detect": 1.0,
        "power": 0.8,
        "runs": {variant: {"0": list(range(seeds))} for variant in variants},
        "settings": {"iterations": 300},
        "promises": [Promise("unet", "fcn", 12.34, SPREADS)],
    }
    return FrozenPlan(**values | changes)
