"""What holds for every data set: it is found by its file's name, and takes what it says it takes."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from composition import composed

from instseg import data, plugins
from instseg.data import sets
from instseg.data.annotated import AnnotatedImages
from instseg.errors import UserError

Refused = Callable[..., str]


@pytest.mark.parametrize("name", data.names())
def test_a_file_defines_one_data_set_of_its_name(name: str) -> None:
    assert sets.dataset_class(name).__module__ == f"instseg.data.sets.{name}"
    config = composed(f"dataset={name}").dataset
    assert config.name == name
    # its YAML states every option
    assert set(config.options) == set(data.options(name))


def test_one_of_two_data_sets_in_a_file_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(__name__="instseg.data.sets.balloon")
    for name in ("A", "B"):
        setattr(module, name, type(name, (AnnotatedImages,), {"__module__": module.__name__}))
    monkeypatch.setattr(plugins.importlib, "import_module", lambda _: module)
    with pytest.raises(TypeError, match=r"balloon\.py must define one InstanceDataset, and defines 2"):
        sets.dataset_class("balloon")


def test_what_a_data_set_does_not_take_is_refused(refused: Refused, tmp_path: Path) -> None:
    refused(lambda: data.build("ballon", "train"), "'ballon'", "'balloon'", error=UserError)
    refused(lambda: data.build("balloon", "train", invald="drop"), "'invald'", "'invalid'", error=UserError)
    refused(lambda: data.build("balloon", "train", root=tmp_path, fold=1), "fold=1", "fold 0 alone", error=UserError)
    refused(lambda: data.build("generated", "train"), "max_train_images=null", error=UserError)


def test_without_a_root_a_data_set_lies_in_its_download_folder(real_data: Path) -> None:
    balloon = data.build("balloon", "val", images=1, download_dir=str(real_data))
    assert balloon.describe(0).startswith(str(real_data))
