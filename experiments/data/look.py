"""Look a data set over before anything is trained on it: ``python -m experiments.data dataset=NAME [key=value]``."""

import os
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.config import apps, checks, run
from experiments.config.run import Config
from experiments.data import counts, images, plots
from experiments.data import problems as data_problems
from experiments.data.counts import SPLITS, Split
from instseg import data
from instseg.data.archives.download import DEFAULT_DIR
from instseg.data.archives.fetch import fetch
from instseg.data.dataset import check_same_classes
from instseg.errors import DataError
from instseg.progress import say

FILES = ("summary.md", "counts.csv", "samples.png", "augmented.png", "distributions.png", "problems.txt")
_MANY = 1000  # images from which reading them in several processes is worth starting those


def look(one: Config, own: apps.Data) -> str:
    """Look over the data of a run, write ``results_dir/data/NAME`` and return what to print.

    Raises:
        UserError: a run can't use the data, or the configuration is wrong.
    """
    folder = Path(one.results_dir) / "data" / (own.name or _name(one))
    fetched = _fetch(one) if own.download else ""
    for file in FILES:
        # what an earlier look left would be taken for this one's
        (folder / file).unlink(missing_ok=True)
    splits = _read(one, folder / "problems.txt")
    counts.write(folder, folder.name, splits, one.dataset)
    print("\n".join(filter(None, [fetched, counts.terminal(folder.name, splits, one.dataset)])), flush=True)
    images.save(folder / "distributions.png", plots.distributions(splits))
    images.save(folder / "samples.png", images.samples(splits, own.images))
    images.save(folder / "augmented.png", images.augmentations(one, splits[0]))
    total = sum(len(split.data) for split in splits)
    if own.decode == "all" and total > 10 * _MANY:
        say(f"{total:,} images are read to see that they can be; decode=1000 reads so many of each split")
    workers = one.runtime.workers or (os.cpu_count() or 1 if total > _MANY else 0)
    problems = data_problems.of_numbers(splits) + data_problems.of_images(splits, own.decode, workers)
    which = "all images read" if own.decode == "all" else f"up to {own.decode:,} images of each split read"
    instances = sum(len(split.instances) for split in splits)
    checked = f"{folder.name}: {total:,} images, {instances:,} instances and crowd regions; {which}"
    written = data_problems.write(folder / "problems.txt", problems, checked)
    errors = [problem for problem in problems if problem.kind == "error"]
    if errors:
        raise DataError(
            f"{errors[0].split}: {errors[0].text}; {data_problems.counted(problems)}, a line each in {written}"
        )
    return f"{which}: {data_problems.counted(problems)}: {written}\nwritten to {folder}: {', '.join(FILES)}"


def _name(one: Config) -> str:
    return one.dataset.name + (f"-f{one.dataset.fold}" if one.dataset.fold else "")


def _fetch(one: Config) -> str:
    """Fetch the data set to where runs of this configuration look for it; say what else they must be told."""
    given = None if one.data_root is None else Path(one.data_root).expanduser()
    folder = fetch(data.source(one.dataset.name), given or Path(one.dataset.options.get("download_dir", DEFAULT_DIR)))
    known = given is None or str(one.data_root) == os.environ.get("INSTSEG_DATA")
    return f"{one.dataset.name} is in {folder}; runs " + (
        "find it there" if known else f"find it with data_root={one.data_root}, or INSTSEG_DATA={one.data_root} set"
    )


def _read(one: Config, problems: Path) -> list[Split]:
    """Both splits in numbers; where one can't be used, all that is wrong with both goes to ``problems``, and one line
    is raised."""
    splits: list[Split] = []
    wrong: dict[str, DataError] = {}
    for name in SPLITS:
        try:
            splits.append(counts.read(name, one.make_dataset(name), one.dataset))
        except DataError as error:
            wrong[name] = error
    if not wrong:
        try:
            check_same_classes(splits[0].data, splits[1].data)
            return splits
        except DataError as error:
            wrong["both"] = error
    told: dict[str, list[str]] = {}
    for name, why in wrong.items():
        for line in why.lines:
            told.setdefault(line, []).append(name)
    # of one file for both splits each would say the same
    found = [
        data_problems.Problem("error", "both" if len(names) > 1 else names[0], line) for line, names in told.items()
    ]
    data_problems.write(problems, found, f"{one.dataset.name} can't be used")
    first = next(iter(wrong.values()))
    raise DataError(f"{first}; {len(found)} line{'s' if len(found) > 1 else ''} in {problems}")


def job(cfg: DictConfig) -> None:
    with open_dict(cfg):
        mine = {field.name: cfg.pop(field.name) for field in fields(apps.Data)}
    merged = OmegaConf.merge(OmegaConf.structured(apps.Data), mine)
    assert isinstance(merged, DictConfig)
    own = apps.to_config(merged, apps.Data)
    one = run.to_config(cfg)
    checks.check(one)
    print(look(one, own))
