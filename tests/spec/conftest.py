import textwrap
from pathlib import Path

import pytest

from reproducer.spec import SpecError, load_spec


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file below an empty working directory, so that messages name it by a relative path."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="x.yaml"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def load(write):
    """Loads a spec from its text."""

    def load(text, profiles=(), overrides=()):
        return load_spec(write(text), profiles, overrides)

    return load


@pytest.fixture
def mistakes(load):
    """The message of the SpecError that a spec's text gives, as lines."""

    def mistakes(text, profiles=(), overrides=()):
        with pytest.raises(SpecError) as caught:
            load(text, profiles, overrides)
        return str(caught.value).splitlines()

    return mistakes
