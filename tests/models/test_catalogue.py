"""What a spec's model name means, without loading anything."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproducer.errors import UserError
from reproducer.models.architecture import parameter_count
from reproducer.models.catalogue import CATALOGUE, Entry, Folder, Hub, Package, resolve
from reproducer.models.fetch import recipe
from reproducer.models.load import meta_model


def test_the_catalogue_is_found_by_name():
    assert {name: resolve(name) for name in CATALOGUE} == CATALOGUE
    assert all(entry.label and entry.notes and entry.describe() for entry in CATALOGUE.values())
    assert {"llama-7b", "vicuna-7b", "smollm2-135m", "tiny", "tiny-gqa"} <= set(CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_parameters_are_those_of_the_model(name):
    entry, model = CATALOGUE[name], meta_model(CATALOGUE[name].config)
    assert model.config.model_type == entry.config["model_type"]
    assert entry.parameters in (parameter_count(model), None)
    assert (entry.parameters is None) == (entry.config["model_type"] != "llama")


def test_a_recipe_is_json_and_tells_models_apart():
    recipes = [json.dumps(recipe(entry), sort_keys=True) for entry in CATALOGUE.values()]
    assert len(set(recipes)) == len(CATALOGUE)
    assert isinstance(CATALOGUE["smollm2-135m"].source, Package)
    assert CATALOGUE["smollm2-135m"].source.sha256 in recipes[list(CATALOGUE).index("smollm2-135m")]


def test_a_hub_id_and_its_revision():
    assert resolve("Qwen/Qwen2.5-0.5B") == Entry("Qwen/Qwen2.5-0.5B", "Qwen2.5-0.5B", Hub("Qwen/Qwen2.5-0.5B"))
    assert resolve("org/model@refs/pr/3").source == Hub("org/model", "refs/pr/3")
    assert recipe(resolve("org/model@main")) != recipe(resolve("org/model"))


def test_a_local_folder_comes_before_the_hub(tmp_path, monkeypatch):
    folder = tmp_path / "org" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    entry = resolve("org/model")
    assert entry.source == Folder(str(folder.resolve())) and entry.label == "model"
    assert recipe(entry) == recipe(resolve("./org/../org/model")) == recipe(resolve(str(folder)))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert recipe(resolve("~/org/model")) == recipe(entry)


def test_a_folder_that_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    with pytest.raises(UserError, match=r"'org/model' is no model: it has no config\.json"):
        resolve("org/model")
    for name in ("./absent", "~nobody-of-that-name/x", "/absent"):
        with pytest.raises(UserError, match=f"no model folder '{name}'"):
            resolve(name)


@pytest.mark.parametrize(
    ("name", "near"), [("lama-7b", "llama-7b"), ("smollm2", "smollm2-135m"), ("tiny-gpa", "tiny-gqa")]
)
def test_an_unknown_name_gets_the_nearest(name, near):
    with pytest.raises(UserError, match=f"unknown model '{name}'\ndid you mean '{near}'"):
        resolve(name)


@given(st.text(max_size=60) | st.just("x" * 5000) | st.just("~nobody-of-that-name/x"))
def test_any_text_is_a_model_or_a_user_error(name):
    try:
        entry = resolve(name)
    except UserError:
        return
    assert json.loads(json.dumps(recipe(entry)))["source"] in ("hub", "folder")
