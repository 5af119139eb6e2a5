"""Parts of the samples, and what the report says about what they were measured on."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from report_builder import DATA, HOSTILE, SCRIPT, gate, metric, report

from robustcheck.report.facts import data_facts, run_facts
from robustcheck.report.gate import PARTS_LISTED, gate_text
from robustcheck.report.html import html
from robustcheck.report.text import meaning_of
from robustcheck.results import Metric, Slice

AREA = Metric(value=0.9, low=0.7, high=1.0, samples=9)


def _with(*slices, **changes):
    return gate(slices=slices, **changes)


def _part(name, column="sex", **metrics):
    return Slice(kind="subgroup" if column else "finding", column=column, name=name, metrics=metrics)


def _words(page):
    return " ".join(re.sub("<[^>]*>", " ", page).split())


def test_each_cell_has_its_count_and_each_table_says_at_what_level():
    grouped = replace(metric(3, 9), groups=4)
    page = html(
        report(_with(_part("F", accuracy=grouped, auroc=AREA), _part("M", accuracy=metric(1, 2)))), None, beside=True
    )
    assert '<span class="line small soft">3 of 9, of 4 groups</span>' in page
    assert "1 of 2</span>" in page
    assert "By sex Each of these is a 95 % interval. The interval of worst_subgroup, if it is required" in _words(page)


def test_findings_are_told_from_subgroups():
    page = _words(html(report(_with(_part("nodule", None, sensitivity=metric(3, 9)))), None, beside=True))
    assert "By finding Each of these is a 95 % interval. The interval of worst_finding, if" in page


def test_a_metric_says_of_what_part_it_is():
    assert meaning_of("accuracy").startswith("share of the samples")
    assert meaning_of("worst_subgroup.accuracy").startswith("in the worst subgroup: share of the samples")
    assert meaning_of("nodule.sensitivity") == "of nodule: share of the positives that are read as positive"
    assert meaning_of("worst_finding.auroc") == "of the worst finding: area under the ROC curve of its probability"
    assert meaning_of("auroc", "mass") == "area under the ROC curve of mass's probability"
    assert meaning_of("nodule.auroc", "mass") == "of nodule: area under the ROC curve of its probability"
    assert meaning_of("grade 2.5.npv").startswith("of grade 2.5: ")
    assert meaning_of("nodule.unknown") == ""
    page = html(
        report(gate(metrics={f"{SCRIPT}.npv": metric(3, 9), "worst_subgroup.npv": metric(3, 9)})), None, beside=True
    )
    assert SCRIPT not in page
    assert "in the worst subgroup: share of the negatives among" in page


def test_the_text_of_a_gate_has_counts_and_names_no_more_parts_than_one_reads():
    parts = [_part(f"{age}", "age", accuracy=metric(3, 9), auroc=AREA) for age in range(PARTS_LISTED + 5)]
    lines = gate_text(_with(*parts)).splitlines()
    assert "age=0: accuracy 0.333 (3 of 9), auroc 0.900" in lines
    assert sum(line.startswith("age=") for line in lines) == PARTS_LISTED == 20
    assert "… and 5 more in report.json" in lines
    assert "more in report.json" not in gate_text(_with(*parts[:PARTS_LISTED]))
    assert HOSTILE not in gate_text(_with(_part(HOSTILE, HOSTILE, **{HOSTILE: metric(3, 9)})))


def test_that_no_groups_were_named_is_among_the_facts():
    assert dict(data_facts(DATA))["Groups"] == "none named; intervals treat each image as independent"
    assert dict(data_facts(replace(DATA, group="patient", groups=1_210)))["Groups"] == "1,210 (patient)"


@pytest.mark.parametrize("decision", ["estimate", "confident"])
@pytest.mark.parametrize("stop", ["never", "early", "determined"])
def test_the_rule_that_decided_is_the_one_that_is_told(stop, decision):
    told = dict(run_facts(report(gate(), stop=stop, decision=decision)))["Decision rule"]
    early = "estimate; gates that stopped early were decided by the interval, the others by the estimate; "
    assert told.startswith(early) == ((stop, decision) == ("early", "estimate"))
    assert told.endswith("are reported") == (decision == "estimate")


def test_the_prevalence_is_among_the_facts():
    assert "Prevalence" not in dict(data_facts(DATA))
    assert dict(data_facts(replace(DATA, prevalence=(0.02,))))["Prevalence"] == "0.02"
    assert dict(data_facts(replace(DATA, prevalence=(0.02, 0.1))))["Prevalence"] == "0.02, 0.1 (of each label, in turn)"


def test_reports_from_before_attacks_were_examined_do_not_say_that_they_were():
    name = "Attacks that are shown to be broken"
    assert name not in dict(run_facts(report(gate())))
    assert dict(run_facts(report(gate(), health="warn")))[name] == "are only reported"
    assert "strict" not in html(report(gate()), None, beside=True)
