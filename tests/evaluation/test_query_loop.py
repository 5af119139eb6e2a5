"""Adversaries who may only ask: every query is counted, none passes the limit, and what they find is reported."""

from __future__ import annotations

import gc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from building import (
    LEVELS,
    brightness_gates,
    brightness_policy,
    brightness_project,
    flat_images,
    three_levels,
    three_levels_policy,
)

from robustcheck import load_policy, run
from robustcheck.attacks.hopskipjump import HopSkipJump
from robustcheck.attacks.nes import NES
from robustcheck.attacks.partial_information import PartialInformation
from robustcheck.attacks.square import Square
from robustcheck.evaluation import gates
from robustcheck.evaluation.health.probing import Probes
from robustcheck.evaluation.search import loop
from robustcheck.evaluation.search.query_loop import rows_in_flight
from robustcheck.models import Candidate, LabelOracle, ScoreOracle, Surrogates, TopKOracle, WhiteBox
from robustcheck.models.network import Network
from robustcheck.policy import ATTACKS

ASKING = [name for name, spec in ATTACKS.items() if spec.knowledge in ("scores", "top-k", "label")]
EVERYONE = [name for name in ASKING if name != "noise"]


@pytest.fixture
def project(tmp_path):
    brightness_project(tmp_path)
    return tmp_path


def _gate(name, *, queries=400, epsilon="8/255", extra=""):
    itself = f"{{name: {name}, patterns: false}}"  # however few its queries
    attack = itself if "patterns" in ATTACKS[name].model_fields else name
    keys = f"id: {name}, attack: {attack}, epsilon: {epsilon}, queries: {queries}, require: {{accuracy: 0}}{extra}"
    return f"\n  - {{{keys}}}\n"


@pytest.fixture
def reached(monkeypatch):
    """Counts the images that reach the network in gates: those that attacks ask about, are judged, or examine one."""
    images = {"judged": 0, "asked": [], "examined": 0}
    judging, examining = [], []
    adjudicate, run_gate, noise = loop.adjudicate, gates.run_gate, Probes.noise

    def examine(*args):
        examining.append(True)
        try:
            return noise(*args)
        finally:
            examining.pop()

    def judge(*args):
        judging.append(True)
        try:
            return adjudicate(*args)
        finally:
            judging.pop()

    def tapped(gate, setting, **kwargs):
        forward = setting.candidate.network.forward

        def count(inputs):
            if examining:
                images["examined"] += len(inputs)
            elif judging:
                images["judged"] += len(inputs)
            else:
                images["asked"].append(inputs.clone())
            return forward(inputs)

        network = replace(setting.candidate.network, forward=count)
        return run_gate(gate, replace(setting, candidate=replace(setting.candidate, network=network)), **kwargs)

    monkeypatch.setattr(loop, "adjudicate", judge)
    monkeypatch.setattr(Probes, "noise", examine)
    monkeypatch.setattr("robustcheck.evaluation.evaluation.run_gate", tapped)
    return images


@pytest.mark.parametrize("oracle", ["float", "stored"])
@pytest.mark.parametrize("name", ASKING)
def test_the_counts_are_the_images_that_really_reached_the_artefact(name, oracle, project, reached):
    (gate,) = brightness_gates(project, _gate(name, extra=f", oracle: {oracle}"))
    asked = sum(map(len, reached["asked"]))
    counts = [outcome.queries for outcome in gate.samples]
    assert asked == sum(counts) == gate.cost.queries.total
    assert gate.cost.forward == asked + reached["judged"]
    assert gate.cost.health_forward == reached["examined"]
    assert gate.cost.gradient == 0
    assert max(counts) == gate.cost.queries.max <= 400
    assert gate.cost.queries.median == np.median(counts)
    assert min(counts) >= 1


def test_the_total_counts_samples_too_that_were_searched_beyond_where_the_gate_was_decided(project, reached):
    flat_images(project, [160] * 150, [1] * 150)
    gate = _gate("square", queries=20, epsilon="1/255").replace("accuracy: 0", "accuracy: 0.6")
    (early,) = brightness_gates(project, gate, extra="decision: {stop: early}")
    counts = [outcome.queries for outcome in early.samples]
    assert early.stopped.needed == len(counts) < 50
    assert early.cost.queries.total == sum(map(len, reached["asked"])) > sum(counts)
    assert (early.cost.queries.max, early.cost.queries.median) == (max(counts), np.median(counts))


def test_samples_that_nobody_asks_about_are_no_part_of_the_median(project):
    flat_images(project, (100, 101, 40, 41, 42), [0, 0, 1, 1, 1])  # three are misread before
    (gate,) = brightness_gates(project, _gate("square", queries=50, epsilon="1/255"))
    assert [outcome.queries for outcome in gate.samples] == [50, 50, None, None, None]
    assert gate.cost.queries.median == 50


@pytest.mark.parametrize("name", ["nes", "square", "noise"])
def test_each_sample_is_counted_for_itself(name, project, reached):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8)).astype(np.uint8)  # which no budget of 8 levels mixes up
    labels = (images.reshape(12, -1).mean(axis=1) > 127.5).astype(np.uint8)[:, None]
    np.savez(project / "flat.npz", test_images=images, test_labels=labels)
    (gate,) = brightness_gates(project, _gate(name, queries=300))
    clean = torch.from_numpy(images).float() / 255
    asked = torch.cat(reached["asked"])[:, 0]
    owner = (asked[:, None] - clean[None]).abs().flatten(2).amax(dim=2).argmin(dim=1)
    assert torch.bincount(owner, minlength=12).tolist() == [outcome.queries for outcome in gate.samples]
    assert len({outcome.status for outcome in gate.samples}) == 2


@pytest.mark.parametrize("name", EVERYONE)
def test_what_is_easily_turned_is_turned_and_the_report_says_after_how_many_queries(name, project):
    (gate,) = brightness_gates(project, _gate(name, queries=2000))
    easy = {level for level in LEVELS if abs(level - 127.5) <= 4}
    turned = {level for level, outcome in zip(LEVELS, gate.samples, strict=True) if outcome.status == "broken"}
    assert easy <= turned <= {level for level in LEVELS if abs(level - 127.5) <= 8}
    assert gate.threat.knowledge == ATTACKS[name].knowledge
    assert (gate.threat.queries, gate.threat.oracle) == (2000, "float")
    for outcome in gate.samples:
        assert outcome.found_after == (outcome.queries if outcome.status == "broken" else None)
    found = sorted(outcome.found_after for outcome in gate.samples if outcome.found_after)
    assert [point.queries for point in gate.query_curve] == [0, *sorted(set(found))]
    for point in gate.query_curve:
        assert point.accuracy == pytest.approx(1 - sum(after <= point.queries for after in found) / len(LEVELS))
    assert gate.query_curve[-1].accuracy == gate.metrics["accuracy"].value


def test_the_curve_is_what_a_smaller_limit_would_have_left(project):
    (whole,) = brightness_gates(project, _gate("nes", queries=1000))
    for limit in (60, 110, 300):
        (limited,) = brightness_gates(project, _gate("nes", queries=limit))
        told = [point.accuracy for point in whole.query_curve if point.queries <= limit][-1]
        # What a search submits at its end was not asked about, and may turn one more.
        assert limited.query_curve[-1].accuracy <= told
        assert sum(outcome.found_after is not None and outcome.found_after < limit for outcome in limited.samples) >= (
            round((1 - told) * len(LEVELS)) - 1
        )


def test_a_stored_oracle_sees_whole_grey_levels_only(project, reached):
    brightness_gates(project, _gate("nes", extra=", oracle: stored"))
    levels = torch.cat(reached["asked"]) * 255
    assert (levels - levels.round()).abs().max() < 1e-3
    reached["asked"].clear()
    brightness_gates(project, _gate("nes"))
    levels = torch.cat(reached["asked"]) * 255
    assert (levels - levels.round()).abs().max() > 0.1


def test_queries_lie_in_the_range_whatever_an_attack_asks(project, reached):
    flat_images(project, (0, 255), [0, 1])
    brightness_gates(project, _gate("nes") + _gate("rays"))
    asked = torch.cat(reached["asked"])
    assert asked.min() == 0
    assert asked.max() == 1


@pytest.mark.parametrize("name", ["label_only", "hopskipjump", "partial_information"])
def test_without_an_image_to_start_from_that_sample_is_reported_and_the_others_go_on(name, project):
    """Labelled bright, and read as dark: no dark image can be turned from there, nor from noise of an even mean."""
    levels = (126, 125, 124, 40)
    flat_images(project, levels, [0, 0, 0, 1])
    gate = _gate(name, queries=120)
    (lonely,) = brightness_gates(project, gate, model="operating_point: 0.999")
    held = [outcome for outcome in lonely.samples if outcome.status == "held"]
    assert len(held) == 3
    assert {outcome.evidence for outcome in held} == {"unstarted"}
    assert {outcome.queries for outcome in held} == {120}
    (finding,) = [finding for finding in lonely.findings if finding.severity == "warning"]
    assert finding.code == "no-start"
    assert "3 samples held, but no image to start from was found" in finding.message
    assert lonely.verdict == "pass"  # accuracy 0 is met even if all three are lost

    flat_images(project, (*levels, 255), [0, 0, 0, 1, 1])
    (started,) = brightness_gates(project, gate, model="operating_point: 0.999")
    assert not [outcome for outcome in started.samples if outcome.evidence == "unstarted"]


def test_a_gate_that_passes_only_because_nothing_could_be_started_is_an_error(project):
    flat_images(project, (100, 101, 40), [0, 0, 1])
    gate = _gate("label_only", queries=120).replace("accuracy: 0", "accuracy: 0.5")
    (lonely,) = brightness_gates(project, gate, model="operating_point: 0.999")
    assert lonely.verdict == "error"
    assert "nothing to follow on 2 of the samples that held" in lonely.error
    assert "a search that never started shows nothing: raise queries, or add samples" in lonely.error


def test_gates_with_other_limits_or_oracles_share_no_counterexamples_and_those_with_the_same_do(project):
    policy = "".join(
        f"\n  - {{id: {gate_id}, attack: {attack}, epsilon: 8/255, {more}, require: {{accuracy: 0}}}}"
        for gate_id, attack, more in (
            ("square", "square", "queries: 400"),
            ("nes", "nes", "queries: 400"),
            ("fewer", "nes", "queries: 300"),
            ("stored", "nes", "queries: 400, oracle: stored"),
        )
    )
    square, nes, fewer, stored = brightness_gates(project, policy + "\n")
    assert square.metrics["attack_success"].successes > 0
    assert {outcome.found_by for outcome in nes.samples if outcome.status == "broken"} == {"square"}
    inherited = [outcome for outcome in nes.samples if outcome.status == "broken"]
    assert all(outcome.queries == 0 and outcome.found_after >= 1 for outcome in inherited)
    for gate in (fewer, stored):
        assert {outcome.found_by for outcome in gate.samples if outcome.status == "broken"} == {gate.id}


def test_noise_inherits_nothing_from_attacks(project):
    *_, noise = brightness_gates(project, _gate("square") + _gate("hopskipjump") + _gate("noise"))
    assert {outcome.found_by for outcome in noise.samples} <= {"noise", None}
    assert noise.cost.queries.total > 0


def test_a_ladder_carries_what_was_found_up_with_the_queries_that_it_took(project):
    small, large = brightness_gates(project, _gate("nes", epsilon="[4/255, 8/255]", queries=1000))
    carried = [outcome for outcome in large.samples if outcome.found_by == small.id]
    assert carried
    by_name = {outcome.sample: outcome for outcome in small.samples}
    for outcome in carried:
        assert outcome.evidence == "inherited"
        assert outcome.queries == 0
        assert outcome.found_after == by_name[outcome.sample].queries


@pytest.mark.parametrize("queries", [51, 1000])  # the fewest let most be turned by what is submitted unasked
def test_broken_samples_are_retired_and_asking_about_them_again_is_refused(project, monkeypatch, queries):
    retired = dict[ScoreOracle, list[int]]()
    retire = ScoreOracle.retire

    def note(oracle, samples):
        retired.setdefault(oracle, []).extend(samples.tolist())
        retire(oracle, samples)

    monkeypatch.setattr("robustcheck.models.access._Oracle.retire", note)
    (gate,) = brightness_gates(project, _gate("nes", queries=queries))
    broken = [index for index, outcome in enumerate(gate.samples) if outcome.status == "broken"]
    assert broken
    assert sorted(next(iter(retired.values()))) == broken  # others are those of examinations


@pytest.mark.parametrize(
    ("name", "kind"),
    [("nes", NES), ("square", Square), ("partial_information", PartialInformation), ("hopskipjump", HopSkipJump)],
)
def test_attacks_that_ask_hold_neither_oracle_nor_candidate_nor_anything_with_a_gradient(
    name, kind, project, monkeypatch
):
    """They are handed numbers: no path of references leads from an attack or its rows to a network."""
    seen = []
    learn = kind.learn

    def spy(attack, state, queries, answers, clean, ball, draws):
        seen.append((attack, state, queries, answers, clean, ball, draws))
        told = [tensor for tensor in vars(answers).values() if isinstance(tensor, torch.Tensor)]
        assert not any(tensor.requires_grad for tensor in (*state.values(), queries.images, *told))
        return learn(attack, state, queries, answers, clean, ball, draws)

    monkeypatch.setattr(kind, "learn", spy)
    brightness_gates(project, _gate(name, queries=120))
    assert seen
    state = seen[-1][1]
    known, waiting = set(), [*seen[0], *seen[-1]]
    while waiting:
        held = waiting.pop()
        if id(held) in known or isinstance(held, type) or type(held).__name__ in ("module", "function"):
            continue  # code is reachable from anything; what it is handed is what matters
        known.add(id(held))
        assert not isinstance(held, torch.nn.Module)
        assert not isinstance(held, (Candidate, Network, WhiteBox, LabelOracle, ScoreOracle, TopKOracle, Surrogates))
        waiting.extend(gc.get_referents(held))
    assert {id(values) for values in state.values()} <= known


def test_the_answers_do_not_depend_on_batch_size(project):
    reports = [
        brightness_gates(project, _gate("nes", queries=300) + _gate("hopskipjump"), model=f"batch_size: {size}")
        for size in (1, 7, 64)
    ]
    for other in reports[1:]:
        for one, two in zip(reports[0], other, strict=True):
            assert [(o.status, o.sha256, o.queries) for o in one.samples] == [
                (o.status, o.sha256, o.queries) for o in two.samples
            ]


def test_a_batch_is_full_while_several_samples_are_in_flight(project, reached):
    brightness_gates(project, _gate("nes", queries=1000), model="batch_size: 32")
    sizes = [len(images) for images in reached["asked"]]
    assert np.mean([size == 32 for size in sizes]) > 0.7
    assert 1 not in sizes[: len(sizes) // 2]


def test_what_could_not_be_started_is_said_on_every_rung_of_a_ladder(project):
    flat_images(project, (126, 40), [0, 1])
    gate = _gate("label_only", queries=120, epsilon="[4/255, 8/255]", extra=", ladder: descending")
    for rung in brightness_gates(project, gate, model="operating_point: 0.999"):
        assert [outcome.evidence for outcome in rung.samples if outcome.status == "held"] == ["unstarted"]
        assert [finding.code for finding in rung.findings] == ["no-start"]


def test_attacks_that_ask_go_down_a_ladder(project):
    gate = _gate("nes", queries=300, epsilon="[4/255, 8/255]", extra=", ladder: descending")
    small, large = brightness_gates(project, gate)
    assert (small.verdict, large.verdict) == ("pass", "pass")
    held = [outcome.evidence for outcome in small.samples if outcome.status == "held"]
    assert "inherited" in held


def test_who_begins_at_corners_is_told_who_begins_at_other_images(project):
    """White and black are bright and dark: of images of a single pixel nothing that is asked about is dim."""
    three_levels(project)
    with np.load(project / "flat.npz") as held:
        images, labels = held["test_images"][:, :1, :1], held["test_labels"]
    np.savez(project / "flat.npz", test_images=images, test_labels=labels)
    gate = _gate("rays", queries=9, extra=", goal: targeted, target: dim").replace("accuracy: 0", "accuracy: 0.5")
    (project / "policy.yaml").write_text(three_levels_policy(gate))
    (lost,) = run(load_policy(project / "policy.yaml")).gates
    assert lost.verdict == "error"
    assert "rarely read as one certain label: use hopskipjump or label_only, which begin at other" in lost.error


def test_progress_is_told_while_nothing_is_done(project):
    told = []
    (project / "policy.yaml").write_text(brightness_policy(_gate("square", queries=400, epsilon="1/255")))
    run(load_policy(project / "policy.yaml"), progress=lambda what, done, of: told.append((what, done, of)))
    assert len([one for one in told if one[0] == "square"]) > 5


@pytest.mark.parametrize(("pixels", "rows"), [(28 * 28, 96), (64 * 64 * 3, 80), (224 * 224, 32), (1024 * 1024, 32)])
def test_more_rows_are_in_flight_where_images_are_small(pixels, rows):
    attack = SimpleNamespace(images_per_turn=16)
    assert rows_in_flight(attack, 128, pixels) == rows
    assert rows_in_flight(SimpleNamespace(images_per_turn=1), 128, pixels) == 128, "a batch is enough"
