"""The words and numbers that all reports share, and the terminal's summary."""

import unicodedata
from dataclasses import replace
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_builder import (
    DATA,
    clean_gate,
    erring,
    failing,
    gate,
    hostile,
    inconclusive,
    metric,
    mixed,
    outcomes,
    queried,
    report,
    synthetic,
    threat,
    transferred,
)

from robustcheck.report.found_elsewhere import found_elsewhere_text
from robustcheck.report.gate import gate_text, verdict_sentence
from robustcheck.report.summary import render, summary_line, summary_table, warnings_text
from robustcheck.report.text import measured_value, moment, name_pieces, one_line, seconds, status_text
from robustcheck.report.threat import threat_text
from robustcheck.report.view import report_view
from robustcheck.results import Cost, Finding, Interruption, Metric, Requirement
from robustcheck.words import distinct, listed, visible

BIDIRECTIONAL_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (failing(), "accuracy 0.610 is below the required >= 0.7 (305 of 500; 95 % interval 0.570 to 0.650)"),
        (gate(), "accuracy 0.810 meets the required >= 0.7 (405 of 500; 95 % interval 0.770 to 0.850)"),
        (
            inconclusive(),
            "accuracy 0.690: its 95 % interval, 0.650 to 0.730, contains the required 0.7 (345 of 500); "
            "more samples are needed (robustcheck plan)",
        ),
        (erring(), "could not be evaluated: the candidate gave NaN on 3 samples"),
        (erring(error=None), "could not be evaluated: no reason was recorded"),
        (
            erring(error=None, findings=(Finding(code="x", severity="error", message="no gradients"),)),
            "could not be evaluated: no gradients",
        ),
        (gate(requirements=()), "the gate passed"),
        (
            failing(
                metrics={"attack_success": metric(34, 100)},
                requirements=(Requirement(metric="attack_success", bound="<= 0.2", met=False),),
            ),
            "attack_success 0.340 is above the required <= 0.2 (34 of 100; 95 % interval 0.300 to 0.380)",
        ),
        (
            failing(
                metrics={"auroc": Metric(value=0.4, samples=500)},
                requirements=(Requirement(metric="auroc", bound=">= 0.9", met=False),),
            ),
            "auroc 0.400 is below the required >= 0.9 (500 samples)",
        ),
        (
            inconclusive(
                metrics={"sensitivity": Metric(value=None, samples=0)},
                requirements=(Requirement(metric="sensitivity", bound=">= 0.9", met=None),),
            ),
            "sensitivity is undefined on these samples, so the required >= 0.9 cannot be judged",
        ),
    ],
)
def test_the_verdict_is_a_sentence_with_its_reason(one, sentence):
    assert verdict_sentence(one) == sentence
    assert gate_text(one).splitlines()[0] == sentence


def test_only_requirements_that_are_not_met_are_named_in_a_failure():
    requirements = (
        Requirement(metric="sensitivity", bound=">= 0.5", met=True),
        Requirement(metric="accuracy", bound=">= 0.7", met=False),
        Requirement(metric="specificity", bound=">= 0.9", met=False),
    )
    sentence = verdict_sentence(failing(requirements=requirements))

    assert sentence.startswith("accuracy 0.610 is below")
    assert sentence.endswith("; 1 other requirement is not met")


@pytest.mark.parametrize(
    ("value", "bound", "shown"),
    [(0.6996, ">= 0.7", "0.6996"), (0.2004, "<= 0.2", "0.2004"), (0.7, ">= 0.7", "0.700"), (0.61, ">= 0.7", "0.610")],
)
def test_rounding_never_moves_a_value_across_its_bound(value, bound, shown):
    requirement = Requirement(metric="accuracy", bound=bound, met=False)

    assert measured_value(Metric(value=value, samples=1), requirement) == shown


def test_the_text_holds_thresholds_threat_cost_findings_and_files():
    finding = Finding(code="batch-halved", severity="note", message="memory ran out")
    text = gate_text(failing(findings=(finding,)))

    assert "accuracy >= 0.7  0.610 (305 of 500; 95 % interval 0.570 to 0.650)  not met" in text
    assert "also measured: sensitivity 0.800 (200 of 250" in text
    assert "attack: pgd (steps 40, restarts 2, step_size default, random_start yes)" in text
    assert "change each stored value by at most 2 grey levels (ε = 2/255, L∞)" in text
    assert "cost: 12.3 s; 20,480 forward passes, 18,211 of them with a gradient; no queries" in text
    assert "samples: 175 broken, 305 held, 20 wrong before the attack" in text
    assert "note: memory ran out [batch-halved]" in text
    assert "broken samples (first 5 of 175):" in text
    assert "test/00004: normal -> pneumonia, 2 levels, counterexamples/pgd-2-255/00004.png" in text
    assert "test/00005" not in text


def test_a_counterexample_of_another_gate_says_whose_it_is():
    assert "found by pgd[4/255]" not in gate_text(failing())
    assert "found by pgd[4/255]" in gate_text(failing(id="other", samples=failing().samples))


def test_an_error_keeps_its_whole_text():
    assert "\n| Traceback (most recent call last):\n|   second line\n" in f"{gate_text(erring())}\n"


def test_queries_are_told_where_there_are_any():
    text = gate_text(queried())

    assert "8,000 queries (most 5,000, median 812.5 a sample)" in text
    assert "Queries: at most 5,000 a sample, each rounded to the stored depth." in text
    assert "queries to success: median 1,217, most 4,868 (75 broken samples)" in text
    assert "accuracy at smaller limits: 0.938 at 100, 0.912 at 500, 0.892 at 1,000" in text
    assert "test/00003: pneumonia -> normal, 2 levels, found after 9 queries, counterexamples/" in text


def test_without_a_query_nothing_is_said_of_them():
    text = gate_text(failing())

    assert "queries to success" not in text
    assert "smaller limits" not in text
    assert "found after" not in text


def test_surrogates_are_told_with_how_good_stand_ins_they_were():
    assert (
        "surrogate torchvision.models:resnet18: accuracy 0.700 (350 of 500; 95 % interval 0.660 to 0.740); "
        "agreement 0.620 (310 of 500; 95 % interval 0.580 to 0.660); "
        "turned 0.100 (48 of 480; 95 % interval 0.060 to 0.140)"
    ) in gate_text(transferred())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "Queries: no limit."),
        ({"knowledge": "transfer"}, "Queries: none about a sample."),
        ({"queries": 100}, "Queries: at most 100 a sample."),
        ({"queries": 100, "oracle": "stored"}, "Queries: at most 100 a sample, each rounded to the stored depth."),
        ({"queries": 100, "oracle": "float"}, "Queries: at most 100 a sample, none rounded to the stored depth."),
        ({"knowledge": "top-k"}, "Knowledge: the scores of the best few labels (top-k)."),
        ({"knowledge": "top-k", "top_k": 2}, "Knowledge: the scores of the best 2 labels (top-k)."),
        ({"knowledge": "top-k", "top_k": 1}, "Knowledge: the score of the best label (top-k)."),
    ],
)
def test_the_threat_model_says_what_may_be_asked_and_what_is_answered(changes, told):
    assert told in threat_text(threat(**changes))


def test_a_threat_model_of_unknown_words_is_still_told():
    text = threat_text(threat(norm="patch", goal="mischief", knowledge="gossip", epsilon="10%"))

    assert text == (
        "Goal: mischief. Knowledge: gossip. Capability: change the image by at most 2 grey levels in the norm "
        "(ε = 10%, patch). Queries: no limit."
    )


def test_samples_that_the_goal_spares_did_not_hold():
    samples = [replace(one, evidence=None) if index % 2 else one for index, one in enumerate(outcomes(0, 6, 1))]
    assert status_text(gate(samples=tuple(samples))) == "0 broken, 3 held, 3 not attacked, 1 wrong before the attack"


def test_an_interval_s_end_is_not_rounded_across_the_bound():
    close = replace(metric(370), low=0.69966, high=0.78)
    sentence = verdict_sentence(inconclusive(metrics={"accuracy": close}))
    assert sentence == (
        "accuracy 0.740: its 95 % interval, 0.6997 to 0.780, contains the required 0.7 (370 of 500); "
        "more samples are needed (robustcheck plan)"
    )


def test_what_is_said_against_a_pass_stands_below_the_table():
    warning = Finding(code="poor-surrogate", severity="warning", message="the surrogate is another model")
    note = Finding(code="lost-in-rounding", severity="note", message="3 proposals were lost")
    told = warnings_text(report(gate(findings=(warning, note)), failing(findings=(warning,))))
    assert told == "pgd[2/255]: warning: the surrogate is another model [poor-surrogate]\n"
    undecided = inconclusive(findings=(warning,))
    assert warnings_text(report(undecided)) == ""
    assert warnings_text(report(undecided, inconclusive="allow")).startswith("fgsm: warning: ")


def test_without_an_attack_samples_are_right_or_wrong():
    assert status_text(clean_gate()) == "430 right, 70 wrong"


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (report(gate()), "PASS: 1 gate passed, 0 failed, on 500 of 624 samples"),
        (
            mixed(),
            "ERROR: 2 gates passed, 1 failed, 1 inconclusive, 1 could not be evaluated, 1 not run, "
            "on 500 of 624 samples",
        ),
        (
            synthetic(),
            "PASS: 1 gate passed, 0 failed, on 500 of 624 samples (SYNTHETIC data: says nothing about any patient)",
        ),
        (
            report(gate(), data=replace(DATA, samples=1, available=1)),
            "PASS: 1 gate passed, 0 failed, on 1 sample",
        ),
        (
            report(gate(), data=replace(DATA, samples=1, available=624)),
            "PASS: 1 gate passed, 0 failed, on 1 of 624 samples",
        ),
        (
            report(inconclusive(), verdict="inconclusive", inconclusive="allow", data=None),
            "INCONCLUSIVE: 0 gates passed, 0 failed, 1 inconclusive (allowed)",
        ),
        (
            report(verdict="error", interrupted=True, not_run=("a",), data=None),
            "ERROR (interrupted): 0 gates passed, 0 failed, 1 not run",
        ),
        (
            report(
                verdict="error",
                interrupted=True,
                interruption=Interruption(gate="worst", seconds=240),
                not_run=("worst",),
                data=None,
            ),
            "ERROR (worst was interrupted after 4.0 min): 0 gates passed, 0 failed, 1 not run",
        ),
    ],
)
def test_the_summary_counts_gates(one, line):
    assert summary_line(one) == line


@pytest.mark.parametrize(
    ("own", "stronger", "smaller", "line"),
    [
        (
            7,
            21,
            13,
            "pgd[4/255]: 34 of its 41 broken samples were found by other gates: 21 by worst, 13 at other budgets\n",
        ),
        (2, 3, 0, "pgd[4/255]: 3 of its 5 broken samples were found by other gates: 3 by worst\n"),
        (3, 3, 0, ""),  # half of them are its own
        (1, 0, 9, ""),  # its own attack found the rest, too
        (0, 0, 0, ""),
    ],
)
def test_the_larger_part_of_what_broke_is_told_if_other_attacks_found_it(own, stronger, smaller, line):
    rows = (
        *outcomes(own, 5, 0, gate="pgd[4/255]"),
        *outcomes(stronger, 0, 0, gate="worst"),
        *outcomes(smaller, 0, 0, gate="pgd[2/255]"),
    )
    others = (gate(id="worst", attack="ensemble", parameters={}), gate(id="pgd[2/255]"))
    assert found_elsewhere_text((*others, failing(samples=rows, threat=threat(4)))) == line


def test_the_same_attack_within_the_same_budget_is_named():
    twin = failing(samples=(*outcomes(1, 5, 0, gate="pgd[4/255]"), *outcomes(2, 0, 0, gate="pgd[2/255]")))
    told = "pgd[4/255]: 2 of its 3 broken samples were found by other gates: 2 by pgd[2/255]\n"
    assert found_elsewhere_text((gate(id="pgd[2/255]"), twin)) == told


def test_the_table_has_a_row_a_gate_with_required_and_measured():
    text = render(summary_table(mixed()), width=140, color=False)
    rows = [line.split() for line in text.splitlines()]

    failed = next(row for row in rows if row[:1] == ["pgd[4/255]"])
    assert " ".join(failed) == "pgd[4/255] pgd 2/255 L∞ accuracy >=0.7 0.610 (0.570-0.650) 175/305/20 12.3 fail"
    assert next(row for row in rows if row[:1] == ["clean"])[-3] == "-/430/70"
    assert ["late", "not", "run"] in rows


@pytest.mark.parametrize(
    ("told", "changes"),
    [
        ("", {}),
        ("", {"knowledge": "label"}),  # which the attack's name says
        (", missed finding", {"goal": "missed_finding"}),
        (", targeted: normal", {"goal": "targeted", "target": "normal"}),
        (", under conditions", {"conditions": {"rotation": [-10.0, 10.0]}}),
        (", ≤1,000 queries", {"queries": 1000}),
        (", ≤1 query", {"queries": 1}),
        (
            ", false alarm, under conditions, ≤50 queries",
            {"goal": "false_alarm", "conditions": {"a": 1}, "queries": 50},
        ),
    ],
)
def test_what_sets_a_threat_apart_stands_beside_its_budget(told, changes):
    one = report(gate(threat=threat(8, **changes)))

    assert str(next(iter(summary_table(one).columns[2].cells))) == f"8/255 L∞{told}"
    assert report_view(one, None).gates[0].budget == f"ε = 8/255, L∞{told}"


def test_what_sets_a_threat_apart_fits_in_80_columns_in_whole_words():
    apart = threat(goal="missed_finding", conditions={"rotation": [-10.0, 10.0]}, queries=12_000)
    text = render(summary_table(report(gate(id="white_box_pgd_missed[2/255]", threat=apart))), width=80, color=False)

    assert max(map(len, text.splitlines())) <= 80
    for whole in (
        "2/255 L∞,",
        "missed",
        "finding,",
        "under",
        "conditions,",
        "≤12,000",
        "queries",
        "(0.770-0.850)",
        "time/s",
        "pass",
    ):
        assert whole in text


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_number_and_no_verdict_is_cut_off_on_a_narrow_terminal(width):
    text = render(summary_table(report(gate(), failing(), erring(), verdict="error")), width=width, color=False)

    assert max(map(len, text.splitlines())) <= width
    for whole in ("0.610", "(0.570-0.650)", "175/305/20", "pgd[4/255]", ">=0.7", "fail", "error"):
        assert whole in text
    assert "…" not in text


@pytest.mark.parametrize("width", [60, 80, 100])
def test_however_long_names_and_counts_are_the_verdict_is_whole_and_no_number_breaks(width):
    long = inconclusive(id="white_box_pgd_missed[2/255]", samples=outcomes(12_000, 12_500, 500))
    worst = Requirement(metric="worst_subgroup.balanced_accuracy", bound=">= 0.7", met=True)
    gates = (replace(long, cost=Cost(seconds=12_345.6)), gate(), gate(id="worst", requirements=(worst,)))
    text = render(summary_table(report(*gates, verdict="inconclusive")), width=width, color=False)
    lines = text.splitlines()

    assert max(map(len, lines)) <= width
    assert [line.split()[-1] for line in lines if "0.690" in line] == ["inconclusive"]
    assert [line.split()[-1] for line in lines if "undefined" in line] == ["pass"]
    for whole in ("verdict", "white_", "[2/255]", "12000/", "12500/", "500", "worst_", "balanced_", ">=0.7"):
        assert whole in text
    assert ("12345.6" in text) == (width == 100), "where there is no room, time is what is left out"
    assert ("fgsm" in text) == (width >= 80)


def test_decisions_and_their_samples_fit_in_80_columns():
    few = inconclusive(samples=outcomes(10, 30, 8), metrics={"accuracy": metric(30, 48, width=0.14)})
    text = render(summary_table(report(few, verdict="inconclusive")), width=80, color=False)

    assert "verdict" in text
    assert "inconclusive" in text
    assert "10/30/8" in text


def test_a_terminal_that_is_too_narrow_for_any_table_breaks_its_lines_and_loses_nothing():
    assert render(summary_table(mixed()), width=40, color=False) == render(
        summary_table(mixed()), width=60, color=False
    )


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_a_name_is_its_pieces(name):
    assert "".join(name_pieces(name)) == name


def test_a_name_breaks_between_its_words_and_not_within_its_parameters():
    assert name_pieces("white_box.pgd-x[2/255]") == ["white_", "box.", "pgd-", "x", "[2/255]"]
    assert name_pieces("2/255 L∞") == ["2/255", " L∞"]


@pytest.mark.parametrize(("distance", "told"), [(1.0, "1 level,"), (2.0, "2 levels,"), (1.5, "1.5 levels,")])
def test_one_level_is_no_levels(distance, told):
    row = replace(outcomes(1, 0, 0)[0], distance_levels=distance)
    assert f", {told}" in gate_text(failing(samples=(row,)))


def test_colours_are_there_only_when_asked():
    assert "\x1b[" in render(summary_table(mixed()), width=100, color=True)
    assert "\x1b" not in render(summary_table(mixed()), width=100, color=False)


def test_nothing_from_outside_reaches_the_terminal_as_markup_or_escape():
    one = hostile()
    table = render(summary_table(one), width=4000, color=False)

    for text in (table, summary_line(one), gate_text(one.gates[0])):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "[bold]x[/bold]" in table


@given(st.text(st.characters(codec=None)))
def test_visible_text_can_be_shown_everywhere(text):
    shown = visible(text)

    assert visible(shown) == shown
    assert ElementTree.fromstring(f"<a>{escape(shown)}</a>").text == (shown or None)
    assert not {unicodedata.category(character) for character in shown if character not in "\n\t"} & {"Cc", "Cs", "Zl"}
    assert not {unicodedata.bidirectional(character) for character in shown} & BIDIRECTIONAL_CONTROLS
    assert len(one_line(text).splitlines()) <= 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\U0010ffffb", "a\\U0010ffffb"),  # JUnit's writer would drop it, and two names might become one
        ("\ufffe", "\\ufffe"),
        ("\x85\u2028", "\\x85\\u2028"),
        ("one\r\ntwo\tthree\rfour", "one\ntwo\tthree\\rfour"),
    ],
)
def test_what_is_dropped_or_breaks_lines_elsewhere_is_an_escape(text, shown):
    assert visible(text) == shown


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_text_that_can_be_shown_is_left_alone(text):
    assert visible(text) == text


def test_names_are_told_apart_whatever_the_case_of_their_letters():
    assert distinct(["a", "A", "a-2", "b", "a"]) == ["a", "A-2", "a-2-2", "b", "a-3"]
    assert distinct(["clean", "Clean"], taken=["CLEAN"]) == ["clean-2", "Clean-3"]


@pytest.mark.parametrize(
    ("duration", "shown"),
    [(0.04, "0.0 s"), (119, "119.0 s"), (300, "5.0 min"), (9000, "2.5 h"), (float("nan"), "unknown time")],
)
def test_durations_have_the_unit_that_fits(duration, shown):
    assert seconds(duration) == shown


def test_times_are_in_utc():
    assert str(moment("2025-11-23T09:10:00+02:00")) == "2025-11-23 07:10:00+00:00"
    assert moment("yesterday") is None


def test_names_in_a_list_are_cut_where_no_honest_one_is_so_long():
    assert listed(["a" * 200, "b" * 201, "c" * 1_000_000]) == f"{'a' * 200}, {'b' * 200}…, {'c' * 200}…"
