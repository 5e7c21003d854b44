"""Look a data set over before anything is trained on it: ``python -m experiments.data dataset=NAME [key=value]``."""

import os
from pathlib import Path

from omegaconf import DictConfig

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


def look(config: Config, options: apps.Data) -> str:
    """Look over the data of a run, write ``results_dir/data/NAME`` and return the text to print.

    Raises:
        UserError: a run can't use the data, or the configuration is wrong.
    """
    folder = Path(config.results_dir) / "data" / (options.name or _name(config))
    fetched = _fetch(config) if options.download else ""
    for file in FILES:
        # so that no file of an earlier look is taken for one of this look
        (folder / file).unlink(missing_ok=True)
    splits = _read(config, folder / "problems.txt")
    counts.write(folder, folder.name, splits, config.dataset)
    print("\n".join(filter(None, [fetched, counts.terminal(folder.name, splits, config.dataset)])), flush=True)
    images.save(folder / "distributions.png", plots.distributions(splits))
    images.save(folder / "samples.png", images.samples(splits, options.images))
    images.save(folder / "augmented.png", images.augmentations(config, splits[0]))
    total = sum(len(split.data) for split in splits)
    if options.decode == "all" and total > 10 * _MANY:
        say(f"{total:,} images are read to see that they can be; decode=1000 reads so many of each split")
    workers = config.runtime.workers or (os.cpu_count() or 1 if total > _MANY else 0)
    problems = data_problems.in_numbers(splits) + data_problems.in_images(splits, options.decode, workers)
    which = "all images read" if options.decode == "all" else f"up to {options.decode:,} images of each split read"
    instances = sum(len(split.instances) for split in splits)
    checked = f"{folder.name}: {total:,} images, {instances:,} instances and crowd regions; {which}"
    written = data_problems.write(folder / "problems.txt", problems, checked)
    errors = [problem for problem in problems if problem.kind == "error"]
    if errors:
        raise DataError(
            f"{errors[0].split}: {errors[0].text}; {data_problems.counted(problems)}, a line each in {written}"
        )
    return f"{which}: {data_problems.counted(problems)}: {written}\nwritten to {folder}: {', '.join(FILES)}"


def _name(config: Config) -> str:
    return config.dataset.name + (f"-f{config.dataset.fold}" if config.dataset.fold else "")


def _fetch(config: Config) -> str:
    """Fetch the data set to where runs of this configuration look for it; say which key they need for that."""
    dataset, root = config.dataset, config.data_root
    to = dataset.options.get("download_dir", DEFAULT_DIR) if root is None else root
    folder = fetch(data.source(dataset.name), Path(to).expanduser())
    known = root is None or root == os.environ.get("INSTSEG_DATA")
    how = "there" if known else f"with data_root={root}, or INSTSEG_DATA={root} set"
    return f"{dataset.name} is in {folder}; runs find it {how}"


def _read(config: Config, problems: Path) -> list[Split]:
    """Both splits in numbers.

    Raises:
        DataError: a split can't be used; one line, while ``problems`` gets all that is wrong with both.
    """
    splits: list[Split] = []
    wrong: dict[str, DataError] = {}
    for name in SPLITS:
        try:
            splits.append(counts.read(name, config.make_dataset(name), config.dataset))
        except DataError as error:
            wrong[name] = error
    if not wrong:
        try:
            check_same_classes(splits[0].data, splits[1].data)
            return splits
        except DataError as error:
            wrong["both"] = error
    # both splits may be of one file, and then have the same faults
    names: dict[str, str] = {}
    for name, fault in wrong.items():
        for line in fault.lines:
            names[line] = "both" if line in names else name
    errors = [data_problems.Problem("error", name, line) for line, name in names.items()]
    data_problems.write(problems, errors, f"{config.dataset.name} can't be used")
    first = next(iter(wrong.values()))
    raise DataError(f"{first}; {len(errors)} line{'s' if len(errors) > 1 else ''} in {problems}")


def job(cfg: DictConfig) -> None:
    """Look over the data of a composed configuration: a run's keys, and those of :class:`apps.Data` beside them."""
    options = apps.take_own(cfg, apps.Data)
    config = run.to_config(cfg)
    checks.check(config)
    print(look(config, options))
