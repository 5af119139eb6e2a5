"""Whatever stands in the file, the answer is a policy or a PolicyError."""

from __future__ import annotations

import copy

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from policy_example import document

from robustcheck import load_policy
from robustcheck.errors import PolicyError
from robustcheck.policy import DataSpec, ModelSpec, PreprocessSpec
from robustcheck.policy.schema import PolicyFile

KEYS = st.sampled_from(
    [
        *("architecture_args", "id", "steps", "step_size", "restarts", "random_start", "pgd", "fgsm", "<<"),
        *PolicyFile.model_fields,
        *ModelSpec.model_fields,
        *PreprocessSpec.model_fields,
        *DataSpec.model_fields,
        *("attack", "epsilon", "norm", "goal", "require", "accuracy", "attack_success", "rule"),
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    KEYS,
    st.sampled_from(["2/255", "3 levels", ">= 0.7", "candidate.onnx", "phantom:nodule", "a:b", "~", "normal", "", "/"]),
    st.text(max_size=20),
    st.dates(),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(KEYS, st.text(max_size=8), st.integers(), st.booleans()), inner, max_size=4),
    ),
    max_leaves=12,
)
in_a_folder = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def answer(path):
    """Load it; a PolicyError says something about this file, on one line a problem, and nothing else is raised."""
    problems = ()
    try:
        assert load_policy(path).gates
    except PolicyError as error:
        problems = error.problems or [None]
    for problem in problems:
        assert problem.file == path
        assert problem.message
        assert str(problem).isprintable(), repr(str(problem))


def places(tree, path=()):
    """The paths of everything in a tree."""
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*path, key))


def replaced(tree, path, value):
    if not path:
        return value
    tree = copy.copy(tree)
    tree[path[0]] = replaced(tree[path[0]], path[1:], value)
    return tree


@in_a_folder
@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbf")
@example(b"\xff\xfe\x00")
@example(b"%YAML " + b"9" * 5000 + b".1\n---\n{}")
@example(b'"\\UFFFFFFFF"')
@example(b'? "\\0"\n: 1')
@example(b"? {a: b}\n: 1")
@example(b"? [a]\n: 1")
@example(b"!!int 'x'")
@example(b"!!set {a, b}")
@example(b"!!binary aGk=")
@example(b"{!!int x: 1}")
@example(b"a: &a !x [*a]")
@example(b"&a {*a : 1}")
@example(b"- !!timestamp 2001-01-01")
@example(b"= : 1")
@example(b"{,}")
@example(b"'" * 99)
def test_bytes(write, content):
    answer(write(content))


@in_a_folder
@given(st.text("-:?[]{},&*!|>'\"%@`# \n\tab1~<.", max_size=60))
def test_yaml_of_a_kind(write, content):
    answer(write(content))


@in_a_folder
@given(TREES)
def test_trees(write, tree):
    answer(write(yaml.safe_dump(tree, allow_unicode=True)))


@in_a_folder
@given(st.data(), TREES)
def test_a_policy_with_something_else_somewhere_in_it(write, data, value):
    valid = document()
    path = data.draw(st.sampled_from(sorted(places(valid), key=repr)))
    answer(write(yaml.safe_dump(replaced(valid, path, value), allow_unicode=True)))


@in_a_folder
@given(st.data(), KEYS, TREES)
def test_a_policy_with_a_key_more(write, data, key, value):
    valid = document()
    sections = [path for path in places(valid) if path == () or isinstance(path[-1], (str, int))]
    path = data.draw(st.sampled_from(sorted(sections, key=repr)))
    section = valid
    for part in path:
        section = section[part]
    changed = {**section, key: value} if isinstance(section, dict) else [section, value]
    answer(write(yaml.safe_dump(replaced(valid, path, changed), allow_unicode=True)))


@pytest.mark.parametrize("path", sorted(places(document()), key=repr), ids=repr)
def test_a_policy_with_something_left_out(write, path):
    if path:
        section = document()
        whole = section
        for part in path[:-1]:
            section = section[part]
        del section[path[-1]]
        answer(write(yaml.safe_dump(whole)))
