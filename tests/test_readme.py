"""The README says what is so: its table is the committed one, its head works, its studies exist."""

import re
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from instseg.detector.mask_head import MaskHead
from instseg.detector.rois import RoIs

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_table_is_that_of_the_committed_runs() -> None:
    (shown,) = re.findall(r"<!-- summary of (\S+) -->\n(.*?)<!-- end of summary -->", TEXT, re.DOTALL)
    assert shown[1] == (ROOT / shown[0] / "summary.md").read_text()


def test_the_rates_are_those_of_the_committed_benchmarks() -> None:
    rows = re.findall(
        r"\| ([\d.,]+) \w+/s \| ([\d.,]+|–).*?\| \[([\d.]+|file)\]\((results/reference/speed/\S+)\.md\) \|", TEXT
    )
    assert len(rows) >= 8
    for *shown, file in rows:
        measured = pd.read_csv(ROOT / f"{file}.csv")
        (column,) = (name for name in measured if name.endswith("per_s_median"))
        numbers = [*measured[column].dropna(), *measured["ratio"].dropna()]
        written = (
            {f"{n:.3g}" for n in numbers}
            | {f"{n:.{d}f}" for n in numbers for d in (1, 2)}
            | {f"{n:,.0f}" for n in numbers}
        )
        assert {s for s in shown if s not in ("–", "file")} <= written, file


def test_files_that_it_names_are_there() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / link).exists(), link


def test_every_study_is_in_its_table() -> None:
    for path in (ROOT / "experiments" / "conf" / "study").glob("*.yaml"):
        assert re.search(rf"^\|.*`{path.stem}`", TEXT, re.MULTILINE), path.stem


def test_every_head_in_its_table_is_there() -> None:
    # not the other way round: a head of one's own is one file and one configuration
    (table,) = re.findall(r"## Mask heads\n(.*?)\n## ", TEXT, re.DOTALL)
    first = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    shown = re.findall(r"`(\w+)`", first)
    known = {path.stem for path in (ROOT / "experiments" / "conf" / "head").glob("*.yaml")}
    assert len(shown) > 20 and set(shown) <= known


def test_the_head_that_it_shows_works() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    # `Tensor` and `nn` come from the snippet's own imports
    space: dict[str, object] = {"__name__": "heads.tiny"}
    exec(code, space)
    (tiny,) = [v for v in space.values() if isinstance(v, type) and issubclass(v, MaskHead) and v is not MaskHead]
    rois = RoIs({2: torch.rand(1, 8, 16, 16)}, [torch.tensor([[0.0, 0.0, 30.0, 40.0]])])
    logits = tiny(8, 3, width=4)(rois)  # type: ignore[call-arg]
    assert isinstance(logits, Tensor)
    assert logits.shape == (1, 3, 28, 28)
