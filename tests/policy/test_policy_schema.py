"""The JSON Schema of a policy: what editors check while it is typed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_example import EXAMPLE, document

from robustcheck import load_policy
from robustcheck.errors import PolicyError
from robustcheck.policy import ATTACKS
from robustcheck.policy.schema import json_schema
from robustcheck.results import METRICS

MISTAKES = Path(__file__).with_name("mistakes")
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def accepts(policy):
    return VALIDATOR.is_valid(policy)


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"].endswith("2020-12/schema")


def test_it_accepts_a_policy_that_the_loader_accepts(write):
    assert load_policy(write(EXAMPLE)).gates
    VALIDATOR.validate(document())


def test_it_has_every_attack_and_metric():
    gate = SCHEMA["$defs"]["GateSpec"]["properties"]
    by_name, *with_parameters = gate["attack"]["anyOf"]
    assert by_name == {"enum": list(ATTACKS)}
    assert [attack["properties"]["name"]["const"] for attack in with_parameters] == list(ATTACKS)
    assert list(gate["require"]["properties"]) == list(METRICS)


def test_every_key_is_described():
    sections = [SCHEMA, *SCHEMA["$defs"].values(), *SCHEMA["$defs"]["GateSpec"]["properties"]["attack"]["anyOf"][1:]]
    for section in sections:
        for key, value in section["properties"].items():
            assert value.get("description") or value.get("const"), key


def test_nothing_may_be_null():
    assert '"null"' not in json.dumps(SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model", "preprocess", "mean"), 0.5),
        (("model", "preprocess", "std"), [1, 1, 1]),
        (("model", "labels"), [0, 1]),
        (("model", "positive"), 1),
        (("model", "batch_size"), 16),
        (("model", "batch_size"), "auto"),
        (("gates", 1, "epsilon"), 0.01),
        (("gates", 1, "epsilon"), "3 levels"),
        (("gates", 1, "epsilon"), ["2/255", 0.5]),
        (("gates", 1, "attack"), {"name": "pgd", "step_size": "0.5/255", "random_start": False}),
        (("gates", 0, "require", "accuracy"), "<= 0.5"),
        (("gates", 2, "require", "accuracy"), [0.5, ">= 0.4", 0]),
    ],
)
def test_other_ways_to_say_it(path, value):
    assert accepts(changed(path, value))


MULTILABEL = {"task": "multilabel", "positive": "effusion", "labels": ["effusion", "nodule"]}


@pytest.mark.parametrize(
    ("model", "fits"),
    [
        ({}, True),
        ({"operating_point": 0.3}, True),
        ({"operating_point": [0.3, 0.6]}, True),
        ({"labels": ["effusion"], "operating_point": [0.3]}, True),
        ({"labels": ["effusion", *map(str, range(61))]}, True),
        ({"labels": ["effusion", *map(str, range(62))]}, False),
        ({"operating_point": [0.3, 1]}, False),
        ({"task": "multiclass", "operating_point": [0.3, 0.6]}, False),
        ({"task": "multiclass", "labels": ["effusion"]}, False),
        ({"task": "binary", "labels": ["effusion"]}, False),
    ],
)
def test_several_findings(write, model, fits):
    policy = document()
    policy["model"] = {"path": "candidate.onnx", **MULTILABEL, **model}
    assert accepts(policy) == fits
    path = write(json.dumps(policy))
    if not fits:
        with pytest.raises(PolicyError, match=rf"\bmodel\.({'|'.join(MULTILABEL | model)})\b"):
            load_policy(path)
        return
    point = model.get("operating_point")
    assert load_policy(path).model.operating_point == (
        None if point is None else tuple(point) if isinstance(point, list) else (point,)
    )


@pytest.mark.parametrize(
    ("model", "data", "fits"),
    [
        ({}, {"prevalence": 0.02}, True),
        ({}, {"prevalence": [0.02]}, False),
        ({}, {"prevalence": 0}, False),
        ({}, {"prevalence": 1}, False),
        (MULTILABEL, {"prevalence": 0.02}, True),
        (MULTILABEL, {"prevalence": [0.02, 0.3]}, True),
        (MULTILABEL, {"prevalence": []}, False),
        ({}, {"group": "patient_id", "subgroups": ["sex", "scanner"]}, True),
        ({}, {"subgroups": "sex"}, True),
        ({}, {"subgroups": ["sex", "sex"]}, False),
        ({}, {"subgroups": []}, False),
        ({}, {"subgroups": list("abcdefgh")}, True),
        ({}, {"subgroups": list("abcdefghi")}, False),
        ({}, {"group": ["patient_id"]}, False),
        ({}, {"group": 3}, False),
    ],
)
def test_columns_and_prevalence(write, model, data, fits):
    policy = document()
    policy["model"] = {"path": "candidate.onnx", **(model or {key: policy["model"][key] for key in MULTILABEL})}
    policy["data"] = {"source": "samples.npz", **data}
    assert accepts(policy) == fits
    path = write(json.dumps(policy))
    if not fits:
        with pytest.raises(PolicyError, match=rf"\bdata\.({'|'.join(data)})\b"):
            load_policy(path)
        return
    loaded = load_policy(path).data
    for key in ("subgroups", "prevalence"):
        written = data.get(key, () if key == "subgroups" else None)
        many = isinstance(written, (list, tuple)) or written is None
        assert getattr(loaded, key) == (
            tuple(written) if isinstance(written, list) else written if many else (written,)
        )
    assert loaded.group == data.get("group")


TYPE_MISTAKES = sorted(MISTAKES.glob("type-*.yaml")) + [
    MISTAKES / f"{name}.yaml"
    for name in (
        *("document-format-2", "document-list", "document-sections-missing", "document-blank-values"),
        *(
            "key-misspelt",
            "key-of-another-attack",
            "key-unknown-in-attack",
            "key-unknown-in-gate",
            "key-missing-in-gate",
        ),
        *("word-task", "word-attack", "word-attack-without-name", "word-metric", "word-id-with-a-space", "word-device"),
        *("epsilon-bare-8", "epsilon-percent", "epsilon-negative", "epsilon-empty-list"),
        *("require-80", "require-more-than", "require-quoted-number", "require-empty", "require-mapping"),
        *("model-one-label", "model-operating-point-too-large", "preprocess-std-zero", "preprocess-resize"),
    )
]
# JSON knows one kind of number, and YAML 1.1, which editors read, has hexadecimal ones; 8 is a budget in L2.
UNSEEN = {"type-steps-float", "type-seed-hexadecimal", "type-infinite", "epsilon-bare-8"}


@pytest.mark.parametrize("path", TYPE_MISTAKES, ids=lambda path: path.stem)
def test_it_rejects_mistakes_of_type(path):
    assert accepts(yaml.safe_load(path.read_bytes())) == (path.stem in UNSEEN)


def changed(path, value):
    policy = section = copy.deepcopy(document())
    for part in path[:-1]:
        section = section[part]
    section[path[-1]] = value
    return policy


LEAVES = [
    ("seed",),
    ("evidence",),
    ("model", "operating_point"),
    ("model", "labels"),
    ("model", "preprocess", "mean"),
    ("model", "preprocess", "resize"),
    ("data", "bits"),
    ("gates", 2, "attack", "steps"),
    ("gates", 1, "epsilon"),
    ("gates", 1, "attack"),
    ("gates", 1, "require", "accuracy"),
    ("gates", 0, "id"),
]
VALUES = st.one_of(
    st.booleans(),
    st.integers(-2, 300),
    st.floats(0, 2),
    st.sampled_from(["pgd", "2/255", "3 levels", ">= 0.7", "40", "", "shared", "8", "1e-3"]),
    st.lists(st.one_of(st.integers(0, 3), st.sampled_from(["a", "1/255", True])), max_size=3),
    st.just({}),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(LEAVES), VALUES)
def test_what_it_rejects_no_policy_may_say(write, path, value):
    """An editor must not underline what is right: what the loader accepts, the schema accepts."""
    policy = changed(path, value)
    try:
        load_policy(write(json.dumps(policy)))
    except PolicyError:
        return
    VALIDATOR.validate(policy)
