"""The order of variants: over which runs it is taken, its table, and what is said where little can be."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import make_run, make_study

from experiments.report import ranking
from experiments.report.ranking import Run, shared_runs
from experiments.report.section import Content, Findings
from experiments.runs.study import read
from instseg.statistics.resampling import RunScores

NOISE = {"fcn": 2.0, "near": 1.95, "far": 0.7, "worst": 4.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("results") / "ranks", NOISE, seeds=3, images=12, speed=False)


def made(folder: Path, baseline: str = "fcn") -> Content:
    return ranking.make(Findings(read(folder), baseline, 100))


def numbers(content: Content) -> pd.DataFrame:
    assert content.table is not None
    return content.table.numbers.set_index("variant")


def runs(folds: int, seeds: int) -> dict[Run, None]:
    return {((fold, "data"), seed): None for fold in range(folds) for seed in range(seeds)}


@pytest.mark.parametrize(
    ("variants", "count"),
    [
        # a baseline of more seeds, and one that is also alone with them
        ({"fcn": (1, 5), "unet": (1, 3), "other": (1, 3)}, 3),
        ({"fcn": (1, 9), "unet": (1, 3)}, 3),
        # one rival that lacks folds doesn't cost the others theirs; with most lacking them they do
        ({"fcn": (5, 1), "unet": (5, 1), "other": (5, 1), "late": (2, 1)}, 5),
        ({"fcn": (5, 1), "unet": (5, 1), "other": (4, 1), "late": (4, 1)}, 4),
        ({"fcn": (2, 1), "unet": (5, 2)}, 2),
        ({"fcn": (2, 1), "unet": (0, 0)}, 2),
    ],
)
def test_runs_are_chosen_so_that_most_are_kept(variants: dict[str, tuple[int, int]], count: int) -> None:
    assert len(shared_runs({label: runs(*shape) for label, shape in variants.items()}, "fcn")) == count


def test_the_order_of_planted_variants(folder: Path) -> None:
    content = made(folder)
    frame = numbers(content)
    means = read(folder).runs.groupby("variant")["mask_AP"].mean().sort_values(ascending=False)
    assert list(frame.index) == list(means.index) and frame["mask_AP_mean"].to_numpy() == pytest.approx(
        means.to_numpy()
    )
    assert set(frame["n"]) == set(frame["units"]) == {3} and set(frame["compared_with"]) == {"fcn"}
    assert frame["best_probability"].sum() == pytest.approx(1) and frame["best_probability"].idxmax() == "far"
    assert frame["rank_mean"].sum() == pytest.approx(1 + 2 + 3 + 4)
    assert frame.loc["worst", "rank_mean"] > 3.8 and (frame["rank_low"] <= frame["rank_high"]).all()
    by_variant = read(folder).runs.groupby("variant")["mask_AP"].apply(np.array)
    for label in ("near", "far", "worst"):
        pairs = np.sign(by_variant[label][:, None] - by_variant["fcn"][None])
        assert frame.loc[label, "improvement"] == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    assert frame.loc["far", ["improvement_low", "improvement_high"]].tolist() == [1, 1]
    assert np.isnan(frame.loc["fcn", "improvement"])
    assert not content.notes and content.table is not None
    assert (
        "give no verdict" in content.table.note and "100 resamples of the images and of the seeds" in content.table.note
    )
    assert max(map(len, "\n".join(content.text).splitlines())) <= 120
    assert r"100 \% [100, 100]" in content.table.latex()
    rows = content.table.text.set_index("variant")
    assert rows.loc["fcn", "run better"] == "–" and rows.loc["far", "run better"] == "100 % [100, 100]"
    assert rows.loc["far", "rank"].startswith(f"{frame.loc['far', 'rank_mean']:.1f} [1, ")


def test_folds_are_units_with_the_means_of_their_seeds(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"fcn": 2.0, "unet": 1.0}, seeds=2, folds=2, images=5, speed=False)
    frame = numbers(made(study))
    assert set(frame["n"]) == {4} and set(frame["units"]) == {2}
    found = read(study).runs.groupby(["variant", "fold"])["mask_AP"].mean()
    assert frame.loc["unet", "mask_AP_mean"] == pytest.approx(found["unet"].mean())


def test_with_one_training_only_images_are_drawn_and_the_note_says_so(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"fcn": 2.0, "unet": 1.0}, seeds=1, images=6, speed=False)
    content = made(study)
    assert content.table is not None
    assert "of the images alone, as one training doesn't tell what another would give" in content.table.note
    frame = numbers(content)
    assert frame.loc["unet", "improvement"] in (0, 0.5, 1) and np.isnan(frame.loc["unet", "improvement_low"])
    assert content.table.text.set_index("variant").loc["unet", "run better"] in ("0 %", "50 %", "100 %")


def test_variants_that_lack_runs_are_left_out_with_a_note(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"fcn": 2.0, "unet": 1.0, "late": 1.5, "other": 3.0}, seeds=2, images=4, speed=False)
    (gone,) = study.glob("runs/late-*-f0-s1-*")
    shutil.rmtree(gone)
    content = made(study)
    assert sorted(numbers(content).index) == ["fcn", "other", "unet"]
    assert content.notes == ["ranking: late is left out, as it lacks 1 of the 2 runs that are compared"]


def test_without_rivals_there_is_none(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path, "fcn", 2.0, seed=seed, images=4)
        make_run(tmp_path, "unet", 1.0, seed=seed + 5, images=4)
    content = made(tmp_path)
    assert content.table is None and "no variant has the runs of the baseline" in content.skipped[0]
    assert content.notes == ["ranking: unet is left out, as it lacks 2 of the 2 runs that are compared"]
    assert made(tmp_path, "absent").table is None


def test_variants_are_ranked_beside_those_of_their_own_settings() -> None:
    random = np.random.default_rng(0)
    made_up = {
        label: {(0, seed): RunScores(random.normal(level, 0.1, 101), 50, "data") for seed in range(3)}
        for label, level in (("fcn", 40.0), ("unet", 42.0), ("worse", 35.0))
    }
    ranked = ranking.rank(made_up, "fcn")
    assert ranked.variants == ["unet", "fcn", "worse"] and ranked.ranks.mean == pytest.approx([1, 2, 3], abs=0.05)
    both = {"fcn": ranked, "fcn(trunk=large)": ranked}
    assert ranking.text(both)["baseline"].tolist() == ["fcn"] * 3 + ["fcn(trunk=large)"] * 3
    assert "baseline" not in ranking.text({"fcn": ranked})
    assert ranking.numbers(both)["compared_with"].nunique() == 2
