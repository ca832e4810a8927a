"""Properties over generated specs."""

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from reproducer.spec import Spec, SpecError, load_spec
from reproducer.spec.origins import Origin, wrap
from reproducer.spec.overlay import merge
from tests.helpers import examples

quick = examples(40)

JARGON = re.compile(r"Input should|Extra inputs|Field required|\[type=|pydantic|ValidationError|Value error")
KEYS = ["name", "models", "methods", "prune", "ratio", "layers", "search", "space", "label", "recovery", "seeds", "zzz"]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(KEYS)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
)
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6)
finite = (
    st.none()
    | st.booleans()
    | st.integers(1 - 2**63, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(finite, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
words = st.text("abcdefgh", min_size=1, max_size=5)
ratios = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=3, unique=True)
layers = st.tuples(st.integers(0, 40), st.integers(1, 40)).map(lambda pair: [pair[0], sum(pair)])
prunes = st.fixed_dictionaries(
    {}, optional={"layers": layers, "scope": st.sampled_from(["local", "global"]), "round_to": st.integers(1, 64)}
)
specs = st.fixed_dictionaries(
    {
        "name": words,
        "models": st.lists(words, min_size=1, max_size=3, unique=True),
        "methods": st.lists(words, min_size=1, max_size=3, unique=True),
    },
    optional={
        "prune": st.one_of(
            prunes, *(st.builds(lambda a, b, k=k: a | {k: b}, prunes, ratios) for k in ("ratio", "structure_ratio"))
        ),
        "seeds": st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
        "search": st.dictionaries(words, values, max_size=3),
        "evaluate": st.fixed_dictionaries({"tasks": st.lists(words, unique=True, max_size=3)}),
        "recovery": st.lists(
            st.builds(lambda name, keys: keys | {"name": name}, words, st.dictionaries(words, values, max_size=2)),
            min_size=1,
            max_size=2,
            unique_by=lambda one: one["name"],
        ),
    },
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("specs") / "x.yaml"


def dump(data):
    """Plain data as YAML text, a key a line."""
    stream, yaml = io.StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(data, stream)
    return stream.getvalue()


def outcome(path, text):
    """The spec, or None where it was refused as it should be: lines that begin with the file, in plain words."""
    path.write_text(text, encoding="utf-8")
    try:
        return load_spec(path)
    except SpecError as error:
        for mistake in error.mistakes:
            assert re.match(re.escape(str(path)) + r":\d+: .", str(mistake))
            assert mistake.origin.line <= max(1, len(text.splitlines()))
            assert not JARGON.search(str(mistake))
        return None


@quick
@given(base=specs, key=st.sampled_from(["models", "methods", "prune", "recovery", "search", "seeds"]), tree=trees)
def test_anything_in_a_section_is_taken_or_told(path, base, key, tree):
    spec = outcome(path, dump(base | {key: tree}))
    assert spec is None or Spec.model_validate(spec.model_dump(mode="json")) == spec


@quick
@given(text=st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"#%@`,? \n\t\x01é"), max_size=30))
def test_any_text_is_told_from_a_spec(path, text):
    assert outcome(path, text) is None


@quick
@given(plain=specs, order=st.randoms())
def test_a_dump_is_the_spec_again_whatever_the_order_of_its_keys(path, plain, order):
    spec = outcome(path, dump(plain))
    keys = list(plain)
    order.shuffle(keys)
    shuffled = outcome(path, dump({key: plain[key] for key in keys}))
    plainly = json.dumps(spec.model_dump(mode="json"))
    assert json.dumps(shuffled.model_dump(mode="json")) == plainly
    assert Spec.model_validate(json.loads(plainly)) == spec == Spec.model_validate(plain)


@quick
@given(plain=specs)
def test_every_key_is_found_on_its_line(path, plain):
    text = dump(plain)
    spec = outcome(path, text)
    lines = text.splitlines()
    for key, value in plain.items():
        for loc in [(key,), *((key, inner) for inner in (value if isinstance(value, dict) else ()))]:
            line = int(spec.where(loc).rpartition(":")[2])
            assert lines[line - 1].strip().startswith(f"{loc[-1]}:")


@quick
@given(base=specs, over=specs)
def test_an_overlay_keeps_what_it_does_not_name_and_applied_twice_changes_nothing(base, over):
    file, overlay = wrap(base, Origin("a", 1)), wrap(over, Origin("b", 1))
    merged = merge(file, overlay)
    assert merge(merged, overlay).plain() == merged.plain()
    plain = merged.plain()
    assert set(plain) == set(base) | set(over)
    for key in plain:
        if key not in over:
            assert plain[key] == base[key]
        elif isinstance(over[key], dict):
            assert over[key].items() <= plain[key].items()
        else:
            assert plain[key] == over[key]
    assert not {"ratio", "structure_ratio"} <= plain.get("prune", {}).keys()
