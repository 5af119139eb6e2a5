"""The plots on the page: a line an attack, and none where there is nothing to draw."""

from dataclasses import replace

import pytest
from report_builder import (
    clean_gate,
    erring,
    gate,
    metric,
    report,
    threat,
)
from report_page import page


def test_the_plot_has_a_line_an_attack_and_a_tick_an_epsilon():
    one = report(
        clean_gate(),
        gate(id="fgsm", attack="fgsm", threat=threat(2)),
        gate(id="a", threat=threat(4)),
        gate(id="b", threat=threat(8)),
    )
    parsed = page(one)
    heights = [float(d["d"].split()[1].split("V")[0]) for d in parsed.of("path", **{"class": "whisker"})[:1]]

    assert len(parsed.of("svg", role="img")) == 1
    assert len(parsed.of("g", **{"class": "series s1"})) == 2  # the line and its legend
    assert len(parsed.of("path", **{"class": "link"})) == 2 * 2
    for label in ("2/255", "4/255", "8/255"):
        assert label in parsed.text
    assert heights[0] > 0
    assert "clean without an attack: accuracy 0.860" in parsed.text
    assert "b at ε = 8/255: accuracy 0.810 (405 of 500; 95 % interval 0.770 to 0.850), required >= 0.7" in parsed.text


def test_each_norm_has_a_plot_of_its_own():
    parsed = page(report(gate(id="a"), gate(id="b", threat=threat(77, norm="l2", epsilon="0.3"))))

    assert len(parsed.of("svg", role="img")) == 2
    assert "Accuracy against ε (L∞)" in parsed.text
    assert "Accuracy against ε (L2)" in parsed.text


@pytest.mark.parametrize(
    "one",
    [
        report(clean_gate()),
        report(erring(), verdict="error"),
        report(gate(metrics={"accuracy": replace(metric(1), value=None)})),
        report(gate(metrics={"accuracy": replace(metric(1), value=float("nan"))})),
        report(gate(threat=threat(epsilon_share=float("inf")))),
        report(gate(threat=threat(epsilon_share=0.0))),
    ],
)
def test_without_anything_to_draw_there_is_no_plot(one):
    assert page(one).of("svg") == []
