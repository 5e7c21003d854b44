"""The keys of the small apps: typed, checked, and wrong ones named in one line."""

import json
from pathlib import Path
from typing import Any

import apps
import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.config import apps as app_config
from experiments.config import cli
from experiments.config.groups import Contrast
from experiments.report import __main__ as report
from experiments.runs.study import Comparisons
from instseg.errors import UserError

NEEDED = {
    "evaluate": ["annotations=a.json", "predictions=p.json"],
    "predict": ["input=a.jpg", "run=quick"],
    "report": ["study=quick"],
    "benchmark": [],
}


def composed(app: str, *overrides: str) -> Any:
    app_config.register()
    with initialize_config_module("experiments.conf_apps", version_base="1.3"):
        return app_config.to_config(compose(app, overrides=[*NEEDED[app], *overrides]), app_config.SCHEMAS[app])


def _refusal(app: str, *overrides: str) -> str:
    with pytest.raises((UserError, HydraException, OmegaConfBaseException)) as caught:
        composed(app, *overrides)
    line = str(caught.value) if isinstance(caught.value, UserError) else cli.one_line(caught.value)
    assert len(line.splitlines()) == 1
    return line


@pytest.mark.parametrize("app", sorted(NEEDED))
def test_the_yaml_s_defaults_are_the_schema_s(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSTSEG_DATA", raising=False)
    given = dict(item.split("=") for item in NEEDED[app])
    assert composed(app) == app_config.SCHEMAS[app](**given)


def test_keys_arrive() -> None:
    report_keys = composed("report", "study=12", "publish=to/here", "resamples=5", "baseline=unet")
    assert (report_keys.study, report_keys.publish, report_keys.resamples, report_keys.baseline) == (
        "12",
        "to/here",
        5,
        "unet",
    )
    assert composed("evaluate", "output=x.json").output == "x.json"
    assert composed("benchmark", "rois=1", "rounds=1").rounds == 1
    assert composed("predict", "run=[a,b]").names() == ["a", "b"]


@pytest.mark.parametrize(
    "name", ["a.jpg", "it's", "[x]=y, (1) {2}", "back\\", "a\\'b\\", "~/ä 100%", "1", "true", "=", "a:b", '#"']
)
def test_any_file_name_arrives(name: str) -> None:
    assert composed("predict", cli.as_text("input", f"input={name}")).input == name


@pytest.mark.parametrize("argument", ["input='a b'", 'input="a"', "input=", "input=null", "inputs=a b", "input"])
def test_what_is_quoted_or_no_text_stays(argument: str) -> None:
    assert cli.as_text("input", argument) == argument


def test_several_names_are_a_list() -> None:
    for argument in ("run=a", "run=[a,b]", 'run="a,b"', "run=a\\,b", "runs=a,b"):
        assert cli.as_list("run", argument) == argument


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("a,b/c", ["a", "b/c"]),
        ("quick/fcn", ["quick/fcn"]),
        ("mine/unet(depth=1, skip=add),mine/fcn", ["mine/unet(depth=1, skip=add)", "mine/fcn"]),
        (r"a\,b,it's", ["a,b", "it's"]),
        ("[a,b]", ["a", "b"]),
        ('"a,b"', ["a,b"]),
    ],
)
def test_names_of_runs_may_hold_brackets(given: str, names: list[str]) -> None:
    assert composed("predict", cli.as_texts("run", f"run={given}")).names() == names
    assert cli.as_texts("run", f"runs={given}") == f"runs={given}"


@pytest.mark.parametrize(
    ("app", "override", "parts"),
    [
        ("report", "resamples=x", ["resamples", "'x'"]),
        ("report", "resamples=1.5", ["resamples", "1.5"]),
        ("report", "resamples=0", ["resamples=0", "1 or more"]),
        ("report", "study=", ["study=", "name of a folder"]),
        ("report", "study=a/b", ["study=a/b", "name of a folder"]),
        ("report", "study=..", ["study=..", "name of a folder"]),
        ("report", "study=null", ["study"]),
        ("report", "study=[a]", ["study"]),
        ("report", "publish=", ["publish", "empty"]),
        ("report", "resample=3", ["resample", "did you mean 'resamples'"]),
        ("benchmark", "rois=x", ["rois", "'x'"]),
        ("benchmark", "rounds=x", ["rounds", "'x'"]),
        ("benchmark", "rois=0", ["rois=0", "1 or more"]),
        ("benchmark", "rounds=-1", ["rounds=-1", "1 or more"]),
        ("benchmark", "rounds=null", ["rounds"]),
        ("benchmark", "study=", ["study=", "name of a folder"]),
        ("predict", "score=1.5", ["score=1.5", "between 0 and 1"]),
        ("predict", "score=x", ["score", "'x'"]),
        ("predict", "run=", ["run", "empty"]),
        ("predict", "run=[]", ["run=[]", "A,B"]),
        ("predict", "run=3", ["run=3", "A,B"]),
        ("predict", "input=", ["input", "empty"]),
        ("predict", "output=", ["output", "empty"]),
        ("predict", "max_side=0", ["max_side=0", "1 or more"]),
        ("predict", "max_pixels=0", ["max_pixels=0", "1 or more"]),
        ("predict", "threads=0", ["threads=0", "1 or more"]),
        ("predict", "recursive=perhaps", ["recursive", "perhaps"]),
        ("evaluate", "engine=coco", ["engine", "pycocotools", "faster_coco_eval"]),
        ("evaluate", "annotations=null", ["annotations"]),
        ("evaluate", "annotations=", ["annotations", "empty"]),
        ("evaluate", "output=", ["output", "empty"]),
    ],
)
def test_wrong_values_are_named(app: str, override: str, parts: list[str]) -> None:
    line = _refusal(app, override)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(("app", "override"), [("report", "resamples=x"), ("benchmark", "rois=x")])
def test_the_apps_print_one_line(app: str, override: str) -> None:
    key = override.split("=")[0]
    assert apps.only_error(apps.run(app, "study=quick", override)).startswith(f"error: {key}: Value 'x'")


@pytest.mark.parametrize("app", sorted(NEEDED))
def test_help_lists_the_keys(app: str) -> None:
    done = apps.run(app, "--help")
    assert done.returncode == 0, done.stderr
    for item in NEEDED[app]:
        assert f"{item.split('=')[0]}: ???" in done.stdout
    assert "schema" not in done.stdout


def test_a_study_s_own_baseline_and_resamples(tmp_path: Path) -> None:
    assert report.about(tmp_path) == Comparisons("fcn", 1000, ())
    contrast = {"variant": "unet", "rival": "fcn_flops_of_unet", "question": "At equal cost?"}
    described = {"baseline": "unet", "resamples": 50, "more": 1, "contrasts": [contrast]}
    (tmp_path / "study.json").write_text(json.dumps(described))
    assert report.about(tmp_path) == Comparisons("unet", 50, (Contrast(**contrast),))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"baseline"',
        b"\xff",
        b"[]",
        b"3",
        b'{"baseline": 3}',
        b'{"resamples": "x"}',
        b'{"resamples": 0}',
        b'{"resamples": true}',
        b'{"resamples": null}',
        b'{"baseline": ""}',
        b'{"contrasts": {}}',
        b'{"contrasts": ["unet"]}',
        b'{"contrasts": [{"variant": "unet", "rival": "fcn"}]}',
        b'{"contrasts": [{"variant": "unet", "rival": 3, "question": ""}]}',
    ],
)
def test_a_damaged_study_file_is_named(tmp_path: Path, content: bytes, refused: Any) -> None:
    path = tmp_path / "study.json"
    path.write_bytes(content)
    refused(lambda: report.about(tmp_path), f"{path} is damaged", "delete it", error=UserError)


@pytest.mark.parametrize(
    ("app", "key"), [("benchmark", "what=nms out={}/x"), ("train", "study=quick results_dir={}/x seed=7")]
)
def test_a_folder_that_cannot_be_written_is_one_line(app: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = apps.run(app, *key.format(tmp_path / "file").split())
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert str(tmp_path / "file") in line and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("app", "keys"),
    [
        ("train", "head=uent"),
        ("sweep", "head=fcn,uent"),
        ("sweep", "study=quik"),
        ("sweep", "schedule.itrations=3 head=fcn,unet"),
        ("benchmark", "what=nms study=quik"),
    ],
)
def test_a_misspelt_name_is_one_line_from_the_app_itself(app: str, keys: str) -> None:
    done = apps.run(app, *keys.split())
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: unknown ") and "did you mean" in line
