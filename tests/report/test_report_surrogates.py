"""What the page says of the models that were attacked in the candidate's place."""

import re
from dataclasses import replace

from report_builder import SURROGATE, gate, hostile, metric, report, transferred
from test_report_html import page

from robustcheck.results import Metric


def rows(text: str) -> str:
    """The table of surrogates, on one line."""
    return " ".join(text.partition("Turned\n")[2].partition("Accuracy: on the")[0].split())


def test_each_surrogate_has_a_row_with_what_it_is_worth():
    assert rows(page(report(transferred())).text) == (
        "models/densenet.safetensorssafetensors" + "f6" * 32 + "0.880 (0.840 to 0.920)440 of 500"
        "0.850 (0.810 to 0.890)425 of 500"
        "0.975 (0.935 to 1.000)468 of 480 "
        "torchvision.models:resnet18safetensors, trained: 10 epochs on the data's labels"
        + "a7"
        * 32
        + "0.700 (0.660 to 0.740)350 of 500"
        "0.620 (0.580 to 0.660)310 of 500"
        "0.100 (0.060 to 0.140)48 of 480"
    )


def test_it_says_what_a_poor_surrogate_means():
    text = page(report(transferred())).text

    assert re.search(r"agrees little with the candidate, or .* says nothing about the candidate\.", text)
    assert "that the surrogates together read right before, the share that they misread where the search" in text


def test_without_surrogates_there_is_no_such_table():
    assert "Surrogates" not in page(report(gate())).text


def test_how_it_reads_the_attacked_samples_has_a_column():
    text = page(report(transferred(surrogates=(replace(SURROGATE, agreement_attacked=metric(96, 480)),)))).text

    assert "425 of 5000.200 (0.160 to 0.240)96 of 4800.975 (" in rows(text)


def test_what_was_not_measured_is_undefined():
    nothing = Metric(value=None, samples=0)
    text = rows(page(report(transferred(surrogates=(replace(SURROGATE, turned=nothing),)))).text)

    assert text.endswith("0.850 (0.810 to 0.890)425 of 500undefined0 samples")


def test_hostile_surrogates_stay_text():
    parsed = page(hostile())

    assert "trained: <script>alert(1)</script>" in parsed.text
    assert parsed.of("script") == []
