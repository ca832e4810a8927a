"""Tiny matrices: on a busy machine a second thread would be waited for longer than it works."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # read when torch is imported: a thread that waits gives way

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
