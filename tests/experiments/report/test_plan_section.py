"""The report says whether a plan was kept, and what it promised beside what came out."""

import json
from pathlib import Path
from typing import Any

import pytest
from frozen_plans import SPREADS, frozen
from synthetic import make_run, make_study

from experiments.config.groups import Contrast
from experiments.render import table
from experiments.report import plan
from experiments.report.build import build
from experiments.report.section import Findings
from experiments.runs.plan_file import FILE, FrozenPlan, Promise, read_plan
from experiments.runs.study import read
from instseg.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("results") / "planned", {"fcn": 2.0, "unet": 0.8}, images=8, speed=False)


def findings(folder: Path, frozen_plan: FrozenPlan, **more: Any) -> Findings:
    return Findings(read(folder), "fcn", 50, plan=frozen_plan, **more)


def test_a_plan_that_was_kept(folder: Path) -> None:
    found = findings(folder, frozen())
    kept, promises, _ = plan.make(found).text
    assert kept == "plan of 2025-12-31 kept: 4 runs, judged by mask AP with a margin of 1 AP"
    comparison = found.scores.variants[1].comparisons["mask"]
    row = promises.splitlines()[-1]
    assert row.startswith("unet against fcn") and table.difference(comparison) in row
    assert row.split()[3:5] == ["12.3", f"{comparison.detectable:.1f}"]


@pytest.mark.parametrize(
    ("changes", "more", "lines"),
    [
        ({"margin": 0.5}, {}, ["margin 1 in place of 0.5"]),
        ({"baseline": "unet"}, {}, ["baseline fcn in place of unet"]),
        ({"contrasts": [("unet", "fcn")]}, {}, ["contrast dropped: unet against fcn"]),
        ({}, {"contrasts": [Contrast("unet", "fcn")]}, ["contrast added: unet against fcn"]),
        ({"seeds": 3}, {}, ["seed missing: 2"]),
        ({"seeds": 1}, {}, ["seed added: 1"]),
        ({"variants": ("fcn", "unet", "smp")}, {}, ["variant missing: smp"]),
        ({"variants": ("fcn",)}, {}, ["variant added: unet"]),
        ({"runs": {"fcn": {"0": [0, 1]}, "unet": {"0": [0]}}}, {}, ["1 single run added, the first: unet f0 s1"]),
        (
            {"runs": {name: {"0": [0, 1], "1": [0, 1]} for name in ("fcn", "unet")}},
            {},
            ["fold missing: 1"],
        ),
        ({"settings": {"iterations": 500}}, {}, ["iterations=300 in place of 500"]),
        (
            {"date": "2026-01-01T00:00:50+00:00"},
            {},
            # the runs of seed 1 ended at 00:01:00, after 15.25 s
            ["4 runs begun before the plan, the first: fcn-"],
        ),
        (
            {"date": "2026-01-01T00:00:44+00:00"},
            {},
            ["2 runs begun before the plan, the first: fcn-generated-f0-s0-"],
        ),
    ],
    ids=str,
)
def test_what_was_not_kept(folder: Path, changes: Any, more: Any, lines: list[str]) -> None:
    verdict, *_ = plan.make(findings(folder, frozen(**changes), **more)).text
    first, *found = verdict.splitlines()
    assert first.endswith(" not kept:") and len(found) == len(lines)
    for line, part in zip(found, lines, strict=True):
        assert line.startswith(f"- {part}")


def test_settings_that_runs_do_not_share_with_the_plan_are_named(folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    for variant in ("fcn", "unet"):
        make_run(study, variant, 2.0, images=5, settings={"schedule.lr": 0.01, "schedule.milestones": [1]})
    kept = {"schedule.lr": 0.01, "schedule.milestones": [1], "schedule.of_another_version": 1}
    plan_of = frozen(seeds=1, settings=kept)
    assert not plan.deviations(plan_of, findings(study, plan_of))
    plan_of = frozen(seeds=1, settings=kept | {"schedule.lr": 0.02})
    assert plan.deviations(plan_of, findings(study, plan_of)) == ["schedule.lr=0.01 in place of 0.02"]


def test_promised_comparisons_without_runs_are_dashes(folder: Path) -> None:
    promises = [Promise("smp", "fcn", None, SPREADS), Promise("unet", "fcn", 2.0, SPREADS)]
    _, text, _ = plan.make(findings(folder, frozen(promises=promises))).text
    assert text.splitlines()[-2].split()[3:] == ["–", "–", "–"]


def test_the_report_begins_with_the_plan_and_without_one_says_nothing(folder: Path) -> None:
    assert "plan of" not in build(folder, "fcn", 20)
    frozen().write(folder)
    assert build(folder, "fcn", 20).split("\n\n")[1].startswith("plan of 2025-12-31 kept")
    (folder / FILE).unlink()


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_plan(tmp_path) is None
    plan_of = frozen(contrasts=[("unet", "fcn")], promises=[Promise("unet", "fcn", None, SPREADS)])
    plan_of.write(tmp_path)
    assert read_plan(tmp_path) == plan_of and plan_of.run_names() == {
        (v, 0, s) for v in ("fcn", "unet") for s in (0, 1)
    }
    assert plan_of.is_same(frozen(contrasts=[("unet", "fcn")], date="2027-01-01T00:00:00+00:00", promises=[]))
    assert not plan_of.is_same(frozen(contrasts=[("unet", "fcn")], margin=2.0))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda content: content.update(margin=2.0), "was changed after it was frozen"),
        (lambda content: content["runs"].pop("unet"), "was changed after it was frozen"),
        (lambda content: content.pop("hash"), "it has no 'hash'"),
        (lambda content: content.pop("margin"), "is damaged"),
        (lambda content: content.update(date="soon"), "is damaged"),
        (lambda content: content.update(promises=[3]), "is damaged"),
    ],
)
def test_a_plan_that_was_changed_or_damaged_is_named(tmp_path: Path, change: Any, part: str, refused: Any) -> None:
    path = frozen().write(tmp_path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    refused(lambda: read_plan(tmp_path), path, part, "delete it", error=UserError)
