"""Everything that can be said about a study, from its files alone: a loop over the sections of the report."""

from pathlib import Path

from experiments.render import plot
from experiments.report import (
    ap,
    by_image,
    by_object,
    contrasts,
    cost,
    curves,
    disagreement,
    frontier,
    gt_boxes,
    pairs,
    panels,
    plan,
    pull,
    ranking,
    runs,
    shared_boxes,
    trained,
    tuning,
    tuning_file,
)
from experiments.report.section import Content, Findings, Section
from experiments.runs.plan_file import read_plan
from experiments.runs.study import about, read
from instseg.errors import DataError

SECTIONS: tuple[Section, ...] = (
    plan.SECTION,
    contrasts.SECTION,
    ap.SECTION,
    pairs.SECTION,
    ranking.SECTION,
    tuning.SECTION,
    trained.SECTION,
    runs.SECTION,
    cost.SECTION,
    cost.SUMMARY,
    frontier.SECTION,
    curves.SECTION,
    panels.SECTION,
    shared_boxes.SECTION,
    gt_boxes.SECTION,
    by_image.SECTION,
    by_object.SECTION,
    pull.SECTION,
    disagreement.SECTION,
)
"""In the order of the text."""


def build(study_dir: Path, baseline: str, resamples: int = 1000, data_root: str | None = None) -> str:
    """Write the tables, plots and panels of a study, ``results/<study>``, into its folder, from any subset of finished
    runs; the other arguments are as in :class:`experiments.report.section.Findings`.

    Output of an earlier build that can't be made now is removed, so that all files are of the same runs.

    Returns:
        The text for the terminal: tables, files, what was skipped and why, unfinished runs.

    Raises:
        UserError: there is no finished run, or ``result.json``, ``study.json``, ``plan.json``, ``speed.json`` or
            ``tuning.json`` is damaged.
    """
    study = read(study_dir)
    # damaged files are reported before minutes of work
    speed, tuned = cost.read_speed(study_dir), tuning_file.read_tuning(study_dir)
    own, frozen = about(study_dir), read_plan(study_dir)
    findings = Findings(study, baseline, resamples, data_root, speed, tuned, own.contrasts, own.margin, frozen)
    text: list[str] = []
    written: list[Path] = []
    skipped: list[str] = []
    notes = list(study.notes)
    for section in SECTIONS:
        try:
            content = section.make(findings)
        except DataError as error:
            content = Content(skipped=[f"{section.name}: {error}"])
        written += _write(study_dir, section, content)
        text += content.text
        skipped += content.skipped
        if content.reason and study_dir / f"{section.figure}.png" not in written:
            skipped.append(f"{section.figure}: {content.reason}")
        notes += content.notes
    parts = [
        f"{study_dir.name}: {len(study.runs)} finished and {len(study.unfinished)} unfinished runs, "
        f"{len(findings.scores.order)} variants, baseline {baseline}",
        *text,
        f"written to {study_dir}: {_listed(study_dir, written)}",
    ]
    lines = [*(f"skipped: {line}" for line in skipped), *(f"note: {line}" for line in dict.fromkeys(notes))]
    return "\n\n".join(parts) + "\n" + "".join(f"{line}\n" for line in lines)


def _write(folder: Path, section: Section, content: Content) -> list[Path]:
    """Write what a section gives, and remove what is there of an earlier build and can't be made now."""
    written = content.table.write(folder / section.name, *section.endings) if content.table else []
    if section.figure:
        written += plot.draw(folder / section.figure, content.figure) if content.figure else []
        names = plot.file_names(list(content.figures))
        for label, figure in content.figures.items():
            written += plot.draw(folder / section.figure / names[label], figure)
    earlier = [folder / name for name in section.files(former=True)]
    if section.figure:
        earlier += [path for path in (folder / section.figure).glob("*.p*") if path.suffix in (".png", ".pdf")]
    for path in earlier:
        if path not in written:
            path.unlink(missing_ok=True)
    return written


def _listed(folder: Path, paths: list[Path]) -> str:
    """``ap.csv|md|tex, runs.csv|md, panels/*.png|pdf, ...``"""
    endings: dict[str, dict[str, None]] = {}
    for path in paths:
        place = path.relative_to(folder)
        stem = place.name.rpartition(".")[0] if place.parent == Path() else f"{place.parent.as_posix()}/*"
        endings.setdefault(stem, {})[path.suffix[1:]] = None
    return ", ".join(f"{stem}.{'|'.join(known)}" for stem, known in endings.items())
