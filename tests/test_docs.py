"""What the documentation says is so: commands compose, files and keys are there, code runs, numbers are the committed
ones."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from apps import TINY
from composition import composed
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import heads
from experiments.config import apps, checks, cli
from experiments.config.apps import SCHEMAS, WHATS, App, Benchmark, Data, ErrorRates, Plan
from experiments.config.run import Config
from experiments.runs.end_to_end import run

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
)
WITH_COMMANDS = [*PAGES, ROOT / "heads" / "README.md", ROOT / "results" / "README.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NEEDS = "# needs "
"""Begins a block whose commands read what is not in the repository."""
RUNS = ("sweep", "train", "data", "plan")
"""Apps that take the keys of a run."""
BESIDE_RUNS: dict[str | None, type[App]] = {"data": Data, "plan": Plan}
"""Those with keys of their own beside these."""
PLACEHOLDERS = {
    "dataset=NAME": "dataset=generated",
    "study=NAME": "study=quick",
    "augmentation=NAME": "augmentation=flip",
    "head=fcn,NAME": "head=fcn,unet",
    # README's own head
    "head=fcn,tiny": "head=fcn,unet",
}


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        page: where it stands.
        words: as a shell would split it.
        needs: whether its block says that it reads what is not in the repository; None: it stands in a sentence.
    """

    page: str
    words: tuple[str, ...]
    needs: bool | None

    @property
    def app(self) -> str | None:
        """``sweep`` of ``python -m experiments.sweep``."""
        found = re.fullmatch(r"python -m experiments\.(\w+)", " ".join(self.words[:3]))
        return found[1] if found else None

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(PLACEHOLDERS.get(word, word) for word in self.words[3:] if not word.startswith("--"))

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def _commands(page: Path) -> Iterator[Command]:
    """Every command of a page: lines of ``sh`` blocks, and ``python -m experiments...`` and ``make ...`` elsewhere."""
    text = page.read_text()
    name = page.relative_to(ROOT).as_posix()
    for language, block in BLOCK.findall(text):
        if language == "sh" or "python -m experiments" in block:
            for line in block.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield Command(name, tuple(words), block.startswith(NEEDS))
    for code in re.findall(r"`([^`]+)`", BLOCK.sub("", text)):
        if re.match(r"(python -m )?experiments\.\w+( |$)", code):
            yield Command(name, ("python", "-m", *shlex.split(code.removeprefix("python -m "))), None)
        elif re.match(r"make [a-z]", code):
            yield Command(name, tuple(shlex.split(code)), None)


COMMANDS = [command for page in WITH_COMMANDS for command in _commands(page)]
OF_APPS = [command for command in COMMANDS if command.app]


def test_commands_are_found() -> None:
    assert {command.app for command in OF_APPS} == {*RUNS, *SCHEMAS}
    assert sum(command.needs is not None for command in OF_APPS) > 30
    for page in PAGES:
        lines = page.read_text().count("python -m experiments.")
        assert lines <= sum(command.page == page.relative_to(ROOT).as_posix() for command in OF_APPS), page


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.app], ids=str)
def test_other_commands_are_there(command: Command) -> None:
    if command.words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert command.words[1] in targets
    else:
        assert command.words[:3] == (".venv/bin/python", "-m", "pytest")
        assert all((ROOT / word).exists() for word in command.words[3:] if "/" in word)


@pytest.mark.parametrize("command", OF_APPS, ids=str)
def test_commands_compose_and_pass_the_checks(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "..." in " ".join(command.words):
        return
    monkeypatch.chdir(tmp_path)
    for path in _files(command.arguments):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if command.app in RUNS:
        configs = [_run(command, overrides) for overrides in _each_value(command)]
        outside = any(config.dataset.name != "generated" or config.transferred() for config in configs)
        outside |= command.app == "plan" and not any(each.startswith("spread.") for each in command.arguments)
    else:
        options = _options(command)
        own = isinstance(options, Benchmark | ErrorRates)
        outside = not own or (isinstance(options, Benchmark) and options.what == "study")
    if command.needs is not None and command.page != "results/README.md":
        assert command.needs == outside, f"a block begins with {NEEDS!r} where it reads what is not in the repository"


def _files(arguments: tuple[str, ...]) -> Iterator[Path]:
    """Files of weights that a command names, which the checks look for."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in ("init", "core") and ("/" in value or "." in value):
            yield Path(value) if Path(value).suffix else Path(value) / "checkpoint.pt"


def _each_value(command: Command) -> Iterator[list[str]]:
    """The overrides of one run for each value that a sweep has."""
    parsed = OverridesParser.create().parse_overrides(
        [argument for argument in command.arguments if argument not in _own(command)]
    )
    values = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [str(override.input_line)]
        for override in parsed
    ]
    assert command.app in ("sweep", "plan") or all(len(each) == 1 for each in values), f"only a sweep sweeps: {command}"
    for i in range(max(map(len, values), default=1)):
        yield [each[min(i, len(each) - 1)] for each in values]


def _own(command: Command) -> list[str]:
    """The arguments for an app's own keys, beside those of a run."""
    keys = {field.name for field in fields(BESIDE_RUNS[command.app])} if command.app in BESIDE_RUNS else set()
    return [argument for argument in command.arguments if re.split("[.=]", argument)[0] in keys]


def _run(command: Command, overrides: list[str]) -> Config:
    if command.app in BESIDE_RUNS:
        schema = BESIDE_RUNS[command.app]
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.from_dotlist(_own(command)))
        apps.to_config(merged, schema)  # type: ignore[arg-type]
    config = composed(*overrides)
    checks.check(config)
    return config


def _options(command: Command) -> apps.App:
    """The options of an app that is not of runs, checked, as its ``__main__`` makes them."""
    app = command.app
    assert app is not None
    arguments = list(command.arguments)
    for key in ("input", "output"):
        arguments = [cli.as_text(key, argument) for argument in arguments]
    if app == "predict":
        arguments = [cli.as_texts("run", argument) for argument in arguments]
    arguments = [cli.as_list("predictions|against|heads", argument) for argument in arguments]
    required = {
        "evaluate": ["annotations=a.json", "predictions=b.json"],
        "predict": ["run=quick", "input=photos"],
        "report": ["study=quick"],
    }
    if command.needs is None:
        # a sentence need not give all
        arguments = [*required.get(app, []), *arguments]
    apps.register()
    with initialize_config_module("experiments.conf_apps", version_base="1.3"):
        options = apps.to_config(compose(app, overrides=arguments), SCHEMAS[app])
    if isinstance(options, Benchmark):
        groups = {key: getattr(options, key) for key in ("study", "head", "augmentation")}
        composed(*(f"{key}={name}" for key, name in groups.items() if name is not None))
    return options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_are_named_are_there(page: Path) -> None:
    rooms = "experiments|heads|instseg|tests|paper|docs|results/reference|results/findings"
    for path in re.findall(rf"`((?:{rooms})(?:/[\w.-]+)*/?)`", BLOCK.sub("", page.read_text())):
        there = ROOT / path
        # a file that the reader is to write
        assert (there.parent if there.stem in ("NAME", "tiny") else there).exists(), path


@cache
def _keys() -> set[str]:
    """Every key of a run, options of heads and data sets among them."""

    def below(value: Any, prefix: str) -> Iterator[str]:
        yield prefix
        entries = vars(value) if is_dataclass(value) else value if isinstance(value, dict) else {}
        for key, part in entries.items():
            yield from below(part, f"{prefix}.{key}" if prefix else key)

    choices = {key: (ROOT / "experiments" / "conf" / key).glob("*.yaml") for key in ("head", "dataset")}
    configs = [composed(f"{key}={path.stem}") for key, paths in choices.items() for path in paths]
    return {key for config in configs for key in below(config, "")}


# python.md speaks of modules by such names
@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "python"], ids=lambda page: page.name)
def test_keys_that_are_named_are_there(page: Path) -> None:
    groups = "|".join(field.name for field in fields(Config) if is_dataclass(field.default_factory))
    for key in re.findall(rf"(?<![\w./])((?:{groups})\.[a-z_]+(?:\.[a-z_]+)*)(?=[=`,. ]|$)", page.read_text()):
        if not re.search(r"\.(py|md|csv|json|yaml)$", key):
            assert key in _keys(), key


def test_every_block_of_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(composed(*TINY, "head=unet"))
    blocks = [block for language, block in BLOCK.findall((ROOT / "docs" / "python.md").read_text()) if language]
    assert len(blocks) == 5
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(block, namespace)
    assert len(namespace["compressed"]) == 2
    assert namespace["run"].label == "unet" and len(namespace["losses"]) == 5


def _table(page: str, heading: str = "") -> list[str]:
    """The first cells of a page's tables, or of those below a heading."""
    _, _, text = (ROOT / "docs" / page).read_text().partition(heading)
    return [line.split("|")[1] for line in text.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize(
    ("group", "page", "heading"),
    [
        ("study", "studies.md", "## All studies"),
        ("dataset", "your-images.md", "## The data sets"),
        ("augmentation", "augmentation.md", "# Augmentation"),
    ],
)
def test_every_choice_is_in_its_table(group: str, page: str, heading: str) -> None:
    shown = set(re.findall(r"`(\w+)`", "".join(_table(page, heading))))
    assert shown >= {path.stem for path in (ROOT / "experiments" / "conf" / group).glob("*.yaml")}


def test_heads_in_the_table_are_there() -> None:
    shown = set(re.findall(r"`(\w+)`", "".join(_table("heads.md", "# Mask heads"))))
    # a head of one's own need not be in it
    assert set(heads.names()) - {"tiny"} <= shown
    assert shown <= {path.stem for path in (ROOT / "experiments" / "conf" / "head").glob("*.yaml")}


def test_every_benchmark_is_in_its_table() -> None:
    assert sorted(re.findall(r"`(\w+)`", "".join(_table("benchmarks.md", "## Commands")))) == sorted(WHATS)


def test_rates_are_those_of_the_committed_benchmarks() -> None:
    rows = re.findall(
        r"\| ([\d.,]+) \w+/s \| ([\d.,]+|–).*?\| \[([\d.]+|file)\]\(\.\./(results/reference/speed/\S+)\.md\) \|",
        (ROOT / "docs" / "benchmarks.md").read_text(),
    )
    assert len(rows) >= 8
    for *shown, file in rows:
        measured = pd.read_csv(ROOT / f"{file}.csv")
        (column,) = (name for name in measured if name.endswith("per_s_median"))
        numbers = [*measured[column].dropna(), *measured["ratio"].dropna()]
        written = {f"{n:{form}}" for n in numbers for form in (".3g", ".1f", ".2f", ",.0f")}
        assert {number for number in shown if number not in ("–", "file")} <= written, file


def test_shares_of_the_frozen_core_are_those_that_were_measured() -> None:
    measured = pd.read_csv(ROOT / "results" / "reference" / "speed" / "frozen_core-coco_1x.csv").set_index("name")
    text = (ROOT / "docs" / "protocols.md").read_text()
    shares = re.findall(r"^\| (32|64|128) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(shares) == 3
    for rois, share in shares:
        ratio = measured.loc[f"{rois} RoIs: 8 heads at once, frozen_core", "ratio"]
        assert abs(float(share) - ratio) <= 0.006, rois


def test_error_lines_are_those_of_the_code() -> None:
    sources = [*(ROOT / "experiments").rglob("*.py"), *(ROOT / "instseg").rglob("*.py"), ROOT / "Makefile"]
    # parts of one text stand in strings behind one another
    text = re.sub(r"\"\s*\n\s*f?\"", "", "\n".join(path.read_text() for path in sources))
    lines = re.findall(r"`([^`]+)`", "".join(_table("troubleshooting.md", "## Error lines")))
    assert len(lines) > 20
    for line in lines:
        assert all(part.strip() in text for part in line.split("…")), line
