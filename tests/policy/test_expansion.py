"""From a valid policy to gates."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_example import EXAMPLE, document

from robustcheck import load_policy
from robustcheck.errors import PolicyError
from robustcheck.policy import PGDSpec, PreprocessSpec, Quantity
from robustcheck.policy.bounds import LOWER_IS_BETTER, NEEDS_ATTACK, NEEDS_CONTROLS, NEEDS_PREVALENCE
from robustcheck.results import METRICS


def test_a_policy_becomes_gates(write):
    policy = load_policy(write(EXAMPLE))
    assert [gate.id for gate in policy.gates] == [
        "clean",
        "fgsm",
        "pgd[1/255]",
        "pgd[2/255]",
        "pgd[4/255]",
        "one[0.01]",
    ]
    assert [" and ".join(f"{bound.metric} {bound}" for bound in gate.bounds) for gate in policy.gates] == [
        "accuracy >= 0.8 and sensitivity >= 0.9",
        "accuracy >= 0.7",
        "accuracy >= 0.75 and attack_success <= 0.5",
        "accuracy >= 0.7 and attack_success <= 0.5",
        "accuracy >= 0.6 and attack_success <= 0.5",
        "specificity >= 0.5",
    ]
    assert [gate.attack and gate.attack.name for gate in policy.gates] == [None, "fgsm", "pgd", "pgd", "pgd", "pgd"]
    assert [gate.epsilon and gate.epsilon.text for gate in policy.gates[:3]] == [None, "2/255", "1/255"]
    assert policy.gates[2].attack == PGDSpec(name="pgd", steps=40, restarts=2)
    assert policy.gates[5].attack == PGDSpec(name="pgd")
    assert (policy.name, policy.seed, policy.decision.rule, policy.evidence) == (
        "Chest X-ray pneumonia, pre-deployment gate",
        7,
        "estimate",
        "isolated",
    )
    assert policy.model.preprocess.mean == (0.5,)
    assert policy.data.samples == 500


def test_what_may_be_left_out(write):
    policy = load_policy(write(name="chest.yaml"))
    assert (policy.name, policy.seed, policy.decision.rule, policy.evidence) == ("chest", 0, "estimate", "shared")
    assert policy.model.preprocess.range == (0, 1)
    assert policy.data.split is policy.data.samples is policy.model.operating_point is None


def test_a_label_stays_as_it_was_typed(write):
    written = (
        EXAMPLE.replace("[normal, pneumonia]", "[no, 1, 007, 1:30, 0x1F, +5, Off]")
        .replace("positive: pneumonia", "positive: 1")
        .replace("specificity", "sensitivity")  # of so many labels an untargeted adversary spares it
    )
    policy = load_policy(write(written))
    assert policy.model.labels == ("no", "1", "007", "1:30", "0x1F", "+5", "Off")
    assert policy.model.positive == "1"


def test_the_arguments_of_an_architecture_are_its_own_matter(write):
    arguments = {"depth": None, "widths": [8, 16], "bias": False, "scale": 1.5}
    written = document()
    written["model"] |= {"path": "candidate.safetensors", "architecture": "nets:build", "architecture_args": arguments}
    assert load_policy(write(json.dumps(written))).model.architecture_args == arguments


def test_the_arguments_of_a_surrogates_architecture_are_its_own_matter_too(write):
    arguments = {"weights": None, "num_classes": 2}
    written = document()
    train = {"architecture": "torchvision.models:resnet18", "architecture_args": arguments}
    written["gates"][0] = {
        "id": "transfer", "attack": {"name": "transfer", "train": train}, "epsilon": "2/255", "require": {"accuracy": 0}
    }  # fmt: skip
    assert load_policy(write(json.dumps(written))).gates[0].attack.train[0].architecture_args == arguments


def _transferred(candidate, **own):
    """A policy whose surrogates, a given and a trained one, preprocess so beside a candidate that does so."""
    written = document()
    written["model"]["preprocess"] = candidate
    models = {"surrogate": {"path": "candidate.onnx"} | own, "train": {"architecture": "nets:small"} | own}
    written["gates"] = [
        {"id": "gate", "attack": {"name": "transfer"} | models, "epsilon": "2/255", "require": {"accuracy": 0}}
    ]
    return json.dumps(written)


CT = {"window": [-160, 240], "resize": 256, "interpolation": "bicubic", "crop": [224, 224], "mean": 0.5, "std": 0.2}
STEPS = [
    ({"channels": 3}, {**CT, "channels": 3}),
    ({"mean": [0.1, 0.2, 0.3], "channels": 3}, {**CT, "channels": 3, "mean": [0.1, 0.2, 0.3]}),
    ({"resize": [64, 64]}, {"window": [-160, 240], "resize": [64, 64], "mean": 0.5, "std": 0.2}),
    ({"crop": [64, 64]}, {"window": [-160, 240], "crop": [64, 64], "mean": 0.5, "std": 0.2}),
    ({"interpolation": "nearest"}, {**CT, "interpolation": "nearest"}),
]


@pytest.mark.parametrize(("own", "whole"), STEPS)
def test_a_surrogate_s_preprocessing_has_the_candidate_s_steps_where_it_says_nothing(own, whole, write):
    (gate,) = load_policy(write(_transferred(CT, preprocess=own))).gates
    for spec in (*gate.attack.surrogate, *gate.attack.train):
        assert spec.preprocess == PreprocessSpec(**whole)
    assert gate.parameters["train"][0]["preprocess"]["window"] == [-160, 240]


def test_a_surrogate_without_preprocessing_of_its_own_has_the_candidate_s(write):
    (gate,) = load_policy(write(_transferred(CT))).gates
    assert [spec.preprocess for spec in (*gate.attack.surrogate, *gate.attack.train)] == [None, None]


def test_steps_of_a_surrogate_have_to_fit_the_candidate_s(write):
    candidate = {"channels": 3, "order": "BGR", "mean": [0.1, 0.2, 0.3], "std": 0.2}
    with pytest.raises(PolicyError) as caught:
        load_policy(write(_transferred(candidate, preprocess={"channels": 1})))
    told = [str(problem) for problem in caught.value.problems]
    assert len(told) == 4
    for key in ("surrogate", "train"):
        assert any(f"{key}.preprocess.mean: found 3 numbers for 1 channel" in line for line in told)
        assert any(f"{key}.preprocess.order: found BGR" in line for line in told)


def test_aliases_stand_for_what_they_name(write):
    gates = """
gates:
  - id: fgsm
    attack: fgsm
    epsilon: &ladder [1/255, 2/255]
    require: &floor {accuracy: 0.5}
  - {id: pgd, attack: pgd, epsilon: *ladder, require: *floor}
"""
    policy = load_policy(write(EXAMPLE.partition("gates:")[0] + gates))
    assert [gate.id for gate in policy.gates] == ["fgsm[1/255]", "fgsm[2/255]", "pgd[1/255]", "pgd[2/255]"]
    assert policy.gates[0].bounds == policy.gates[3].bounds


BUDGETS = st.lists(st.integers(1, 255), min_size=1, max_size=5, unique=True)
SIGNED = st.sampled_from([">= 0.25", "<= 0.75"])
BOUNDS = st.one_of(st.integers(0, 100).map(lambda percent: percent / 100), SIGNED)


@st.composite
def gates(draw):
    """A gate as written, and the ids, levels and number of bounds that it stands for."""
    name = draw(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}", fullmatch=True))
    attack = draw(st.sampled_from([None, "fgsm", "pgd", {"name": "pgd", "steps": 3}]))
    levels = draw(BUDGETS)
    listed = attack is not None and draw(st.booleans())
    known = set(METRICS) - NEEDS_PREVALENCE - (NEEDS_CONTROLS if attack else NEEDS_ATTACK)
    metrics = draw(st.lists(st.sampled_from(sorted(known)), min_size=1, unique=True))
    count = len(levels) if listed else 1
    bounds = {metric: SIGNED if metric in LOWER_IS_BETTER else BOUNDS for metric in metrics}
    require = {
        metric: draw(st.one_of(one, st.lists(one, min_size=count, max_size=count))) for metric, one in bounds.items()
    }
    gate = {"id": name, "require": require}
    if attack is None:
        return gate, [(name, None)]
    if not listed:
        return gate | {"attack": attack, "epsilon": f"{levels[0]}/255"}, [(name, levels[0])]
    budgets = [f"{level}/255" for level in levels]
    return gate | {"attack": attack, "epsilon": budgets}, [(f"{name}[{level}/255]", level) for level in levels]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(gates(), min_size=1, max_size=4, unique_by=lambda gate: gate[0]["id"]))
def test_every_valid_policy_expands_to_its_gates(write, drawn):
    written = document() | {"gates": [gate for gate, _ in drawn]}
    policy = load_policy(write(json.dumps(written)))
    expected = [entry for _, entries in drawn for entry in entries]
    assert [
        (gate.id, None if gate.epsilon is None else int(gate.epsilon.in_levels(8))) for gate in policy.gates
    ] == expected

    sources = [(gate, index) for gate, entries in drawn for index in range(len(entries))]
    for gate, (source, index) in zip(policy.gates, sources, strict=True):
        for bound in gate.bounds:
            value = source["require"][bound.metric]
            value = value[index] if isinstance(value, list) else value
            assert str(bound) == (value if isinstance(value, str) else f">= {value:g}")


@pytest.mark.parametrize("text", ["2/255", "0.01", "3 levels"])
def test_an_entry_is_named_as_its_budget_was_typed(write, text):
    policy = load_policy(write(EXAMPLE.replace("[0.01]", f"[{text}]")))
    assert policy.gates[-1].id == f"one[{text}]"
    assert policy.gates[-1].epsilon == Quantity.parse(text)


def test_a_list_of_sizes_is_a_gate_each_and_the_target_of_a_patch_is_the_goal(write):
    gates = "[{id: s, attack: {name: patch, target: normal}, size: [5%, 32 px], require: {accuracy: [0.1, 0.2]}}]"
    policy = load_policy(write(EXAMPLE[: EXAMPLE.index("gates:")] + f"gates: {gates}\n"))
    assert [gate.id for gate in policy.gates] == ["s[5%]", "s[32 px]"]
    assert [str(gate.bounds[0]) for gate in policy.gates] == [">= 0.1", ">= 0.2"]
    assert {(gate.goal, gate.target, gate.epsilon, gate.family) for gate in policy.gates} == {
        ("targeted", "normal", None, None)
    }
