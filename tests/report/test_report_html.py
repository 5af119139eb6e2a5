"""The page: whole, self-contained, escaped, and saying what was required and measured."""

import hashlib
import itertools
import re
from dataclasses import replace

import pytest
from report_builder import (
    DATA,
    HOSTILE,
    asking,
    clean_gate,
    erring,
    failing,
    gate,
    hostile,
    inconclusive,
    metric,
    mixed,
    outcomes,
    report,
    synthetic,
    threat,
    with_pictures,
)
from report_page import Page, page

from robustcheck.report import write_reports
from robustcheck.report.facts import data_facts, model_facts, not_tried
from robustcheck.report.html import html
from robustcheck.report.text import one_line
from robustcheck.results import Finding

CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@pytest.mark.parametrize(
    "one", [mixed(), asking(), hostile(), synthetic(), report(verdict="error", model=None, data=None)]
)
def test_its_tags_match_and_nothing_is_loaded_from_anywhere(one, tmp_path):
    shown = with_pictures(failing(), tmp_path)
    text = html(replace(one, gates=(*one.gates, shown)), tmp_path, beside=True)
    parsed = Page(text)

    assert [one["content"] for one in parsed.of("meta", **{"http-equiv": "Content-Security-Policy"})] == [CSP]
    assert not {tag for tag, _ in parsed.elements} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in parsed.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data", "action", "xlink:href", "poster"):
            if (tag, name) == ("a", "href"):  # loads nothing until it is followed, and leads to files beside the page
                assert re.match(r"#gate-\d+$|\./counterexamples/[\w/.-]+$", attributes["href"])
            else:
                assert re.match(r"data:image/png;base64,", attributes.get(name) or "data:image/png;base64,")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("one", [mixed(), asking(), hostile()])
def test_each_anchor_that_is_linked_is_there_once(one):
    parsed = page(one)
    anchors = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]

    assert len(anchors) == len(set(anchors))
    assert {link["href"] for link in parsed.of("a")} <= {f"#{anchor}" for anchor in anchors}


@pytest.mark.parametrize(
    ("severities", "told"),
    [
        (("note",), None),
        (("note", "warning"), "1 warning about the gates should be read before you rely on the verdict."),
        (("warning", "error", "warning"), "2 warnings about the gates should be read before you rely on the verdict."),
    ],
)
def test_the_page_says_on_top_how_many_warnings_there_are(severities, told):
    found = tuple(Finding(code="x", severity=severity, message="read this") for severity in severities)
    text = html(report(gate(findings=found)), None, beside=True)

    assert ("<b>Warnings" in text, told is None or told in text) == (told is not None, True)


def test_hostile_text_stays_text():
    text = html(hostile(), None, beside=True)

    assert "<script" not in text
    assert "\x00" not in text
    assert "\u202e" not in text
    assert "\udcff" not in text
    assert "49" not in Page(text).text.replace("2049", "")
    assert "<script>alert(1)</script>\"'&]]>\\x00\\x1b[31m\\u202e\\udcff" in Page(text).text
    text.encode()


def test_hostile_text_cannot_leave_an_attribute():
    for _, attributes in page(hostile()).elements:
        assert not set(attributes) & {"script", "alert(1)", "&", "onerror"}


@pytest.mark.parametrize(
    ("one", "word", "kind"),
    [
        (report(gate()), "Pass", "pass"),
        (report(failing(), verdict="fail"), "Fail", "fail"),
        (report(inconclusive(), verdict="inconclusive"), "Inconclusive", "inconclusive"),
        (report(erring(), verdict="error"), "Error", "error"),
    ],
)
def test_the_verdict_comes_first(one, word, kind):
    parsed = page(one)

    assert parsed.of("header")[0]["class"] == f"banner {kind}"
    assert re.search(rf"2025-11-23 07:10 UTC · policies/pneumonia_mnist.yaml\s+{word}\s+Chest X-ray gate", parsed.text)


def test_required_and_measured_stand_beside_each_other():
    parsed = page(report(failing(), verdict="fail"))

    assert re.search(
        r"pgd\[4/255\]\s+fail\s+pgdε = 2/255, L∞\s+accuracy >= 0.7\s+0.610 \(0.570 to 0.650\)", parsed.text
    )
    assert "accuracy 0.610 is below the required >= 0.7 (305 of 500; 95 % interval 0.570 to 0.650)" in parsed.text
    assert "175 broken, 305 held, 20 wrong" in parsed.text


def test_banners_say_what_a_verdict_does_not():
    quiet, loud = page(report(gate())), page(synthetic(interrupted=True, not_run=("a", "b"), verdict="error"))

    assert "Interrupted." in loud.text
    assert "2 gates of the policy were not run." in loud.text
    assert "Synthetic data. The images are generated. The result says nothing about any patient." in loud.text
    for word in ("Interrupted.", "not run", "patient", "Synthetic data"):
        assert word not in quiet.text


def test_a_reviewer_finds_the_policy_and_all_that_stands_before_the_network():
    one = mixed()
    policy = replace(one.policy, text="robustcheck: 1\nname: <b>Chest</b>\n")
    model = replace(
        one.model,
        architecture="nets:chest",
        architecture_args={"width": 32},
        preprocess={"layout": "NCHW", "resize": [224, 224], "window": None, "mean": [0.5]},
        precision="auto",
    )
    parsed = page(replace(one, policy=policy, model=model))
    assert parsed.of("details")
    assert "robustcheck: 1\nname: <b>Chest</b>\n" in parsed.text
    facts = dict(model_facts(model))
    assert facts["Architecture"] == "nets:chest (width 32)"
    assert facts["Preprocessing"] == "layout NCHW, resize [224, 224], window default, mean [0.5]"
    assert facts["Precision of searches"] == "auto"
    assert all(value in parsed.text for value in facts.values())
    assert not page(one).of("details"), "an older report has no text of its policy"


def test_gates_that_failed_are_not_hidden_by_those_that_could_not_be_evaluated():
    both, none = page(report(failing(), erring(), verdict="error")), page(report(gate(), erring(), verdict="error"))
    assert "1 gate failed, and others could not be evaluated." in both.text
    stopped = page(report(failing(), verdict="error", interrupted=True))
    assert "1 gate failed, and the run was stopped before its end." in stopped.text
    assert "shows nothing about the candidate" not in both.text
    assert "shows nothing about the candidate" in none.text


def test_the_balanced_accuracy_of_a_finding_is_no_mean_over_labels():
    one = gate(metrics={"balanced_accuracy": metric(400), "nodule.balanced_accuracy": metric(400)})
    text = page(report(one)).text
    assert "mean over the labels of the share that is read right, over findings of (sensitivity + specificity)" in text
    assert "of nodule: (sensitivity + specificity) / 2" in text


def test_where_nothing_passed_the_page_does_not_say_pass_though_the_build_goes_on():
    allowed = page(report(inconclusive(), verdict="inconclusive", inconclusive="allow"))
    assert "Inconclusive: Chest X-ray gate" in allowed.text  # its title
    assert "1 gate could not be decided, which the policy allows; no gate passed, and none failed." in allowed.text
    assert not re.search(r"\bpass\b", allowed.text.partition("What was not tried")[0], re.IGNORECASE)


def test_what_the_policy_allows_is_not_said_to_have_met_its_requirements():
    allowed = report(inconclusive(), inconclusive(id="pgd[4/255]"), verdict="pass", inconclusive="allow")
    text = page(allowed).text
    assert "2 gates could not be decided, which the policy allows; no gate failed." in text
    assert "met its requirements" not in text


def test_noise_and_gates_that_could_not_be_evaluated_are_nothing_that_was_tried():
    noise = gate(id="noise", attack="noise", threat=threat(knowledge="label"))
    assert list(not_tried(report(clean_gate(), noise, erring())))[-1] == "Any attack at all."


def test_it_says_what_was_not_tried():
    text = page(report(gate(), not_run=("late", "later"))).text

    assert "covers only the threat models that it lists" in text
    assert "Gates of the policy that were not run (deselected or not reached): late, later." in text
    assert "124 of 624 available samples." in text
    assert (
        "Goals: one particular wrong answer (targeted); disease read as no disease (missed_finding); no disease read "
        "as disease (false_alarm)."
    ) in text
    assert (
        "Knowledge: the scores of all labels (scores); the scores of the best few labels (top-k); the predicted label "
        "only (label); another model only (transfer)."
    ) in text
    assert "Norms: L2." in text


def test_it_does_not_guess_what_was_not_tried_from_words_it_does_not_know():
    text = page(report(gate(threat=threat(norm="patch")))).text

    assert "Norms:" not in text
    assert "Goals:" in text


def test_without_an_attack_nothing_was_tried():
    assert "Any attack at all." in page(report(clean_gate())).text


def test_digests_and_versions_are_there():
    text = page(report(gate())).text

    for pair in ("a1", "b2", "c3", "d4", "e5"):
        assert pair * 32 in text
    for fact in (
        "44,731,220",
        "2.13.0",
        "medmnist:pneumoniamnist, split test",
        "normal: 188, pneumonia: 312",
        "1 × 28 × 28",
    ):
        assert fact in text


def test_what_was_not_loaded_is_said():
    text = page(report(erring(), verdict="error", model=None, data=None)).text

    assert "The candidate was not loaded." in text
    assert "The data were not loaded." in text


def test_a_shared_counterexample_says_whose_it_is():
    text = page(report(gate(id="b", samples=(*outcomes(2, 0, 0, gate="a"), *outcomes(1, 5, 0, gate="b"))))).text

    assert re.search(r"Found by\s*2 by a, 1 by b", text)


def test_what_other_attacks_found_stands_beside_a_gate_s_counts():
    shared = gate(id="b", samples=(*outcomes(2, 0, 0, gate="a"), *outcomes(1, 5, 0, gate="b")))
    words = "2 of its 3 broken samples were found by other gates: 2 by a"
    assert words in page(report(gate(id="a", attack="apgd"), shared)).text
    assert words not in page(report(gate(id="a", threat=threat(1)), shared)).text  # the same attack, at another budget


def test_evidence_is_told_apart():
    kinds = ("searched", "searched", "inherited", "unstarted", None)
    rows = tuple(replace(row, evidence=kind) for row, kind in zip(outcomes(2, 2, 1), kinds, strict=True))

    assert re.search(
        r"Evidence\s*2 samples searched in this gate, 1 known from other gates, "
        r"1 for which no image to start from was found\n",
        page(report(gate(samples=rows))).text,
    )


def test_an_error_keeps_its_trace():
    assert "Traceback (most recent call last):\n  second line" in page(mixed()).text


def test_gates_that_are_no_passes_are_named_at_once_with_why():
    parsed = page(report(*(gate(id=f"ok{one}") for one in range(30)), inconclusive(), failing(), verdict="fail"))
    first, second = parsed.of("a")[:2]
    above = " ".join(parsed.text.partition("Gates\n")[0].split())

    assert (first["href"], second["href"]) == ("#gate-32", "#gate-31"), "the heaviest comes first"
    assert "pgd[4/255] fail accuracy 0.610 is below the required >= 0.7 (305 of 500;" in above
    assert "fgsm inconclusive accuracy 0.690: its 95 % interval" in above
    assert "ok0" not in above
    assert "more" not in above.partition("more samples are needed")[2]
    assert not page(report(gate())).of("section", **{"class": "reasons"})


def test_of_many_gates_that_failed_five_are_named_at_once():
    parsed = page(report(*(failing(id=f"bad{one}") for one in range(9)), verdict="fail"))
    above = parsed.text.partition("Gates\n")[0]

    assert [f"bad{one}" in above for one in range(9)] == [True] * 5 + [False] * 4
    assert "and 4 more" in above


@pytest.mark.parametrize(
    ("one", "state"),
    [
        (failing(), "not met"),
        (inconclusive(), "undecided"),
        (inconclusive(metrics={"accuracy": replace(metric(1), value=None, low=None, high=None)}), "undefined"),
        (gate(), ""),
    ],
)
def test_the_overview_says_in_words_how_a_requirement_stands(one, state):
    overview = page(report(one)).text.partition("Gates\n")[2].partition("Intervals show")[0]

    assert [word for word in ("not met", "undecided", "undefined") if word in overview] == ([state] if state else [])
    assert overview.count("undefined") <= 1


def test_the_policy_is_printed_however_its_reader_left_it():
    one = mixed()
    text = html(replace(one, policy=replace(one.policy, text="robustcheck: 1\n")), None, beside=True)

    assert text.count("robustcheck: 1\n") == 1
    assert "open" in Page(text).of("details")[0], "a browser prints nothing of what is closed"
    printed = text[text.index("@media print") : text.index("</style>")]
    assert "details::details-content { content-visibility: visible;" in printed


@pytest.mark.parametrize("name", [HOSTILE, '"; } </style><b>', "\\", "*/ /* url(x) @import", "Röntgen"])
def test_the_policy_s_name_at_the_foot_of_printed_pages_stays_text(name):
    one = mixed()
    text = html(replace(one, policy=replace(one.policy, name=name)), None, beside=True)
    (foot,) = re.findall(r'@bottom-left \{ content: "(.*)"; font', text)

    assert re.fullmatch(r"[A-Za-z0-9]*(\\[0-9a-f]{6}[A-Za-z0-9]*)*", foot)
    read = re.sub(r"\\([0-9a-f]{6})", lambda found: chr(int(found[1], 16)), foot)
    assert read.removesuffix("…") == one_line(name)[: len(read.removesuffix("…"))]
    assert text.count("</style>") == 1


def test_names_break_between_their_words_and_not_within_their_parameters():
    text = html(report(gate(id="white_box_pgd-x[2/255]"), not_run=("a_b",)), None, beside=True)

    assert '<bdi>white_<wbr>box_<wbr>pgd-<wbr>x<wbr><span class="nowrap">[2/255]</span></bdi></a>' in text
    assert '<h3><bdi>white_<wbr>box_<wbr>pgd-<wbr>x<wbr><span class="nowrap">[2/255]</span></bdi></h3>' in text
    assert "<bdi>a_<wbr>b</bdi>" in text


def test_a_piece_of_a_name_that_is_longer_than_a_column_breaks_anywhere():
    text = html(report(gate(id=f"fourteenletter_{'x' * 40}[2/255]"), not_run=("y" * 14,)), None, beside=True)

    long = [f'<span class="long">{piece}</span>' for piece in ("fourteenletter_", "x" * 40)]
    assert f'<bdi>{"<wbr>".join(long)}<wbr><span class="nowrap">[2/255]</span></bdi>' in text
    assert f"<bdi>{'y' * 14}</bdi>" in text
    assert ".long { overflow-wrap: anywhere; }" in text


def test_notes_do_not_run_into_one_another():
    model = replace(mixed().model, notes=("verdicts are its own, in float32", "It is read. Slowly.", "last"))
    assert dict(model_facts(model))["Notes"] == "verdicts are its own, in float32; It is read. Slowly; last"
    data = replace(DATA, notes=("one", "two."))
    assert dict(data_facts(data))["Notes"] == "one; two"


def test_headings_skip_no_level():
    levels = [int(tag[1]) for tag, _ in page(mixed()).elements if re.fullmatch(r"h\d", tag)]

    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_page_states_the_digest_of_the_report_that_it_was_made_from(tmp_path):
    write_reports(mixed(), tmp_path)
    stated = hashlib.sha256((tmp_path / "report.json").read_bytes()).hexdigest()
    assert stated in (tmp_path / "report.html").read_text(encoding="utf-8")

    (tmp_path / "report.json").write_text((tmp_path / "report.json").read_text() + " ")
    assert "Its sha256" not in html(mixed(), tmp_path, beside=True), "it is another file than this report would be"
    assert "Its sha256" not in html(mixed(), None, beside=True)


def test_a_long_policy_name_or_label_does_not_change_the_structure():
    plain, long = page(mixed()), page(replace(mixed(), policy=replace(mixed().policy, name=HOSTILE * 50)))

    assert [tag for tag, _ in plain.elements] == [tag for tag, _ in long.elements]


def test_an_interval_s_end_is_not_rounded_across_its_bound():
    close = replace(metric(370), low=0.69966, high=0.78)
    parsed = page(report(gate(metrics={"accuracy": close})))
    assert parsed.text.count("0.6997 to 0.780") == 4  # in both tables, the sentence and the chart
    assert "0.700 to 0.780" not in parsed.text


def test_what_intervals_do_not_cover_is_said():
    assert "They do not cover stronger adversaries" in page(report(gate())).text
    assert "They do not cover" not in page(report(verdict="error")).text
