"""A data set's files: what is in them is part of a run's name, where they lie is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from experiments.config import checks, groups, run
from experiments.config.run import Config
from instseg.errors import UserError


def composed(*overrides: str) -> Config:
    run.register()
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return run.to_config(compose("config", overrides=["study=mine", *overrides]))


def test_what_is_in_the_files_is_part_of_the_hash_and_where_they_lie_is_not(tmp_path: Path) -> None:
    for folder, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text(content)
    a, b, c = (composed(f"dataset.annotations={tmp_path}/{f}/x.json", f"dataset.images={tmp_path}/{f}") for f in "abc")
    assert a.hash() == b.hash() != c.hash()
    assert a.settings() == b.settings() != c.settings()
    with_val = composed(f"dataset.annotations={tmp_path}/a/x.json", f"dataset.val_annotations={tmp_path}/b/x.json")
    assert with_val.hash() != a.hash()
    for config in (a, with_val):
        assert str(tmp_path) not in json.dumps(config.settings())
    (tmp_path / "a" / "x.json").write_text("3")
    assert a.hash() != b.hash()


def test_data_sets_without_files_keep_their_names(tmp_path: Path) -> None:
    config = composed("dataset=balloon")
    assert not {"annotations", "images", "val_annotations", "val_images"} & set(config.dataset.settings())
    assert not any("annotations" in key for key in config.settings())


def test_files_are_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.images is not for dataset balloon, but for coco_json"):
        checks.check(composed("dataset=balloon", "dataset.images=x"))
    nowhere = composed(f"dataset.annotations={tmp_path}/no.json")
    checks.check(nowhere)
    with pytest.raises(UserError, match=r"dataset\.annotations=.*no\.json can't be read"):
        nowhere.hash()
    with pytest.raises(UserError, match=r"dataset\.annotations=FILE"):
        composed().make_dataset("train")


def test_own_images_are_the_study_mine_s_unless_others_are_asked_for() -> None:
    assert composed().dataset.name == "coco_json"
    assert composed("dataset=generated").trunk.name == "small"


def test_a_stored_run_of_older_code_is_still_read(tmp_path: Path) -> None:
    old: Any = OmegaConf.to_container(OmegaConf.structured(composed("dataset=balloon")))
    for key in groups.FILE_KEYS:
        del old["dataset"][key]
    OmegaConf.save(old, tmp_path / "config.yaml")
    assert run.load_config(tmp_path / "config.yaml") == composed("dataset=balloon")
