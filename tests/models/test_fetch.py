"""Random models, local folders and the hub: what lands in the directory, and what is said when nothing can."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reproducer.errors import UserError
from reproducer.models.catalogue import CATALOGUE, resolve
from reproducer.models.fetch import UNWANTED, WANTED, fetch, fingerprints, recipe
from reproducer.models.load import load_model
from reproducer.models.tokenizer import byte_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fetched(name, directory, say=lambda line: None):
    directory.mkdir(exist_ok=True, parents=True)
    fetch(recipe(resolve(name)), directory, say)
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fetched("tiny", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


# --- random weights


def weights(directory):
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def test_config_and_seed_alone_determine_random_weights(folder, tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = fetched("tiny", tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before)
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    (tmp_path / "other").mkdir()
    fetch({**recipe(resolve("tiny")), "seed": 1}, tmp_path / "other", print)
    first, other = weights(folder), weights(tmp_path / "other")
    assert first.keys() == other.keys()
    assert not any(torch.equal(first[name], other[name]) for name in first)


@settings(max_examples=50)
@given(st.text())
def test_the_byte_tokenizer_round_trips(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())  # one token a byte, no special tokens added
    assert tokenizer.decode(ids) == text


def test_the_byte_tokenizer_survives_its_files(folder):
    _, tokenizer = load_model(folder)
    text = "Größe  12\n\ttokens  日本"
    assert tokenizer(text)["input_ids"] == byte_tokenizer()(text)["input_ids"]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer(["a", "abc"], padding=True)["attention_mask"] == [[1, 0, 0], [1, 1, 1]]


# --- local folders


def test_a_folder_is_pointed_at(folder, tmp_path):
    directory = fetched(str(folder), tmp_path / "artifact")
    assert [path.name for path in directory.iterdir()] == ["location.json"]
    assert json.loads((directory / "location.json").read_text())["path"] == str(folder.resolve())
    assert load_model(directory)[0].config.vocab_size == CATALOGUE["tiny"].config["vocab_size"]


def test_the_fingerprint_follows_the_folder(copy, tmp_path):
    made = recipe(resolve(str(copy)))
    (source,) = fingerprints(made)
    assert str(copy) in source
    first = fingerprints(made)
    location = (fetched(str(copy), tmp_path / "one") / "location.json").read_text()
    assert fingerprints(made) == first
    (copy / "model.safetensors").read_bytes()
    assert fingerprints(made) == first, "reading changes nothing"

    times = (copy / "model.safetensors").stat().st_mtime_ns
    os.utime(copy / "model.safetensors", ns=(times, times + 1))
    second = fingerprints(made)
    assert second != first, "weights written anew"
    assert (fetched(str(copy), tmp_path / "two") / "location.json").read_text() != location, "what depends on it reruns"
    os.utime(copy / "model.safetensors", ns=(times, times))
    assert fingerprints(made) == first

    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 2e-06'))
    assert len((copy / "config.json").read_text()) == len(config)
    assert fingerprints(made) != first, "another config of the same size"
    shutil.rmtree(copy)
    assert fingerprints(made) == {source: "absent"}


# --- the hub


def hub_cache(folder, tmp_path, monkeypatch, repository="org/model"):
    """A cache of the hub as a download leaves it, with no way to the network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(folder, root / "snapshots" / COMMIT))


def test_a_filled_cache_serves_offline_and_the_commit_is_written_down(folder, tmp_path, monkeypatch):
    snapshot = hub_cache(folder, tmp_path, monkeypatch)
    lines = []
    directory = fetched("org/model", tmp_path / "artifact", lines.append)
    assert json.loads((directory / "location.json").read_text()) == {"path": str(snapshot), "revision": COMMIT}
    assert any("org/model" in line for line in lines)
    assert load_model(directory)[0].config.hidden_size == CATALOGUE["tiny"].config["hidden_size"]


def test_offline_with_an_empty_cache(folder, tmp_path, monkeypatch):
    hub_cache(folder, tmp_path, monkeypatch, "org/another")
    with pytest.raises(UserError, match=r"org/model cannot be fetched(.|\n)*local folder(.|\n)*HF_HUB_OFFLINE=1"):
        fetched("org/model", tmp_path / "artifact")
    assert not any((tmp_path / "artifact").iterdir())


def test_only_configs_safetensors_and_tokenizers_are_downloaded():
    from huggingface_hub.utils import filter_repo_objects

    good = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.model"]
    good += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "merges.txt"]
    good += ["README.md"]  # the model card, which tells the licence
    bad = ["pytorch_model.bin", "modeling_x.py", "tokenization_x.py", "consolidated.safetensors", "onnx/model.onnx"]
    bad += ["original/model.safetensors", "model.gguf", "flax_model.msgpack", "tokenizer.py", "x.pt"]
    assert list(filter_repo_objects(good + bad, allow_patterns=WANTED, ignore_patterns=UNWANTED)) == good


def test_the_revision_is_asked_for(folder, tmp_path, monkeypatch):
    asked = []

    def download(repo_id, *, revision, allow_patterns, **_):
        asked.append((repo_id, revision))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    fetched("org/model@refs/pr/3", tmp_path / "a")
    fetched("vicuna-7b", tmp_path / "b")
    assert list(dict.fromkeys(asked)) == [("org/model", "refs/pr/3"), ("lmsys/vicuna-7b-v1.3", None)]


def test_what_the_config_decides_is_told_before_weights_are_fetched(tmp_path, monkeypatch):
    asked = []

    def download(repo_id, *, revision, allow_patterns, **_):
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    (tmp_path / "config.json").write_text('{"model_type": "mixtral", "num_local_experts": 8}')
    with pytest.raises(UserError, match="a mixture of experts"):
        fetched("org/model", tmp_path / "a")
    assert asked == [["*config.json"]]


def test_a_repository_of_pickles_is_refused_with_a_way_out(folder, tmp_path, monkeypatch):
    snapshot = Path(shutil.copytree(folder, tmp_path / COMMIT))
    (snapshot / "model.safetensors").unlink()
    names = ["config.json", *(f"pytorch_model-{i:05}-of-00033.bin" for i in range(1, 34))]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_, revision: names)
    with pytest.raises(UserError) as caught:
        fetched("llama-7b", tmp_path / "artifact")
    message = str(caught.value)
    for part in ("pytorch_model-00001-of-00033.bin", "29 more", "@refs/pr/", "save_pretrained", "pickle"):
        assert part in message
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_, revision: ["config.json", "README.md"])
    with pytest.raises(UserError, match="no weights"):
        fetched("llama-7b", tmp_path / "artifact")


def refusals():
    import httpx2
    from huggingface_hub import errors

    response = httpx2.Response(404, request=httpx2.Request("GET", "https://hub.invalid"))
    yield errors.RepositoryNotFoundError("404", response=response), "has no model org/model(.|\n)*hf auth login"
    yield errors.GatedRepoError("403", response=response), "is gated(.|\n)*Accept its terms(.|\n)*hf auth login"
    yield errors.RevisionNotFoundError("404", response=response), "has no revision 'v9'"
    yield errors.LocalEntryNotFoundError("no internet\nmore"), "cannot be fetched: .*no internet\n.*local folder"
    yield errors.HfHubHTTPError("500 server error", response=response), "500 server error(.|\n)*local folder"
    yield httpx2.ConnectError("no route"), "no route(.|\n)*local folder"
    yield errors.HFValidationError("bad name"), "bad name"


@pytest.mark.parametrize(("error", "message"), list(refusals()), ids=lambda value: type(value).__name__)
def test_what_the_hub_refuses(error, message, tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match=message):
        fetched("org/model@v9", tmp_path / "artifact")


def test_a_full_disk_is_no_fault_of_the_hub(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(OSError, match="No space left"):
        fetched("org/model", tmp_path / "artifact")
