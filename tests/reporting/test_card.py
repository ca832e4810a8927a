"""The model card: metadata that the hub reads, and a page on which everything reads as it was given."""

import pytest
from ruamel.yaml import YAML

from reproducer.reporting.card import Base, Card, Layer, Origin, card_text
from tests.reporting.fake import quickstart, row

from .reading import read
from .test_escape import HOSTILE

LAYERS = [Layer(0, 4, 4, 24, 24), Layer(1, 3, 4, 9, 24), Layer(2, 0, 4, 0, 24)]


def card(**more):
    known = {
        "name": "me/small",
        "format": "hf",
        "base": Base("SmolLM2-135M", "org/model", "apache-2.0", "hub org/model"),
        "method": "flap",
        "settings": {"ratio": 0.2, "layers": None, "parameters": {}},
        "parameters": 80,
        "parameters_before": 100,
        "layers": LAYERS,
        "plan_digest": "ab12",
        "versions": {"reproducer": "0.2.0"},
    }
    return Card(**{**known, **more})


def parts(text):
    _, metadata, page = text.split("---\n", 2)
    return YAML(typ="safe").load(metadata), page


def test_the_metadata_are_the_hubs():
    metadata, _ = parts(card_text(card()))
    assert metadata == {
        "base_model": "org/model",
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["pruned", "structured-pruning", "reproducer", "flap"],
    }


def test_what_is_not_known_is_left_out():
    text = card_text(card(base=Base("a folder"), parameters_before=None, method="", settings={}))
    metadata, page = parts(text)
    assert metadata.keys() == {"library_name", "pipeline_tag", "tags"}
    assert "which is not known here" in page and "fewer than" not in page and "None" not in page


def test_every_layer_is_told():
    _, page = parts(card_text(card()))
    assert "20.0% fewer" in page and "Its layers differ in width." in page and "Whole layers are gone." in page
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert ["0", "4 of 4", "24 of 24"] in rows and ["1", "3 of 4", "9 of 24"] in rows
    assert "gone" in {cell for row in rows for cell in row}
    _, page = parts(card_text(card(layers=LAYERS[:1])))
    assert "differ in width" not in page and "Whole layers" not in page


def test_remote_code_is_asked_for_only_where_there_is_some():
    asked = card_text(card(remote_code=True))
    assert 'AutoModelForCausalLM.from_pretrained("me/small", trust_remote_code=True)' in asked
    assert 'AutoTokenizer.from_pretrained("me/small", trust_remote_code=True)' in asked  # else transformers asks
    assert "trust_remote_code" not in card_text(card())


def test_hostile_names_read_as_they_were_given():
    """Neither the metadata nor the page takes them for anything but text."""
    base = Base(HOSTILE, HOSTILE, HOSTILE, HOSTILE, notes=HOSTILE)
    text = card_text(card(name=f'"); evil("{HOSTILE}', base=base, method=HOSTILE, settings={HOSTILE: HOSTILE}))
    metadata, page = parts(text)
    assert metadata["base_model"] == metadata["license"] == HOSTILE
    _, kinds = read(page)
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "em_open", "strong_open", "code_inline"}
    code = page.split("```python\n")[1].split("```")[0]
    names = []
    scope = {"AutoModelForCausalLM": None, "AutoTokenizer": None}
    loader = type("Loader", (), {"from_pretrained": staticmethod(names.append)})
    exec(code.split("\n\n")[1], {**dict.fromkeys(scope, loader)})
    assert names == [names[0]] * 2 and names[0].startswith('"); evil("a|b')


def test_a_machines_paths_are_cut_down():
    text = card_text(card(base=Base("m", source="folder /home/me/models/llama")))
    assert "/home/me" not in text and "llama" in text


@pytest.fixture
def origin():
    metrics = {"python_topics_ppl": 12.345, "python_docstrings_ppl": 30.0, "quiz_acc": 0.6}
    return Origin(quickstart(), row("llm-pruner-e2", metrics))


def test_measures_stand_beside_the_dense_models(origin):
    _, page = parts(card_text(card(origin=origin)))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    lines = {first: rest for first, *rest in rows}
    assert lines["Python topics, perplexity"] == [f"{origin.dense.metrics['python_topics_ppl']:.2f}", "12.35"]
    assert lines["Quiz, accuracy in %"][1] == "60.00"


def test_the_run_behind_it_is_named(origin):
    _, page = parts(card_text(card(origin=origin)))
    stages = origin.row.stages
    assert stages.keys() == {"model", "plan"}
    assert all(f"Stage {role}: {key}." in page for role, key in stages.items())
