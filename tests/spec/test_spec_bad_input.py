"""Input that is malformed on purpose: refused quickly, in one clear line."""

import time

import pytest

from reproducer.spec import SpecError, load_spec

BASE = "name: x\nmodels: [tiny]\nmethods: [magnitude]\n"

TEN = ", ".join(["x"] * 10)
BOMBS = {
    "10^10 values": f"a0: &a0 [{TEN}]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 11)),
    "4^17 values of merges": "m0: &m0 {a: 1, b: 2, c: 3, d: 4}\n"
    + "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 4)}], x{i}: 1}}\n" for i in range(1, 18)),
    "10,001 values": "a: [" + ", ".join(["x"] * 10_001) + "]\n",
}
DEEP = {
    "flow": 'a: {"b": ' + "[" * 5000,
    "items": "- " * 5000,
    "aliases": "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 100)),
}


def one_quickly(mistakes, text, overrides=()):
    """The only message, given within seconds: unbounded, each of these takes hours."""
    start = time.monotonic()
    (line,) = mistakes(text, overrides=overrides)
    assert time.monotonic() - start < 10
    assert len(line) < 300
    return line


@pytest.mark.parametrize("bomb", BOMBS)
def test_values_are_bounded_however_they_are_made(mistakes, bomb):
    assert "holds more than 10,000 values" in one_quickly(mistakes, BASE + BOMBS[bomb])


def test_a_bomb_in_an_option(mistakes):
    levels = "".join(f", &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 11))
    line = one_quickly(mistakes, BASE, [f"seeds=[&a0 [{TEN}]{levels}]"])
    assert line.startswith("--set: seeds: holds more than 10,000 values")


def test_thousands_of_mistakes_are_told_in_part(mistakes):
    lines = mistakes(BASE + "".join(f"key{number}: 1\n" for number in range(5000)))
    assert lines[0].startswith("x.yaml:4: unknown key 'key0'")
    assert lines[-1] == f"… and {5000 - (len(lines) - 1)} more"
    assert len(lines) < 100


@pytest.mark.parametrize("case", DEEP)
def test_nesting_is_bounded(mistakes, case):
    assert "is nested more than 40 levels deep" in one_quickly(mistakes, DEEP[case])


def test_a_file_without_end(mistakes):
    line = one_quickly(mistakes, BASE + "title: " + "a" * 300_000)
    assert line == "x.yaml: is larger than 256 KiB, so it is no spec; give the path of a YAML file"
    with pytest.raises(SpecError, match="/dev/zero: is larger than 256 KiB"):
        load_spec("/dev/zero")


class TestText:
    @pytest.mark.parametrize("text", [r"\ud800", r"\ude00\ud83d"])
    @pytest.mark.parametrize("place", ["title", "evaluate: {generate", "search: {texts: [{a"])
    def test_half_a_character(self, mistakes, text, place):
        closing = {"title": "", "evaluate: {generate": "}"}.get(place, "}]}")
        line = one_quickly(mistakes, BASE + f'{place}: "{text}"{closing}\n')
        assert line.startswith("x.yaml:4: ") and "holds half a character" in line
        line.encode()

    def test_half_a_character_as_key_or_option(self, mistakes):
        assert "holds half a character" in one_quickly(mistakes, BASE + '"\\ud800": 1\n')
        assert "holds half a character" in one_quickly(mistakes, BASE, ['title="\\ud800"'])
        # bytes of a command line that are no UTF-8
        assert one_quickly(mistakes, BASE, ["title=\udcff"]).startswith("--set: title: holds a control character or")
        assert one_quickly(mistakes, BASE, ["titl\udcff=a"]).startswith("--set: 'titl\\udcff=a' is not dotted")


class TestNames:
    LONG = "a" * 256

    @pytest.mark.parametrize(
        ("text", "start"),
        [
            ("models: [LONG]", "x.yaml:2: models[0]: is longer than a file system allows"),
            ("models: [PATH]", "x.yaml:2: models[0]: is longer than a file system allows"),
            ("models: ['a\n\n  b']", "x.yaml:2: models[0]: holds a line break"),
            ("models: [{name: a, label: LONG}]", "x.yaml:2: models[0].label: should be no longer than 100 characters"),
            ("models: a\ncalibration: {dataset: LONG}", "x.yaml:3: calibration.dataset: is longer than a file"),
        ],
    )
    def test_longer_than_a_file_system_allows_or_of_several_lines(self, mistakes, text, start):
        text = text.replace("LONG", self.LONG).replace("PATH", "a/" * 600)
        assert one_quickly(mistakes, f"name: x\n{text}\nmethods: vector\n").startswith(start)

    def test_a_profile(self, mistakes, load):
        (line,) = mistakes(BASE, [self.LONG])
        assert line.startswith(f"--profile: unknown profile '{self.LONG}'")
        (line,) = mistakes(BASE, [f"./{self.LONG}"])
        assert "cannot be read" in line
        with pytest.raises(SpecError, match="cannot be read"):
            load_spec(self.LONG)


class TestNumbers:
    @pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 6000, "-" + "9" * 5000, "1" + "0" * 30])
    def test_more_digits_than_a_number_has(self, mistakes, number):
        line = one_quickly(mistakes, BASE + f"seeds: {number}\n")
        assert line.startswith("x.yaml:4: seeds: ")
        assert "numbers have 18 digits at most" in line


@pytest.mark.parametrize("text", ["%FOO", "%YAML 9.9\n---\nname: x", "%YAML 1." + "9" * 5000 + "\n---\na: 1", "%"])
def test_odd_directives(mistakes, text):
    assert all(line.startswith("x.yaml:") for line in mistakes(text))
