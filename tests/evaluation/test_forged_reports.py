"""Reports that somebody altered with care: what contradicts itself, the policy, or the files beside it is amiss."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest
from building import brightness_project, flat_images
from click.testing import CliRunner
from forging import patients_project, run_in
from patching import FIXED, patch_archive

from robustcheck import load_policy
from robustcheck.cli import main
from robustcheck.evaluation.conclusion import checks_of
from robustcheck.evaluation.health.checks import OF_BALLS, OF_GRADIENTS, OF_THOSE_WHO_ASK
from robustcheck.evaluation.replay.replaying import replay
from robustcheck.report.pictures import read_stored
from robustcheck.results import AuditReport

GATES = """
  - {id: clean, require: {accuracy: 1, auroc: 0.9}}
  - {id: pgd, attack: {name: pgd, steps: 10}, epsilon: [2/255, 4/255], require: {accuracy: 0.3}}
  - {id: seen, attack: {name: pgd, steps: 4}, epsilon: 1/255, conditions: {brightness: 0.001}, require: {accuracy: 0}}
  - {id: nes, attack: {name: nes, samples: 10}, norm: l2, epsilon: 0.1, queries: 50, require: {accuracy: 0.3}}
  - {id: patch, attack: {name: patch, steps: 10, train_on: 0.5}, size: 40%, require: {accuracy: 0}}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A project whose policy was run, and passed."""
    folder = patients_project(tmp_path_factory.mktemp("ran"))
    return run_in(folder, GATES, data="source: patients.csv, group: patient, subgroups: [sex], prevalence: 0.1")


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """One whose candidate reads all samples alike: nothing of it can be relied on."""
    folder = tmp_path_factory.mktemp("alike")
    brightness_project(folder, levels=range(100, 156, 2), threshold=0.1)
    gates = """
  - {id: clean, require: {accuracy: 0.3}}
  - {id: pgd, attack: {name: pgd, steps: 4}, epsilon: 1/255, require: {accuracy: 0.3}}
"""
    return run_in(folder, gates)


def _amiss(folder, alter=None):
    """What is amiss in the report once it was altered, and of which gate."""
    report = json.loads((folder / "out" / "report.json").read_text())
    if alter is not None:
        alter(report, {gate["id"]: gate for gate in report["gates"]})
    stated = AuditReport.from_json(json.dumps(report))
    found = replay(load_policy(folder / "policy.yaml"), stated, partial(read_stored, folder / "out"))
    return "\n".join(
        [*(f"the report: {sentence}" for sentence in found.amiss)]
        + [f"{gate.id}: {sentence}" for gate in found.gates for sentence in gate.amiss]
    )


def test_what_nobody_altered_agrees(ran, alike):
    report = AuditReport.from_json((ran / "out" / "report.json").read_text())
    assert report.verdict == "pass"
    assert _amiss(ran) == ""
    assert _amiss(alike) == ""


def test_the_checks_that_a_gate_must_state_are_those_that_a_run_makes(ran):
    report = AuditReport.from_json((ran / "out" / "report.json").read_text())
    gates = {gate.id: gate for gate in load_policy(ran / "policy.yaml").gates}
    made = {one.id: tuple(check.name for check in one.health) for one in report.gates if one.attack is not None}
    assert {OF_BALLS, OF_GRADIENTS, OF_THOSE_WHO_ASK} <= set(made.values())
    assert made == {name: checks_of(gates[name], None) for name in made}


# --- what contradicts the verdict ------------------------------------------------------------------------------------


def _shown_broken(_report, gates):
    gates["pgd[4/255]"]["health"][1]["outcome"] = "broken"


def _never_started(_report, gates):
    for one in gates["pgd[4/255]"]["samples"]:
        if one["status"] == "held" and one["evidence"]:
            one["evidence"] = "unstarted"


def _outdone(_report, gates):
    turned = {"value": 1.0, "low": 0.999, "high": 1.0, "successes": 12, "samples": 12}
    gates["seen"]["controls"][0]["success"] |= turned


def _undercut(_report, gates):
    gates["patch"]["findings"].append({"code": "undercut-by-control", "severity": "error", "message": "a grey patch"})


def _excused(_report, gates):
    gates["pgd[2/255]"]["error"] = "memory ran out"


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (_shown_broken, "pgd[4/255]: its verdict is pass, but with what it states it is error: the attack cannot be"),
        (_shown_broken, "pgd[4/255]: loss-rises is not among its findings, but what it states calls for it"),
        (
            _never_started,
            "pgd[4/255]: its verdict is pass, but with what it states it is error: the attack had little or nothing",
        ),
        (_outdone, "seen: its verdict is pass, but with what it states it is error: no attack turned 12 of 12 samples"),
        (_outdone, "seen: outdone-by-control is not among its findings"),
        (_undercut, "patch: its verdict is pass, but with what it states it is error: a grey patch"),
        (_excused, "pgd[2/255]: its verdict is pass, but it gives a reason for an error"),
        (
            lambda _, gates: gates["pgd[2/255]"].update(health=[]),
            "pgd[2/255]: its health check enough-steps is missing",
        ),
        (lambda _, gates: gates["patch"]["health"].pop(1), "patch: its health check gradient-predicts is missing"),
        (
            lambda _, gates: gates["pgd[2/255]"]["health"][-1].update(outcome="suspect"),
            "pgd[2/255]: its health check same-answers is stated as suspect, but is sound",
        ),
        (
            lambda _, gates: gates["pgd[2/255]"].update(verdict="error"),
            "pgd[2/255]: its verdict is error, but it does not say why",
        ),
    ],
)
def test_a_verdict_that_its_own_gate_contradicts_is_none(ran, alter, said):
    assert said in _amiss(ran, alter)


def test_a_candidate_that_reads_all_samples_alike_passes_nothing(alike):
    def alter(_report, gates):
        assert gates["pgd"]["verdict"] == "error"
        gates["pgd"] |= {"verdict": "pass", "error": None}

    said = "pgd: its verdict is pass, but with what it states it is error: the candidate reads all 28 samples alike"
    assert said in _amiss(alike, alter)


def test_a_gate_whose_samples_were_not_attacked_shows_nothing(ran):
    def alter(_report, gates):
        for one in gates["pgd[4/255]"]["samples"]:
            one |= {"evidence": None, "status": "held", "attacked": one["clean"]}

    assert "pgd[4/255]: its verdict is pass, but nothing was attacked" in _amiss(ran, alter)


@pytest.mark.parametrize("health", ["strict", "warn"])
def test_requirements_that_no_attack_can_fail_are_missed(health, tmp_path):
    """Of two bright images among forty, either may be missed."""
    brightness_project(tmp_path)
    flat_images(tmp_path, [60] * 38 + [160] * 2, [0] * 38 + [1] * 2)
    gate = "attack: {name: pgd, steps: 4}, epsilon: 2/255, goal: missed_finding, require: {accuracy: 0.8}"
    run_in(tmp_path, f"  - {{id: pgd, {gate}}}", extra=f"health: {health}")
    assert _amiss(tmp_path) == ""

    def alter(_report, gates):
        gates["pgd"] |= {"verdict": "pass", "error": None, "findings": []}

    amiss = _amiss(tmp_path, alter)
    assert "pgd: holds-whatever-is-turned is not among its findings" in amiss
    passed = "pgd: its verdict is pass, but with what it states it is error: the gate passes whatever the attack does"
    assert (passed in amiss) == (health == "strict")


def test_a_pass_that_shows_little_says_so(tmp_path):
    brightness_project(tmp_path)
    gates = """
  - {id: asked, attack: noise, queries: 3, epsilon: 2/255, require: {accuracy: 0.5}}
  - {id: small, attack: {name: pgd, steps: 4}, epsilon: 1/255, norm: l2, require: {accuracy: 0.5}}
"""
    run_in(tmp_path, gates)
    assert _amiss(tmp_path) == ""

    def alter(_report, gates):
        for gate in gates.values():
            gate["findings"] = []

    amiss = _amiss(tmp_path, alter)
    for gate, code in (("asked", "few-queries"), ("small", "tiny-budget"), ("small", "hardly-examined")):
        assert f"{gate}: {code} is not among its findings, but what it states calls for it" in amiss


def test_warnings_that_follow_from_the_samples_are_missed(alike, ran):
    def alter(_report, gates):
        for gate in gates.values():
            gate["findings"] = []

    assert "clean: no-better-than-chance is not among its findings" in _amiss(alike, alter)

    def another(_report, gates):
        share = {"value": 0.1, "successes": 1, "samples": 10}
        known = {"path": "other.pt", "format": "torch", "sha256": "", "turned": share | {"value": 0.9}}
        gates["pgd[4/255]"]["surrogates"] = [known | {"accuracy": share, "agreement": share}]

    assert "pgd[4/255]: poor-surrogate is not among its findings" in _amiss(ran, another)


# --- what the page begins with ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed", 7, "seed is stated as 7, but is 0"),
        ("decision", "confident", "decision is stated as 'confident', but is 'estimate'"),
        ("confidence", 0.99, "confidence is stated as 0.99, but is 0.95"),
        ("interval", "wilson", "interval is stated as 'wilson', but is 'clopper-pearson'"),
        ("stop", "early", "stop is stated as 'early', but is 'never'"),
        ("health", "warn", "health is stated as 'warn', but is 'strict'"),
        ("health", None, "health is stated as nothing, but is 'strict'"),
        ("evidence", "isolated", "evidence is stated as 'isolated', but is 'shared'"),
        ("inconclusive", "allow", "inconclusive is stated as 'allow', but is 'fail'"),
        ("policy.name", "Another", "policy.name is stated as 'Another', but is 'Brightness'"),
        ("model.positive", "dark", "model.positive is stated as 'dark', but is 'bright'"),
        ("model.operating_point", 0.9, "model.operating_point is stated as 0.9, but is nothing"),
        ("model.labels", ["bright", "dark"], "model.labels is stated as"),
        ("model.preprocess", None, "model.preprocess is stated as nothing, but is"),
        ("model.precision", "full", "model.precision is stated as 'full', but is 'auto'"),
        ("data.synthetic", True, "data.synthetic is stated as true, but is false"),
        ("data.available", 9, "data.available is stated as 9, but is 12"),
        ("data.samples", 9, "data.samples is stated as 9, but is 12"),
        ("data.by_label", {"dark": 5, "bright": 7}, "data.by_label is stated as"),
        ("data.bits", 12, "data.bits is stated as 12, but is 8"),
        ("data.prevalence", [0.5], "data.prevalence is stated as '[0.5]', but is '[0.1]'"),
        ("data.groups", 12, "data.groups is stated as 12, but is 6"),
        ("data.subgroups", {}, "data.subgroups is stated as"),
        ("data.notes", ["chosen by nobody"], "data.notes is stated as"),
    ],
)
def test_what_the_report_says_of_policy_candidate_and_data_is_compared(ran, key, value, said):
    def alter(report, _gates):
        *parts, name = key.split(".")
        (report[parts[0]] if parts else report)[name] = value

    assert f"the report: {said}" in _amiss(ran, alter)


# --- gates beside one another ----------------------------------------------------------------------------------------


def _broken_in(gates, gate):
    return [one for one in gates[gate]["samples"] if one["status"] == "broken"]


def test_what_a_smaller_budget_broke_holds_at_no_larger_one(ran):
    def alter(_report, gates):
        broken = {one["sample"] for one in _broken_in(gates, "pgd[2/255]")}
        named.update(broken)
        for one in gates["pgd[4/255]"]["samples"]:
            if one["sample"] in broken:
                one |= {"status": "held", "evidence": "searched", "attacked": one["clean"]}

    named = set()
    amiss = _amiss(ran, alter)
    assert len(named) > 1
    for name in named:
        said = f"pgd[4/255]: {name}: it is held, but pgd[2/255] has a counterexample within this budget"
        assert said in amiss


def test_a_counterexample_at_the_border_of_a_budget_lies_within_it(ran):
    def alter(_report, gates):
        one = _broken_in(gates, "pgd[2/255]")[0]
        one["distance_levels"] = 4
        (same,) = [other for other in gates["pgd[4/255]"]["samples"] if other["sample"] == one["sample"]]
        same |= {"status": "held", "evidence": "searched", "attacked": same["clean"]}
        named.append(one["sample"])

    named = []
    amiss = _amiss(ran, alter)
    assert f"pgd[4/255]: {named[0]}: it is held, but pgd[2/255] has a counterexample within this budget" in amiss


def test_what_a_larger_budget_found_later_is_held_against_no_smaller_one(ran):
    """Its counterexample may lie nearer than its budget lets it."""

    def alter(_report, gates):
        for one in _broken_in(gates, "pgd[4/255]"):
            if one["found_by"] == "pgd[4/255]":
                one["distance_levels"] = 1

    assert "pgd[2/255]" not in _amiss(ran, alter)


def _let_pass(name, *checks):
    """Makes a pass of a gate that is an error by these checks alone, and takes them away."""

    def alter(_report, gates):
        gate = gates[name]
        assert gate["verdict"] == "error"
        gate |= {"verdict": "pass", "error": None}
        gate["health"] = [one for one in gate["health"] if one["name"] not in checks]
        gate["findings"] = [one for one in gate["findings"] if one["code"] not in checks]

    return alter


def test_an_attack_that_another_gate_outdoes_passes_nothing(tmp_path):
    brightness_project(tmp_path)
    short = "{name: pgd, steps: 2, step_size: 1/2550, random_start: false}"
    gates = f"""
  - {{id: pgd, attack: {short}, epsilon: 8/255, require: {{accuracy: 0.5}}}}
  - {{id: square, attack: square, epsilon: 8/255, queries: 200, require: {{accuracy: 0}}}}
"""
    run_in(tmp_path, gates)
    assert _amiss(tmp_path) == ""
    amiss = _amiss(tmp_path, _let_pass("pgd", "as-strong-as-others", "holds-against-others"))
    outdone = "square turned 6 of 8 samples that held in this gate"
    assert f"pgd: its health check as-strong-as-others is not stated as broken: {outdone}" in amiss
    assert "pgd: its verdict is pass, but beside other gates it is error: the attack cannot be relied on" in amiss


def test_a_patch_that_another_gates_patch_outdoes_passes_nothing(patched):
    patch_archive(patched, test=[110] * 8 + [135] * 12, train=(40, 70, 100, 160, 190, 220))
    weak = FIXED.replace("steps: 20, draws: 8, step_size: 0.3", "steps: 1, draws: 1, step_size: 0.001")
    gates = f"""
  - {{id: own, attack: {weak}}}, size: 8 px, require: {{accuracy: 0.7}}}}
  - {{id: other, attack: {FIXED}, target: bright}}, size: 8 px, require: {{attack_success: '<= 1'}}}}
"""
    run_in(patched, gates)
    assert _amiss(patched) == ""
    amiss = _amiss(patched, _let_pass("own", "as-strong-as-other-patches", "holds-against-others"))
    assert "own: its verdict is pass, but beside other gates it is error" in amiss


def test_transfer_at_several_budgets_agrees(tmp_path):
    """At the larger one those that were turned before are not searched, nor counted as turned on the surrogate."""
    brightness_project(tmp_path, levels=(100, 120, 126, 126, 126, 129, 129, 135, 150))
    gates = """
  - {id: pgd, attack: {name: transfer, surrogate: brightness.safetensors}, epsilon: [3/255, 9/255],
     require: {accuracy: 0}}
"""
    run_in(tmp_path, gates)
    report = AuditReport.from_json((tmp_path / "out" / "report.json").read_text())
    larger = report.gates[1]
    searched = [outcome for outcome in larger.samples if outcome.evidence == "searched"]
    assert 0 < len(searched) < len(larger.samples) / 2
    assert larger.surrogates[0].turned.samples == len(searched)
    assert _amiss(tmp_path) == ""


@pytest.mark.parametrize("finder", ["clean", "pgd[4/255]", None])
def test_who_found_a_counterexample_is_a_gate_that_came_before(ran, finder):
    def alter(_report, gates):
        _broken_in(gates, "pgd[2/255]")[0]["found_by"] = finder

    assert "what is said about who found its counterexample cannot be true" in _amiss(ran, alter)


@pytest.mark.parametrize(("gate", "evidence"), [("pgd[2/255]", "inherited"), ("pgd[4/255]", "searched")])
def test_a_gate_searched_what_it_found_itself_and_nothing_else(ran, gate, evidence):
    def alter(_report, gates):
        one = next(one for one in _broken_in(gates, gate) if one["found_by"] == "pgd[2/255]")
        one["evidence"] = evidence

    assert f"{gate}: " in (amiss := _amiss(ran, alter))
    assert "what is said about who found its counterexample cannot be true" in amiss


# --- candidates that draw --------------------------------------------------------------------------------------------


def test_how_many_clean_readings_of_a_candidate_that_draws_are_others_is_told(tmp_path):
    brightness_project(tmp_path)
    module = tmp_path / "brightness.py"
    module.write_text(module.read_text().replace("excess = (", "excess = (1e-3 * torch.randn(len(image)) + "))
    run_in(tmp_path, "  - {id: clean, require: {accuracy: 0.5}}")
    said = "clean: clean readings are as stated: the candidate draws, so it reads an image differently each time; here"
    assert f"{said} 0 of 10 samples are read differently" in _replayed(tmp_path)[1]

    def alter(report):
        assert "depend on chance" in report["model"]["notes"].pop()
        for one in report["gates"][0]["samples"]:
            other = "bright" if one["clean"] == "dark" else "dark"
            one |= {"clean": other, "attacked": other}

    _rewritten(tmp_path, alter)
    told = _replayed(tmp_path)[1]
    assert f"{said} 10 of 10 samples are read differently" in told
    assert "model.notes (here also: its answers depend on chance" in told


# --- figures ---------------------------------------------------------------------------------------------------------


def _metrics(gate, name, **changes):
    return lambda _report, gates: gates[gate]["metrics"].setdefault(name, {"value": 1.0, "samples": 12}).update(changes)


def _invented_part(_report, gates):
    part = gates["clean"]["slices"][0]
    gates["clean"]["slices"].append(part | {"name": "X"})


def _invented_in_a_part(_report, gates):
    gates["clean"]["slices"][0]["metrics"]["certainty"] = {"value": 1.0, "samples": 6}


def _higher_scores(_report, gates):
    """An area that is larger, and scores that make it so."""
    for one in gates["pgd[4/255]"]["samples"]:
        if one["status"] == "held":
            one["score"] = 1.0 if one["label"] == "bright" else 0.0


def _other_counterexample(_report, gates):
    for one in _broken_in(gates, "pgd[4/255]"):
        one["score"] = 0.5


def _relabelled(_report, gates):
    gates["pgd[4/255]"]["samples"][0]["label"] = "bright"


def _of_the_other_half(_report, gates):
    listed = {one["sample"] for one in gates["patch"]["samples"]}
    gates["patch"]["samples"][0]["sample"] = next(
        one["sample"] for one in gates["clean"]["samples"] if one["sample"] not in listed
    )


def _laid_at(place):
    return lambda _report, gates: _broken_in(gates, "patch")[0].update(restart=place)


def _area_without_scores(_report, gates):
    for one in gates["clean"]["samples"]:
        one["score"] = None


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (_metrics("pgd[4/255]", "accuracy", confidence=0.5), "the interval of accuracy is stated to hold with 0.5"),
        (_metrics("pgd[4/255]", "accuracy", effective=None), "accuracy is stated to rest on None independent samples"),
        (_metrics("pgd[4/255]", "accuracy", groups=12), "accuracy is stated about other samples than it is"),
        (_metrics("pgd[4/255]", "accuracy", slice="F"), "accuracy is stated about other samples than it is"),
        (_metrics("pgd[4/255]", "certainty"), "certainty is stated, but is not one of this gate's metrics"),
        (
            _metrics("clean", "attack_success", value=0.0),
            "attack_success is stated, but is not one of this gate's metrics",
        ),
        (_invented_part, "clean: sex=X is stated, but is no part of this gate's samples"),
        (_invented_in_a_part, "clean: sex=F: certainty is stated, but is not one of this gate's metrics"),
        (_metrics("clean", "auroc", value=0.95), "clean: auroc is stated as 0.95, but is 1.0"),
        (_metrics("clean", "auroc", low=0.99), "clean: the interval of auroc is stated as 0.99"),
        (_area_without_scores, "clean: auroc is stated, but is not one of this gate's metrics"),
        (_metrics("pgd[4/255]", "auroc", value=1.0), "pgd[4/255]: auroc is stated as 1.0, but is at most"),
        (_higher_scores, "the clean image has the score 0.7032, but the report says 1"),
        (_other_counterexample, "its counterexample has the score 0.4"),
        (_relabelled, "its label is dark, but the report says bright"),
        (_of_the_other_half, ", which is not among the samples that it is about"),
        (_laid_at(None), "it does not say in which of its places the patch lies"),
        (_laid_at(-1), "it does not say in which of its places the patch lies"),
        (_laid_at(1), "it does not say in which of its places the patch lies"),  # of one, which is the first
    ],
)
def test_figures_that_no_run_states_are_amiss(ran, alter, said):
    assert said in _amiss(ran, alter)


def test_an_area_without_an_attack_is_that_of_the_candidates_own_scores(ran):
    def alter(_report, gates):
        one = next(one for one in gates["clean"]["samples"] if one["label"] == "bright")
        one["score"] = 0.1

    assert "the clean image has the score" in _amiss(ran, alter)


# --- what was left out, and the files beside it ----------------------------------------------------------------------


def _replayed(folder):
    result = CliRunner().invoke(main, ["replay", str(folder / "out" / "report.json"), str(folder / "policy.yaml")])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def project(ran, tmp_path):
    """A copy, to be altered."""
    return shutil.copytree(ran, tmp_path / "copy")


def _rewritten(folder, alter):
    path = folder / "out" / "report.json"
    report = json.loads(path.read_text())
    alter(report)
    path.write_text(json.dumps(report))
    assert CliRunner().invoke(main, ["render", str(path)]).exit_code == 0


def test_gates_that_were_not_run_are_named(project):
    def alter(report):
        report["not_run"] = [gate["id"] for gate in report["gates"][1:]]
        report["gates"] = report["gates"][:1]

    _rewritten(project, alter)
    code, said = _replayed(project)
    assert code == 0
    assert "the report: 5 of the 6 gates of the policy were not run: pgd[2/255], pgd[4/255], seen, nes, patch" in said
    assert said.endswith("0 things amiss; 5 of the 6 gates of the policy were not run")


def test_that_samples_held_is_said_to_be_as_stated(ran):
    report = json.loads((ran / "out" / "report.json").read_text())
    every = [one for gate in report["gates"] for one in gate["samples"]]
    held = sum(one["status"] == "held" and one["evidence"] is not None for one in every)
    assert f"; that {held} samples held is taken as stated: run the policy again to check it" in _replayed(ran)[1]


@pytest.mark.parametrize(("name", "was", "written"), [("report.html", "Brightness", "Best"), ("junit.xml", "pgd", "x")])
def test_a_page_that_was_edited_is_not_what_the_report_renders_to(project, name, was, written):
    page = project / "out" / name
    text = page.read_text()
    assert was in text
    page.write_text(text.replace(was, written, 1))
    code, said = _replayed(project)
    assert code == 1
    assert f"the report: {name} beside it is not what it renders to: write it again with robustcheck render" in said
    page.unlink()
    assert _replayed(project)[0] == 0


def test_a_page_that_was_rendered_elsewhere_has_no_links_and_is_the_report_s_all_the_same(project):
    out, elsewhere = project / "out", project / "elsewhere"
    assert CliRunner().invoke(main, ["render", str(out / "report.json"), "-o", str(elsewhere)]).exit_code == 0
    assert (elsewhere / "report.html").read_text() != (out / "report.html").read_text()
    for name in ("report.html", "junit.xml"):
        (elsewhere / name).replace(out / name)
    assert _replayed(project)[0] == 0


def test_a_page_of_a_report_in_other_bytes_states_another_s_digest_and_is_no_other_page(project):
    path = project / "out" / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    code, said = _replayed(project)
    assert code == 1
    assert "the report: report.html states the sha256 of another report.json" in said
    assert "renders to" not in said
    assert CliRunner().invoke(main, ["render", str(path)]).exit_code == 0
    assert _replayed(project)[0] == 0


def test_pages_of_another_version_are_not_looked_at(project):
    _rewritten(project, lambda report: report["environment"].update(robustcheck="0.0.1"))
    (project / "out" / "report.html").write_text("robust")
    code, said = _replayed(project)
    assert code == 0
    assert "interrupted, junit.xml (of another version of robustcheck), report.html (of another version of" in said


def test_counterexamples_of_which_the_report_says_nothing_are_counted(project):
    assert "that it does not name" not in _replayed(project)[1]
    folder = project / "out" / "counterexamples"
    for name in ("pgd-2-255/99999.png", "pgd-2-255/99998.png", "clean/99999.png"):
        shutil.copy(next(folder.glob("pgd-2-255/*.png")), folder / name)
    code, said = _replayed(project)
    assert code == 0
    assert "interrupted, 2 counterexamples beside it that it does not name (gates leave some that search" in said


def test_pictures_of_another_machine_are_not_compared(project):
    _rewritten(project, lambda report: report["environment"].update(platform="another"))
    page = project / "out" / "report.html"
    assert "data:image/png;base64," in page.read_text()
    page.write_text(page.read_text().replace("data:image/png;base64,", "data:image/png;base64,A", 1))
    code, said = _replayed(project)
    assert code == 0
    assert "pictures in report.html (of another machine)" in said
    page.write_text(page.read_text().replace("Brightness", "Best", 1))
    assert _replayed(project)[0] == 1
