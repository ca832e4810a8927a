"""Stage keys name finished work: they stay as they are unless a result would change.

`python -m tests.stages.test_keys` writes keys.txt anew; the commit says why a key moved.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reproducer.spec import load
from reproducer.stages.document import expand_all

SPECS = Path(__file__).parents[2] / "specs"
KEYS = Path(__file__).parent / "keys.txt"
PROFILES = ("paper", "small", "tiny")


def keys_of(path: Path, profile: str) -> Iterator[str]:
    """`kind key` of every stage of a spec under a profile, sorted."""
    stages = expand_all(load(path, [profile], [])).stages
    yield from sorted({f"{stage.kind} {stage.key}" for stage in stages})


def committed() -> dict[tuple[str, str], list[str]]:
    """The lines of keys.txt by spec and profile, which stand above them behind a `#`."""
    found: dict[tuple[str, str], list[str]] = {}
    for line in KEYS.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            _, spec, profile = line.split()
            lines = found[spec, profile] = []
        else:
            lines.append(line)
    return found


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_stages_have_the_keys_of_finished_runs(path):
    known = committed()
    for profile in PROFILES:
        assert list(keys_of(path, profile)) == known[path.stem, profile], profile


def test_no_committed_keys_are_of_a_spec_that_is_gone():
    assert {spec for spec, _ in committed()} == {path.stem for path in SPECS.glob("*.yaml")}


if __name__ == "__main__":
    lines: list[str] = []
    for spec in sorted(SPECS.glob("*.yaml")):
        for name in PROFILES:
            lines += [f"# {spec.stem} {name}", *keys_of(spec, name)]
    KEYS.write_text("\n".join(lines) + "\n", encoding="utf-8")
