"""Attacks that were too weak are seen: too few steps, or less than what a few queries turn."""

from __future__ import annotations

from types import SimpleNamespace

import onnx
import pytest
from building import brightness_gates, brightness_project, flat_images
from chest import POLICIES, gates_on_xrays
from masks import masked_gates

from robustcheck.attacks.searches import QUICK
from robustcheck.evaluation.health.checks import gradients
from robustcheck.evaluation.health.examination import Examination
from robustcheck.evaluation.health.probing import Probed, ProbeResult
from robustcheck.evaluation.search import searching
from robustcheck.evaluation.search.found import Found, Rise, Trace
from robustcheck.evaluation.search.ledger import UNKNOWN
from robustcheck.results import Cost

PGD = "- {id: pgd, attack: {name: pgd, steps: 10}, epsilon: 4/255, require: {accuracy: 0.3}}"


def _suspected(gate):
    return {check.name for check in gate.health if check.outcome in ("suspect", "broken")}


@pytest.mark.xrays
def test_too_few_steps(tmp_path, xrays):
    short = {"name": "pgd", "steps": 8, "step_size": "0.0004", "random_start": False}
    gate = {"id": "pgd", "attack": short, "epsilon": "4/255", "require": {"accuracy": 0.6}}
    found = gates_on_xrays(tmp_path, xrays, "standard", [gate], samples=624)["pgd"]
    assert found.metrics["accuracy"].value > 0.6
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    assert check.outcome == "broken"
    assert "32 steps turned" in check.evidence
    assert found.verdict == "error"


@pytest.mark.xrays
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_too_few_steps_behind_a_softmax(form, tmp_path, xrays):
    """Searches look at what goes into it, and losses there can be compared as well."""
    short = "{name: pgd, steps: 8, step_size: 0.0004, random_start: false}"
    gate = f"- {{id: pgd, attack: {short}, epsilon: 4/255, require: {{accuracy: 0.6}}}}"
    if form == "onnx":
        model = onnx.load(POLICIES / "candidates" / "pneumonia_standard.onnx")
        (output,) = model.graph.output
        model.graph.node.append(onnx.helper.make_node("Softmax", [output.name], ["probabilities"], axis=1))
        output.name = "probabilities"
        onnx.save(model, tmp_path / "model.onnx")
    (found,) = masked_gates(
        tmp_path, xrays, "Softmax", gate, samples=624, path="model.onnx" if form == "onnx" else None
    )
    assert found.metrics["accuracy"].value > 0.6
    outcomes = {check.name: check.outcome for check in found.health}
    assert (outcomes["loss-rises"], outcomes["enough-steps"]) == ("sound", "broken")
    assert found.verdict == "error"
    assert found.error.endswith("raise the attack's steps, or leave step_size at its default")


@pytest.mark.parametrize("steps", [2, 3])
def test_a_search_of_a_few_steps_is_tried_with_more(steps, tmp_path):
    brightness_project(tmp_path)
    gate = f"""
  - id: pgd
    attack: {{name: pgd, steps: {steps}, step_size: 1/255}}
    epsilon: 8/255
    require: {{accuracy: 0.5}}
"""
    (found,) = brightness_gates(tmp_path, gate)
    assert found.metrics["accuracy"].value >= 0.6
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    assert check.outcome == "broken"
    assert f"a search of {steps} steps is too short" in check.evidence
    assert f"{4 * steps} steps turned" in check.evidence
    assert found.verdict == "error"


def test_a_few_steps_may_be_enough(tmp_path):
    brightness_project(tmp_path)
    gate = "  - {id: pgd, attack: {name: pgd, steps: 3}, epsilon: 2/255, require: {accuracy: 0.5}}\n"
    (found,) = brightness_gates(tmp_path, gate)
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    assert (check.outcome, found.verdict) == ("sound", "pass")
    assert check.evidence.endswith("; 12 steps turned 0 of 6 that held")


def test_steps_that_do_not_reach_the_border_are_told(tmp_path):
    brightness_project(tmp_path)
    gate = "{id: pgd, attack: {name: pgd, steps: 4, step_size: 1/2550, random_start: false}, epsilon: 8/255"
    (found,) = brightness_gates(tmp_path, f"  - {gate}, require: {{accuracy: 0.5}}}}\n")
    message = (
        "the search has too few steps, or steps that are too small; 4 steps of 1/2550 from the image reach 0.4 of the "
        "8 grey levels that epsilon admits"
    )
    assert found.verdict == "pass"
    assert [one.message for one in found.findings if one.code == "enough-steps" and one.message.startswith(message)]


GOING_DOWN = """
  - id: pgd
    attack: {name: pgd, steps: 5, step_size: 1/2550, random_start: false}
    epsilon: [4/255, 8/255]
    ladder: descending
    require: {accuracy: 0}
"""


def test_going_down_large_steps_reach_the_border(tmp_path):
    """However small those are that come after them."""
    brightness_project(tmp_path)
    for found in brightness_gates(tmp_path, GOING_DOWN):
        assert not [one for one in found.findings if "grey levels that epsilon admits" in one.message]


def test_going_down_more_steps_are_tried_without_the_large_ones(tmp_path, monkeypatch):
    tried, build = [], searching.build

    def noted(spec, *given, **options):
        tried.append((getattr(spec, "steps", None), options["quick_first"]))
        return build(spec, *given, **options)

    monkeypatch.setattr(searching, "build", noted)
    brightness_project(tmp_path)
    flat_images(tmp_path, [160] * 300, [1] * 300)
    brightness_gates(tmp_path, GOING_DOWN)
    assert (5, True) in tried
    assert {quick for steps, quick in tried if steps == 20} == {False}


@pytest.mark.parametrize("random_start", ["true", "false"])
def test_a_step_that_leads_nowhere_near_the_border_is_tried_with_more(random_start, tmp_path):
    brightness_project(tmp_path)
    attack = f"{{name: pgd, steps: 1, step_size: 1/255, random_start: {random_start}}}"
    gate = f"  - {{id: pgd, attack: {attack}, epsilon: 8/255, require: {{accuracy: 0.4}}}}\n"
    (found,) = brightness_gates(tmp_path, gate)
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    start = "a random start" if random_start == "true" else "the image"
    assert check.evidence.startswith(
        "a search of 1 step is too short to show whether it is enough, and 1 step of 1/255 from "
        f"{start} reaches 1 of the 8 grey levels that epsilon admits; 4 steps turned "
    )
    assert check.outcome in ("suspect", "broken")
    assert "enough-steps" in [one.code for one in found.findings]


@pytest.mark.parametrize(
    "attack",
    [
        "{name: pgd, steps: 1, step_size: 8/255, random_start: false}",
        "{name: pgd, steps: 1}",
        "{name: pgd, steps: 8, step_size: 1/255}",
        "{name: apgd, steps: 1}",
        "{name: fmn, steps: 4}",
        "pgd",
        "fgsm",
    ],
)
def test_steps_that_reach_the_border_are_not_called_few(attack, tmp_path):
    brightness_project(tmp_path)
    (found,) = brightness_gates(
        tmp_path, f"  - {{id: few, attack: {attack}, epsilon: 8/255, require: {{accuracy: 0}}}}\n"
    )
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    assert "too short to show" not in check.evidence
    assert "reach" not in check.evidence


def test_a_cascade_of_single_steps_is_short(tmp_path):
    brightness_project(tmp_path)
    attack = "{name: ensemble, steps: 1, queries: 1}"
    (found,) = brightness_gates(
        tmp_path, f"  - {{id: few, attack: {attack}, epsilon: 3/255, require: {{accuracy: 0}}}}\n"
    )
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    assert "a search of 1 step is too short" in check.evidence


def test_steps_from_a_random_start_that_do_not_go_as_far_as_epsilon_are_told(tmp_path):
    brightness_project(tmp_path)
    attack = "{name: pgd, steps: 6, step_size: 1/255}"
    (found,) = brightness_gates(
        tmp_path, f"  - {{id: pgd, attack: {attack}, epsilon: 8/255, require: {{accuracy: 0}}}}\n"
    )
    (message,) = [one.message for one in found.findings if one.code == "enough-steps"]
    assert message.endswith("; 6 steps of 1/255 from a random start reach 6 of the 8 grey levels that epsilon admits")


@pytest.mark.parametrize("steps", [1, 3])
def test_a_search_for_the_nearest_of_a_few_steps_is_told(steps, tmp_path):
    brightness_project(tmp_path)
    attack = f"{{name: fmn, steps: {steps}, step_size: 1/255}}"
    gate = f"  - {{id: fmn, attack: {attack}, epsilon: 8/255, require: {{accuracy: 0.6}}}}\n"
    (found,) = brightness_gates(tmp_path, gate)
    assert found.verdict == "pass"  # the toy would be left with 0.4
    (message,) = [one.message for one in found.findings if one.code == "enough-steps"]
    assert f"a search of {steps} step{'s' if steps > 1 else ''} is too short to show whether " in message


def test_an_ensemble_is_tried_with_more_steps(tmp_path):
    brightness_project(tmp_path)
    attack = "{name: ensemble, steps: 2, queries: 1}"
    gate = f"  - {{id: ensemble, attack: {attack}, epsilon: 2/255, require: {{accuracy: 0}}}}\n"
    (found,) = brightness_gates(tmp_path, gate)
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    assert check.evidence.endswith("; 8 steps turned 0 of 6 that held")


def test_what_one_sample_shows_is_not_said_of_all():
    """One of six may be luck; two are a share of all that held. What was turned counts in any case."""

    def judged(turned: set[int], *, allowed: int, held: int = 60) -> bool:
        found = Found()
        examination = Examination(
            probes=SimpleNamespace(held=range(held)),
            found=found,
            blind=set(),
            undermined_by=lambda lost: len(lost) > allowed,
        )
        return examination._undermines(ProbeResult(turned=dict.fromkeys(turned, UNKNOWN), of=6))

    assert not judged({3}, allowed=1)
    assert judged({3}, allowed=0)
    assert judged({3, 4}, allowed=19)
    assert not judged({3, 4}, allowed=20)
    assert judged({3, 4}, allowed=20, held=61)  # a third of them is more than twenty
    assert not judged(set(), allowed=0)


def _probed(
    *, iterates=True, allowed=60, found=None, attacked=60, held=60, short=None, unreached=None, tried=None, **results
):
    """The outcomes of checks, by name, of sixty samples that held and what probes of twenty of them came to."""

    def run(_cost, *, more_steps):
        if tried is not None:
            tried.append(more_steps)
        return Probed(**results)

    probes = SimpleNamespace(
        search=SimpleNamespace(setting=SimpleNamespace(candidate=SimpleNamespace(randomness=None))),
        attacked=range(attacked), held=range(held), iterates=iterates, uses_eot=False, short=short, unreached=unreached,
        run=run,
    )  # fmt: skip
    examination = Examination(
        probes=probes, found=found or Found(), blind=set(), undermined_by=lambda lost: len(lost) > allowed,
    )  # fmt: skip
    return {check.name: check.outcome for check in examination.checks(Cost())}


def _turning(count, of=20):
    return ProbeResult(how="a probe", turned=dict.fromkeys(range(count), UNKNOWN), of=of)


@pytest.mark.parametrize(
    ("turned", "of", "more", "outcome"),
    [
        (0, 20, {}, "sound"),
        (1, 5, {}, "sound"),  # one may be luck
        (2, 21, {}, "sound"),  # less than a tenth
        (2, 20, {}, "broken"),
        (2, 20, {"iterates": False}, "suspect"),  # a single step is weak by design
        (2, 20, {"iterates": False, "allowed": 5}, "broken"),  # of all sixty as many would be six
        (1, 20, {"allowed": 0}, "broken"),  # what was turned is verified
    ],
)
def test_searches_without_gradients_that_do_better(turned, of, more, outcome):
    found = _probed(without_gradients=[_turning(0), _turning(turned, of)], **more)
    assert found["beats-searches-without-gradients"] == outcome


@pytest.mark.parametrize(
    ("turned", "of", "more", "outcome"),
    [
        (2, 2, {}, "not examined"),
        (1, 20, {}, "sound"),
        (2, 20, {}, "broken"),
        (2, 20, {"iterates": False}, "suspect"),
        (1, 20, {"allowed": 0}, "broken"),
    ],
)
def test_single_steps_that_do_better(turned, of, more, outcome):
    assert _probed(single_steps=_turning(turned, of), **more)["beats-single-steps"] == outcome


@pytest.mark.parametrize(
    ("weakness", "turned", "of", "more", "outcome"),
    [
        ({"short": "few"}, 0, 10, {}, "sound"),
        ({"short": "few"}, 1, 10, {}, "suspect"),
        ({"short": "few"}, 0, 0, {}, "suspect"),  # nothing was tried
        ({"short": "few"}, 2, 10, {"allowed": 11}, "broken"),  # of all sixty as many would be twelve
        ({"short": "few", "unreached": "far"}, 0, 10, {}, "suspect"),  # nor does a longer search begin elsewhere
        ({"unreached": "far"}, 0, 10, {}, "suspect"),
        ({"unreached": "far"}, 1, 10, {"allowed": 0}, "broken"),
        ({"unreached": "far"}, 0, 0, {"held": 2}, "not examined"),
    ],
)
def test_more_steps_clear_a_search_that_was_short_and_no_other(weakness, turned, of, more, outcome):
    assert _probed(longer=_turning(turned, of), **weakness, **more)["enough-steps"] == outcome


def _course(began, earlier, highest, steps=100):
    return Rise(began=began, earlier=earlier, highest=highest, steps=steps)


@pytest.mark.parametrize(
    ("courses", "outcomes"),
    [
        ({"pgd": _course(-9, -5, -4.9), QUICK: _course(-9, -9, -5)}, ("sound", "sound")),
        ({QUICK: _course(-9, -9, -5)}, ("sound", "not examined")),
        ({"pgd": _course(-9, -9, -5, steps=3)}, ("not examined", "not examined")),
        ({"pgd": _course(-9, -9, -5, steps=4)}, ("sound", "suspect")),
    ],
    ids=["before another", "alone", "short", "long enough"],
)
def test_large_steps_that_come_first_and_searches_of_few_steps_need_no_course(courses, outcomes):
    found = _probed(found=Found(trace=Trace(rises=dict.fromkeys(range(60), courses))))
    assert (found["loss-rises"], found["enough-steps"]) == outcomes


@pytest.mark.parametrize(
    ("margin", "dlr", "outcomes"),
    [
        (_course(-9, -5, -4.9), _course(-0.9, -0.5, -0.49), ("sound", "sound")),
        (_course(-9, -5, -4.9), _course(-0.9, -0.5, -0.3), ("sound", "suspect")),
        (_course(-9, -5, -3), _course(-0.9, -0.5, -0.49), ("sound", "suspect")),
        (_course(-9, -9, -9), _course(-0.9, -0.5, -0.49), ("sound", "sound")),
        (_course(-9, -9, -9), _course(-0.9, -0.9, -0.9), ("broken", "not examined")),
        (_course(-9, -9, -9), _course(-0.9, -0.86, -0.85), ("sound", "suspect")),
        (_course(-9, -9, -9), _course(-0.9, -0.9, -0.9 + 1e-7), ("broken", "not examined")),  # the same in float32
        (_course(-9e4, -9e4, -9e4 + 0.01), _course(-0.9, -0.9, -0.9), ("broken", "not examined")),  # and these
    ],
)
def test_members_of_an_ensemble_have_courses_of_their_own(margin, dlr, outcomes):
    """Whatever the units of their losses."""
    courses = {"apgd-ce": margin, "apgd-dlr-targeted": dlr}
    found = _probed(found=Found(trace=Trace(rises=dict.fromkeys(range(60), courses))))
    assert (found["loss-rises"], found["enough-steps"]) == outcomes


@pytest.mark.parametrize(("highest", "more"), [(-4.9, False), (-3, True)])
def test_more_steps_are_tried_where_the_last_ones_still_brought_something(highest, more):
    """Elsewhere they would take from what other probes may cost."""
    tried, courses = [], {"pgd": _course(-9, -5, highest)}
    _probed(found=Found(trace=Trace(rises=dict.fromkeys(range(60), courses))), tried=tried)
    assert tried == [more]


@pytest.mark.parametrize(("risen", "outcome"), [(29, "broken"), (30, "sound")])
def test_the_loss_has_to_rise_on_half_of_the_samples(risen, outcome):
    rises = {sample: {"pgd": _course(-9, -5, -5 if sample < risen else -9)} for sample in range(60)}
    assert _probed(found=Found(trace=Trace(rises=rises)))["loss-rises"] == outcome


@pytest.mark.parametrize(
    ("zero", "not_finite", "blind", "outcome"),
    [
        (50, 0, set(), "sound"),
        (51, 0, set(), "suspect"),
        (0, 50, set(), "sound"),
        (0, 51, set(), "suspect"),
        (26, 25, set(), "suspect"),
        (0, 0, {3}, "suspect"),
    ],
)
def test_half_of_the_gradients_have_to_lead_somewhere_and_some_on_each_sample(zero, not_finite, blind, outcome):
    trace = Trace(gradients=100, gradients_zero=zero, gradients_not_finite=not_finite)
    assert gradients(trace, blind).outcome == outcome


@pytest.mark.parametrize(
    ("turned", "iterates", "outcome"),
    [(0, True, "sound"), (1, True, "sound"), (6, True, "sound"), (7, True, "broken"), (7, False, "suspect")],
)
def test_a_member_of_an_ensemble_that_asks_is_a_rival_of_those_before_it(turned, iterates, outcome):
    """They left it sixty that held, and those that it turned, with which the gate is judged already."""
    found = Found(asked_last=dict.fromkeys(range(60 + turned), "square"))
    for more in ({}, {"without_gradients": [_turning(0)]}):
        outcomes = _probed(found=found, attacked=60 + turned, iterates=iterates, allowed=0, **more)
        assert outcomes["beats-searches-without-gradients"] == outcome


@pytest.mark.parametrize(("left", "outcome"), [(2, "not examined"), (3, "broken")])
def test_what_it_turned_of_two_samples_shows_nothing(left, outcome):
    found = Found(asked_last=dict.fromkeys(range(60, 60 + left), "square"))
    assert _probed(found=found, attacked=60 + left)["beats-searches-without-gradients"] == outcome


@pytest.mark.parametrize(
    ("turned", "of", "outcome"), [(9, 20, "broken"), (10, 20, "sound"), (0, 3, "broken"), (0, 2, "not examined")]
)
def test_what_no_distance_turns_was_not_followed(turned, of, outcome):
    assert _probed(unbounded=_turning(turned, of))["falls-as-budget-grows"] == outcome


def test_steps_that_reach_the_border_once_they_are_rounded_are_no_weakness(tmp_path):
    brightness_project(tmp_path)
    gate = "  - {id: pgd, attack: {name: pgd, steps: 4, step_size: 0.0075, random_start: false}, epsilon: 8/255"
    (found,) = brightness_gates(tmp_path, f"{gate}, require: {{accuracy: 0}}}}\n")
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    assert "reach" not in check.evidence  # 7.65 levels are stored as 8
