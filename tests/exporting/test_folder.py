"""A folder appears as a whole or not at all."""

import errno

import pytest
from safetensors import SafetensorError

import reproducer
from reproducer.errors import UserError
from reproducer.exporting.folder import new_folder
from reproducer.models.export import formats
from tests.helpers import tiny


def full(error):
    """A writer that comes to the end of the disk."""

    def write(model, tokenizer, directory, type):
        (directory / "model.safetensors").write_bytes(b"half")
        raise error

    return write


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["config", "weights"],
)
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, error):
    monkeypatch.setattr(formats, "FORMATS", {"hf": full(error)})
    with pytest.raises(UserError, match=r"cannot be written to .*small: .*No space left on device"):
        reproducer.export(tiny(), None, tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "FORMATS", {"hf": full(KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        reproducer.export(tiny(), None, tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_will_do_and_no_other(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "empty/a").read_text() == "a"
    for taken, state in (("empty", "not empty"), ("empty/a", "not a folder")):
        with pytest.raises(UserError, match=state), new_folder(tmp_path / taken):
            raise AssertionError("nothing is to be written")
    assert (tmp_path / "empty/a").read_text() == "a"


def test_a_parent_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be"), new_folder(tmp_path / "file/small"):
        pass
