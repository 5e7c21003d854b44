"""Tables of what goes by image and by kind of object: as CSV for machines and as Markdown and LaTeX for people."""

from pathlib import Path

import pandas as pd

from experiments.render import table as tables
from experiments.report.predictions import SCORE, THIRDS, TIE

_MASKS = ("mask", "boundary")
_SIZES = {"APs": "small", "APm": "medium", "APl": "large"}


def write_win_tie_loss(folder: Path, found: pd.DataFrame) -> list[Path]:
    """``win_tie_loss.csv|md|tex`` from the frame of :func:`experiments.report.predictions.win_tie_loss`."""
    note = (
        "Held-out images with objects, by the mean over their objects of the mask IoU with the prediction above "
        f"score {SCORE} of the same category, 0 for a missed object; mean over pairs of runs. Equal: within {TIE}."
    )
    return tables.write_all(folder / "win_tie_loss", found, win_tie_loss_text(found), note)


def win_tie_loss_text(found: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it."""
    numbers = {key: found[key].astype(str) for key in ("images", "better", "equal", "worse")}
    differences = [f"{difference:+.3f}" for difference in found["iou_diff"]]
    text = {"variant": found["variant"], "compared with": found["compared_with"], **numbers, "mean Δ IoU": differences}
    return pd.DataFrame(text | {"runs": found["pairs"].astype(str)})


def write_ap_by_object(folder: Path, ap: pd.DataFrame, thirds: pd.DataFrame) -> list[Path]:
    """``ap_by_object.csv|md|tex`` from the frames of :func:`experiments.report.compare.compare` and
    :func:`experiments.report.predictions.by_complexity`."""
    kinds = [kind for kind in _MASKS if f"{kind}_APs_mean" in ap]
    columns = [f"{kind}_{metric}_{part}" for kind in kinds for metric in _SIZES for part in ("mean", "std", "n")]
    table = ap[["variant", *columns]].merge(thirds, on="variant", how="left")
    text: dict[str, list[str]] = {"variant": list(table["variant"])}
    headings = {f"{kind}_{metric}": f"{kind} {name}" for kind in kinds for metric, name in _SIZES.items()}
    for key, heading in (headings | {f"mask_AP_{third}": f"mask {third}" for third in THIRDS}).items():
        text[heading] = [tables.mean_std(row, key) for _, row in table.iterrows()]
    edges = thirds[["edge_low", "edge_high"]].dropna().drop_duplicates().to_numpy()
    parted = "; ".join(f"{low:.2f} and {high:.2f}" for low, high in edges)
    note = (
        "AP in percent, mean ± sample standard deviation over runs. Small, medium and large: COCO's sizes, parted at "
        "32² and 96² pixels. Simple, middling and complex: thirds of the data set's objects by perimeter² / (4π · area)"
        f"{f', parted at {parted}' if parted else ''}. {tables.MISSING}: no such objects."
    )
    return tables.write_all(folder / "ap_by_object", table, pd.DataFrame(text), note)
