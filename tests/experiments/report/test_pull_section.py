"""The table of pulls, and what is said of gains that an FCN of the same pull has, too."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic

from experiments.report import build, pull
from experiments.report.section import Content, Findings
from experiments.runs.study import read

CONTROL = {"by": "pull", "variant": "refinemask", "name": "refinemask", "options": {"loss_weight": 1.0}}


def _study(folder: Path, noises: dict[str, float], pulls: dict[str, float], **changes: Any) -> Path:
    """A study whose variants pull as hard as given: twice as hard in the first tenth, seed 1 by one more."""
    study = folder / "study"
    for variant, noise in noises.items():
        of = CONTROL if "_pull_of_" in variant else None
        options = {"loss_weight": 2.5 if of else 1.0}
        head = {"name": variant.split("_")[0], "options": options, "control_of": of}
        for seed in range(3):
            run = synthetic.make_run(study, variant, noise, seed=seed, images=12, head=head, **changes)
            _log_pulls(run / "metrics.jsonl", pulls[variant] + seed % 2)
    return study


def _log_pulls(path: Path, mean: float) -> None:
    lines = []
    for line in map(json.loads, path.read_text().splitlines()):
        if "eval" not in line:
            factor = 2 if line["iteration"] <= 30 else 1
            line |= {"pull_mask": factor * mean, "pull_box": 4.0}
        lines.append(json.dumps(line))
    path.write_text("".join(f"{line}\n" for line in lines))


def _content(study: Path) -> tuple[Content, pd.DataFrame]:
    content = pull.make(Findings(read(study), "fcn", 50))
    assert content.table is not None
    return content, content.table.numbers.set_index("variant")


def test_means_are_over_the_first_tenth_and_over_all(tmp_path: Path) -> None:
    content, numbers = _content(_study(tmp_path, {"fcn": 2.0, "unet": 2.0}, {"fcn": 1.0, "unet": 3.0}))
    row = numbers.loc["fcn"]
    assert row["pull_mask_first_mean"] == pytest.approx(2 * 4 / 3)
    assert row["pull_mask_first_std"] == pytest.approx(2 * 3**-0.5)
    assert row["pull_mask_all_mean"] == pytest.approx(4 / 3 * 1.1)
    assert row["pull_box_all_mean"] == 4.0 and row["ratio_first_mean"] == pytest.approx(2 / 3)
    assert (row["n"], row["loss_weight"]) == (3, 1.0)
    assert pd.isna(row["diff"]) and pd.isna(row["pull_control"])
    # no difference told apart and no control: nothing to say, and no column of differences
    assert content.notes == [] and content.skipped == []
    assert content.table is not None
    assert "FCN of its pull" not in " ".join(content.table.text.columns)
    assert content.table.text.set_index("variant").loc["unet", "mask, first tenth"] == "6.67 ± 1.15"


def test_iterations_count_the_same_however_they_were_logged(tmp_path: Path) -> None:
    study = _study(tmp_path, {"fcn": 2.0}, {"fcn": 1.0})
    for path in study.glob("runs/*/metrics.jsonl"):
        lines = [{"iteration": n, "loss": 1.0, "pull_mask": p, "pull_box": 1.0} for n, p in ((10, 3.0), (40, 7.0))]
        path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"iteration": 50, "loss": 1.0}]))
    _, numbers = _content(study)
    assert numbers.loc["fcn", "pull_mask_first_mean"] == 3.0
    assert numbers.loc["fcn", "pull_mask_all_mean"] == pytest.approx((10 * 3 + 30 * 7) / 40)


def test_a_first_line_behind_the_first_tenth_stands_for_it(tmp_path: Path) -> None:
    study = _study(tmp_path, {"fcn": 2.0}, {"fcn": 1.0})
    for path in study.glob("runs/*/metrics.jsonl"):
        lines = [{"iteration": n, "loss": 1.0, "pull_mask": 5.0 * n, "pull_box": 1.0} for n in (100, 200)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _content(study)[1].loc["fcn", "pull_mask_first_mean"] == 500.0


PULLS = {"fcn": 1.0, "refinemask": 2.5, "fcn_pull_of_refinemask": 2.5}


@pytest.mark.parametrize(
    ("noises", "meaning"),
    [
        (
            {"refinemask": 0.4, "fcn_pull_of_refinemask": 0.4},
            "the gain is not the head's: an FCN that pulls as hard is as good",
        ),
        ({"refinemask": 0.4, "fcn_pull_of_refinemask": 3.0}, "an FCN that pulls as hard gains less"),
        ({"refinemask": 3.0, "fcn_pull_of_refinemask": 0.4}, "an FCN that pulls as hard is better"),
        ({"refinemask": 3.0, "fcn_pull_of_refinemask": 3.0}, "an FCN that pulls as hard is as good"),
    ],
)
def test_what_a_control_says_of_a_gain(tmp_path: Path, noises: dict[str, float], meaning: str) -> None:
    study = _study(tmp_path, {"fcn": 3.0, **noises}, PULLS)
    content, numbers = _content(study)
    row = numbers.loc["refinemask"]
    assert row["pull_control"] == "fcn_pull_of_refinemask" and row["diff_n"] == 3
    assert numbers.loc["fcn_pull_of_refinemask", "loss_weight"] == 2.5
    gap = [read(study).counted(name)["mask_AP"].mean() for name in noises]
    assert row["diff"] == pytest.approx(gap[0] - gap[1], abs=1e-6)
    (note,) = [note for note in content.notes if note.startswith("refinemask: ")]
    assert note.endswith(f": {meaning}") and " mask AP to fcn, " in note and "] to the FCN of its pull: " in note
    # of a control itself nothing is said
    assert len(content.notes) == 1


def test_a_gain_without_a_control_asks_for_one_where_something_is_pulled(tmp_path: Path) -> None:
    noises, pulls = {"fcn": 3.0, "refinemask": 0.4}, {"fcn": 1.0, "refinemask": 4.0}
    (note,) = _content(_study(tmp_path / "a", noises, pulls))[0].notes
    assert "with 3.2 times its pull" in note and "control=pull would show" in note
    content, _ = _content(_study(tmp_path / "b", noises, pulls, protocol="frozen_core"))
    assert content.notes == [] and "On a frozen core nothing is pulled" in content.text[1]


def test_a_control_of_other_options_or_settings_is_no_control(tmp_path: Path) -> None:
    study = _study(tmp_path, {"fcn": 3.0, "refinemask": 0.4, "fcn_pull_of_refinemask": 0.4}, PULLS)
    for changes in ({"head": {"options": {"loss_weight": 3.0}}}, {"protocol": "frozen_core"}):
        changed = tmp_path / next(iter(changes))
        shutil.copytree(study, changed)
        for path in changed.glob("runs/refinemask-*/result.json"):
            result = json.loads(path.read_text())
            for key, value in changes.items():
                result[key] = {**result[key], **value} if isinstance(value, dict) else value
            path.write_text(json.dumps(result))
        assert pd.isna(_content(changed)[1].loc["refinemask", "pull_control"])


def test_the_report_has_the_section_where_pulls_were_logged_and_is_silent_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pull.SECTION in build.SECTIONS
    # the others take their time to draw
    monkeypatch.setattr(build, "SECTIONS", (pull.SECTION,))
    study = _study(tmp_path, {"fcn": 3.0, "refinemask": 0.4, "fcn_pull_of_refinemask": 0.4}, PULLS)
    text = build.build(study, "fcn", 20)
    assert "pull.csv|md|tex" in text and "mask, first tenth" in text
    assert "note: refinemask: " in text and "the gain is not the head's: an FCN that pulls as hard is as good" in text
    for ending in ("csv", "md", "tex"):
        assert (study / f"pull.{ending}").stat().st_size > 100
    for path in study.glob("runs/*/metrics.jsonl"):
        path.unlink()
    text = build.build(study, "fcn", 20)
    assert "pull of" not in text and "pull.csv" not in text and "first tenth" not in text
    assert not list(study.glob("pull.*"))
