"""What queries bought: the numbers, their plot, and what the page says of them."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from report_builder import (
    HOSTILE,
    asking,
    clean_gate,
    erring,
    failing,
    gate,
    metric,
    outcomes,
    queried,
    report,
    threat,
    top_two,
    with_pictures,
    with_queries,
)
from test_report_html import page

from robustcheck.report.canvas import BOTTOM, HEIGHT, TOP
from robustcheck.report.queries import MOST_QUERIES, query_curve, smaller_limits_text, success_text
from robustcheck.report.query_plot import query_plot
from robustcheck.results import QueryPoint

FLOOR = HEIGHT - BOTTOM
STRANGE = [float("nan"), float("inf"), float("-inf"), -5, 10**30]


def curved(*steps, limit=1000, **changes):
    """A gate with the given (queries, accuracy) as its curve."""
    curve = tuple(QueryPoint(queries=queries, accuracy=accuracy) for queries, accuracy in steps)
    return gate(**{"id": "nes", "attack": "nes", "threat": threat(queries=limit), "query_curve": curve} | changes)


def found_after(*queries, limit=1000):
    """A gate whose broken samples were found after so many queries."""
    rows = outcomes(len(queries), 1, 1)
    rows = tuple(replace(row, found_after=after) for row, after in zip(rows, (*queries, None, None), strict=True))
    return curved((0, 0.9), limit=limit, samples=rows)


def places(line: str) -> list[tuple[float, float]]:
    """The corners of a line that is drawn in steps."""
    start, *moves = line.split(" H")
    corners = [tuple(map(float, start.removeprefix("M").split()))]
    for move in moves:
        across, _, down = move.partition(" V")
        corners.append((float(across), corners[-1][1]))
        if down:
            corners.append((float(across), float(down)))
    return corners


def at(accuracy: float) -> float:
    return pytest.approx(FLOOR - (FLOOR - TOP) * accuracy, abs=0.06)


# --- numbers ----------------------------------------------------------------------------------------------------


def test_the_accuracy_after_so_many_queries_is_that_of_the_last_step_before():
    curve = query_curve(curved((0, 0.9), (10, 0.7), (400, 0.5), (1000, 0.4)))

    told = [(queries, curve.accuracy_after(queries)) for queries in (0, 9, 10, 399, 400, 999, 1000)]
    assert told == [(0, 0.9), (9, 0.9), (10, 0.7), (399, 0.7), (400, 0.5), (999, 0.5), (1000, 0.4)]


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (50, ""),
        (100, ""),
        (101, "0.700 at 100"),
        (1000, "0.700 at 100, 0.500 at 500"),
        (20_000, "0.700 at 100, 0.500 at 500, 0.500 at 1,000, 0.500 at 5,000, 0.500 at 10,000"),
    ],
)
def test_smaller_limits_are_those_below_the_gates_own(limit, text):
    assert smaller_limits_text(curved((0, 0.9), (10, 0.7), (400, 0.5), limit=limit)) == text


SQUARE = "about, because square spreads its steps, and its restarts, over the whole limit"
SHARED = "a range where another gate broke samples: its queries count at most, none at least; evidence: isolated tells"


def shared(**changes):
    """Ten samples: nine were right, this gate broke two, and others five, after 200, 200, 600 queries and later."""
    own, after = outcomes(7, 2, 1), (10, 400, 200, 200, 600, 700, 900)
    rows = [
        replace(row, found_after=queries, evidence="searched" if place < 2 else "inherited")
        for place, (row, queries) in enumerate(zip(own, after, strict=False))
    ]
    steps = ((0, 0.9), (10, 0.8), (200, 0.6), (400, 0.5), (600, 0.4), (700, 0.3), (900, 0.2))
    metrics = {"accuracy": replace(metric(2), samples=10)}
    return curved(*steps, samples=(*rows, *own[7:]), metrics=metrics, **changes)


def test_where_a_smaller_limit_would_have_left_other_numbers_that_is_said():
    square = curved((0, 0.9), (10, 0.7), attack="square", samples=())

    assert smaller_limits_text(square) == f"0.700 at 100, 0.700 at 500 ({SQUARE})"
    assert smaller_limits_text(shared()) == f"0.300 to 0.800 at 100, 0.200 to 0.500 at 500 ({SHARED})"
    assert smaller_limits_text(shared(attack="square")).endswith(f" ({SQUARE}; {SHARED})")


def test_what_was_misread_before_makes_no_range():
    """The accuracy does not fall by it, whoever broke it."""
    rows = tuple(replace(row, evidence="inherited", found_after=900, clean="other") for row in outcomes(1, 1, 0))
    curve = query_curve(curved((0, 0.5), samples=rows))
    assert curve.least_after(100) == curve.accuracy_after(100) == 0.5


def test_what_others_broke_is_no_range_where_it_cost_nothing_less():
    """At a limit at which all of them count anyway."""
    rows = tuple(replace(row, evidence="inherited", found_after=50) for row in outcomes(1, 1, 0))
    assert smaller_limits_text(curved((0, 0.9), (50, 0.5), samples=rows)) == "0.500 at 100, 0.500 at 500"


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (found_after(7), "median 7, most 7 (1 broken sample)"),
        (found_after(1, 2, 900), "median 2, most 900 (3 broken samples)"),
        (found_after(1, 2), "median 1.5, most 2 (2 broken samples)"),
        (
            found_after(10, 4000, 1_234_567, 2_000_000, limit=MOST_QUERIES),
            "median 619,283.5, most 2,000,000 (4 broken samples)",
        ),
        (found_after(5, None, None), "median 5, most 5 (1 of 3 broken samples)"),
        (found_after(5, *STRANGE), "median 5, most 5 (1 of 6 broken samples)"),
        (found_after(None), ""),
        (found_after(), ""),
    ],
)
def test_queries_to_success_are_those_of_the_broken_samples(one, text):
    assert success_text(one) == text


def test_a_held_sample_is_no_success():
    rows = tuple(replace(row, found_after=3) for row in outcomes(0, 4, 0))

    assert success_text(curved((0, 0.9), samples=rows)) == ""


@pytest.mark.parametrize(
    "one",
    [
        gate(threat=threat(queries=1000)),
        curved((0, 0.9), threat=None),
        curved((0, 0.9), limit=None),
        *(curved((0, 0.9), limit=limit) for limit in [0, *STRANGE]),
        *(curved((queries, 0.9)) for queries in STRANGE),
        curved((0, float("nan"))),
    ],
)
def test_what_cannot_have_been_asked_is_no_curve(one):
    assert query_curve(one) is None
    assert query_plot(report(one)) is None
    assert smaller_limits_text(one) == success_text(one) == ""
    assert len(page(report(one)).of("svg", role="img")) == (1 if one.threat else 0)


def test_steps_that_cannot_be_are_left_out_and_the_others_are_in_order():
    strange = [(queries, 0.1) for queries in STRANGE] + [(20, float("nan")), (1001, 0.2)]
    one = curved((500, 0.5), *strange, (0, 0.9), (1000, 0.4))

    assert [(step.queries, step.accuracy) for step in query_curve(one).steps] == [(0, 0.9), (500, 0.5), (1000, 0.4)]


# --- plot -------------------------------------------------------------------------------------------------------


def test_the_line_falls_in_steps_from_the_clean_accuracy_to_the_limit():
    plot = query_plot(report(curved((0, 0.9), (10, 0.7), (100, 0.5))))
    (series,) = plot.series
    one, ten, hundred, thousand = (tick.at for tick in plot.x_ticks)

    assert places(series.line) == [
        (one, at(0.9)),  # nothing before the first query
        (one, at(0.9)),
        (one, at(0.9)),
        (ten, at(0.9)),
        (ten, at(0.7)),
        (hundred, at(0.7)),
        (hundred, at(0.5)),
        (thousand, at(0.5)),
    ]


def test_a_second_line_shows_what_would_be_left_if_what_others_broke_had_fallen_at_once():
    plot = query_plot(report(shared()))
    (series,) = plot.series
    start, end = places(series.lower)[0], places(series.lower)[-1]

    assert start[1] == at(0.4)
    assert end == (places(series.line)[-1][0], at(0.2))
    assert all(lower >= upper for (_, lower), (_, upper) in zip(places(series.lower), places(series.line), strict=True))
    assert "accuracy 0.300 to 0.800 after 100, 0.200 to 0.500 after 500, " in plot.words
    assert "at least, if what another gate broke had fallen at once" in page(report(shared())).text
    (alone,) = query_plot(report(curved((0, 0.9)))).series
    assert alone.lower is None


def test_the_axis_is_logarithmic_from_one_query_to_the_largest_limit():
    ticks = query_plot(report(queried(), top_two())).x_ticks
    whole = ticks[-1].at - ticks[0].at

    assert [tick.label for tick in ticks] == ["1", "10", "100", "1,000", "5,000", "", "20,000"]
    for tick, queries in zip(ticks, (1, 10, 100, 1000, 5000, 10_000, 20_000), strict=True):
        assert (tick.at - ticks[0].at) / whole == pytest.approx(math.log(queries, 20_000), abs=1e-3)


@pytest.mark.parametrize("limit", [1, 2, 10, MOST_QUERIES])
def test_any_limit_has_an_axis(limit):
    plot = query_plot(report(curved((0, 0.9), limit=limit)))

    assert plot.x_ticks[0].label == "1"
    assert plot.x_ticks[-1].label == f"{limit:,}"
    labelled = [tick for tick in plot.x_ticks if tick.label]
    assert all(one.at - other.at > 20 for other, one in pairwise(labelled))
    assert plot.left <= plot.x_ticks[0].at <= plot.x_ticks[-1].at <= plot.right


def test_a_gate_ends_at_its_limit_with_what_it_measured_and_required():
    plot = query_plot(report(queried(), top_two()))
    (passed,), (failed,) = (series.points for series in plot.series)

    assert (passed.x, failed.x) == (plot.x_ticks[-3].at, plot.x_ticks[-1].at)
    assert (failed.y, failed.low, failed.high, failed.required) == (at(0.61), at(0.57), at(0.65), at(0.7))
    assert (passed.passed, failed.passed) == (True, False)
    for series, point in zip(plot.series, (passed, failed), strict=True):
        assert places(series.line)[-1] == (point.x, pytest.approx(point.y, abs=0.06))


def test_gates_are_lines_in_one_plot_and_styles_repeat():
    plot = query_plot(report(clean_gate(), gate(), *(curved((0, 0.9), id=f"g{order}") for order in range(7))))

    assert [series.name for series in plot.series] == [f"g{order}" for order in range(7)]
    assert [series.style for series in plot.series] == [1, 2, 3, 4, 5, 6, 1]
    assert plot.clean is None


@pytest.mark.parametrize("metrics", [{}, {"accuracy": replace(metric(1), value=None)}])
def test_a_gate_without_an_accuracy_is_not_drawn(metrics):
    assert query_plot(report(curved((0, 0.9), metrics=metrics))) is None


@pytest.mark.parametrize("value", [-5.0, 1e300])
def test_no_accuracy_leaves_the_picture(value):
    (series,) = query_plot(report(curved((0, value), (5, 0.5)))).series

    assert all(TOP <= y <= FLOOR for _, y in places(series.line))


def test_the_words_for_those_who_cannot_see_it_hold_every_gate():
    assert query_plot(report(queried(), top_two(), curved((0, 0.9), limit=1))).words == (
        "square: accuracy 0.938 after 100, 0.912 after 500, 0.892 after 1,000, 0.810 after 5,000 queries "
        "(405 of 500; 95 % interval 0.770 to 0.850), required >= 0.7. "
        "partial: accuracy 0.934 after 100, 0.904 after 500, 0.880 after 1,000, 0.784 after 5,000, 0.712 after 10,000, "
        "0.610 after 20,000 queries (305 of 500; 95 % interval 0.570 to 0.650), required >= 0.7. "
        "nes: accuracy 0.810 after 1 query (405 of 500; 95 % interval 0.770 to 0.850), required >= 0.7."
    )


# --- page -------------------------------------------------------------------------------------------------------


def test_the_page_has_the_plot_after_those_of_the_budget():
    parsed = page(asking())
    titles = re.findall(r"Accuracy against (?:ε|queries|the)[^\n]*", parsed.text)

    assert (
        titles
        == ["Accuracy against the adversary's budget", "Accuracy against ε (L∞)"] + ["Accuracy against queries"] * 2
    )  # its heading and its title
    assert [one["aria-labelledby"] for one in parsed.of("svg", role="img")] == [
        "plot-1-title plot-1-desc",
        "plot-queries-title plot-queries-desc",
    ]
    assert "queries a sample, on a logarithmic scale" in parsed.text
    assert "square: accuracy 0.938 after 100, 0.912 after 500" in parsed.text


def test_a_gate_that_did_not_pass_is_hollow_there():
    marks = [one["class"] for one in page(report(top_two(), verdict="fail")).of("path") if "mark" in one["class"]]

    assert marks == ["mark open", "mark", "mark open"] * 2  # its point, the legend's line, the legend's hollow


@pytest.mark.parametrize("one", [report(clean_gate(), gate(), failing(), verdict="fail"), report(erring())])
def test_without_a_question_the_page_is_silent_about_queries(one):
    text = page(one).text

    assert "Accuracy against queries" not in text
    assert "Queries to success" not in text
    assert "smaller limits" not in text


def test_the_facts_of_a_gate_say_what_queries_bought():
    text = page(report(queried())).text

    assert re.search(r"Queries to success\s*median 1,217, most 4,868 \(75 broken samples\)\s", text)
    assert re.search(r"Accuracy at smaller limits\s*0.938 at 100, 0.912 at 500, 0.892 at 1,000\s", text)


def test_an_example_says_after_how_many_queries_it_was_found(tmp_path):
    text = page(report(with_pictures(queried(), tmp_path, most=2)), tmp_path).text

    assert "found by square, found after 1 query\n" in text
    assert "found after" not in page(report(with_pictures(gate(), tmp_path, most=2)), tmp_path).text


def test_hostile_names_are_one_line_in_the_plot():
    (series,) = query_plot(report(with_queries(curved(id=HOSTILE)))).series

    assert len(series.name.splitlines()) == 1
    assert "\x1b" not in series.name + series.points[0].words
