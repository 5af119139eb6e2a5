"""The plot's coordinates: where a gate stands says what it measured."""

import pytest
from report_builder import SURROGATE, TRAINED, clean_gate, failing, gate, metric, report, threat, transferred

from robustcheck.report.canvas import BOTTOM, HEIGHT, TOP
from robustcheck.report.plot import plots
from robustcheck.results import CurvePoint, Metric, Requirement

FLOOR = HEIGHT - BOTTOM


def at(successes: int) -> float:
    """The height of an accuracy of so many in 500."""
    return pytest.approx(FLOOR - (FLOOR - TOP) * successes / 500, abs=0.06)


def only(*gates):
    (plot,) = plots(report(*gates))
    return plot


def test_heights_are_accuracies_intervals_and_requirements():
    (series,) = only(failing()).series
    (point,) = series.points

    assert (point.y, point.low, point.high, point.required) == (at(305), at(285), at(325), at(350))
    assert not point.passed


def test_the_axis_runs_from_nothing_to_everything():
    ticks = only(gate()).y_ticks

    assert (ticks[0].at, ticks[0].label, ticks[-1].at, ticks[-1].label) == (FLOOR, "0.0", TOP, "1.0")


def test_places_are_proportional_to_epsilon_and_named_as_the_policy_does():
    plot = only(*(gate(id=str(levels), threat=threat(levels)) for levels in (8, 2, 4)))
    (series,) = plot.series
    places = [point.x for point in series.points]

    zero, *named = plot.x_ticks
    assert [(tick.at, tick.label) for tick in named] == list(zip(places, ["2/255", "4/255", "8/255"], strict=True))
    assert zero.label == "0"
    assert places[1] - zero.at == pytest.approx(2 * (places[0] - zero.at), abs=0.2)
    assert places[2] - zero.at == pytest.approx(4 * (places[0] - zero.at), abs=0.2)


def test_labels_that_would_run_into_each_other_are_left_out_and_their_ticks_stay():
    ticks = only(*(gate(id=str(levels), threat=threat(levels)) for levels in (1, 2, 31, 32))).x_ticks

    assert [tick.label for tick in ticks] == ["0", "", "2/255", "", "32/255"]


def test_a_line_starts_where_no_attack_was_made():
    plot = only(clean_gate(), gate(id="a", threat=threat(2)), gate(id="b", threat=threat(4)))
    (series,) = plot.series

    assert plot.clean.y == at(430)
    assert plot.clean.x == plot.x_ticks[0].at
    corners = [(plot.clean.x, plot.clean.y), *((point.x, point.y) for point in series.points)]
    assert series.line == "M{} {} L{} {} L{} {}".format(*(number for corner in corners for number in corner))


def test_without_a_clean_gate_a_line_starts_at_its_first_budget():
    plot = only(gate())

    assert plot.clean is None
    assert plot.series[0].line.startswith(f"M{plot.series[0].points[0].x} ")


def test_one_attack_under_two_threat_models_is_two_lines_that_say_how_they_differ():
    plot = only(
        gate(id="a"),
        gate(id="b", threat=threat(goal="missed_finding")),
        gate(id="c", attack="square", threat=threat(knowledge="scores", queries=5000)),
    )

    assert [series.name for series in plot.series] == ["pgd, untargeted", "pgd, missed_finding", "square"]
    assert len({series.style for series in plot.series}) == 3


def test_parameters_that_differ_tell_lines_apart():
    few = {"steps": 10, "restarts": 1}
    plot = only(
        gate(id="a"), gate(id="b", parameters=few), gate(id="c", parameters=few, threat=threat(4)),
        gate(id="d", attack="fgsm", parameters={})
    )  # fmt: skip

    assert [series.name for series in plot.series] == [
        "pgd, steps 40, restarts 2, step_size default, random_start yes", "pgd, steps 10, restarts 1", "fgsm"
    ]  # fmt: skip
    assert [len(series.points) for series in plot.series] == [1, 2, 1]


def test_every_gate_of_a_minimum_norm_attack_has_its_curve():
    one, other = ((CurvePoint(levels=levels, accuracy=0.5),) for levels in (1.0, 2.0))
    (series,) = only(
        gate(id="a", attack="fmn", curve=one), gate(id="b", attack="fmn", threat=threat(4), curve=other)
    ).series

    assert series.line.count("M") == 2


def test_query_limits_tell_lines_apart():
    plot = only(gate(id="a", threat=threat(queries=100)), gate(id="b", threat=threat(queries=5000)))

    assert [series.name for series in plot.series] == ["pgd, 100 queries", "pgd, 5,000 queries"]


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ({"oracle": "float"}, {"oracle": "stored"}, ["pgd, float oracle", "pgd, stored oracle"]),
        ({"top_k": 1}, {"top_k": 2}, ["pgd, top 1", "pgd, top 2"]),
        ({"goal": "targeted", "target": "a"}, {"goal": "targeted", "target": "b"}, ["pgd, a", "pgd, b"]),
        (
            {"goal": "missed_finding", "finding": "mass"},
            {"goal": "missed_finding", "finding": "nodule"},
            ["pgd, mass", "pgd, nodule"],
        ),
    ],
)
def test_what_a_query_answers_and_what_is_wanted_tell_lines_apart(one, other, names):
    plot = only(gate(id="a", threat=threat(**one)), gate(id="b", threat=threat(**other)))

    assert [series.name for series in plot.series] == names


def test_surrogates_tell_lines_apart():
    plot = only(transferred(id="a", surrogates=(SURROGATE,)), transferred(id="b", surrogates=(TRAINED,)))

    assert [series.name for series in plot.series] == [
        "transfer, models/densenet.safetensors",
        "transfer, torchvision.models:resnet18 (10 epochs on the data's labels)",
    ]


def test_only_a_requirement_on_accuracy_is_drawn():
    (series,) = only(gate(requirements=(Requirement(metric="sensitivity", bound=">= 0.9", met=True),))).series

    assert series.points[0].required is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -5.0, 1e300])
def test_no_number_leaves_the_picture(value):
    strange = Metric(value=0.5, low=value, high=value, samples=1)
    (series,) = only(gate(metrics={"accuracy": strange})).series

    assert TOP <= series.points[0].low <= FLOOR
    assert TOP <= series.points[0].high <= FLOOR


def test_the_words_for_those_who_cannot_see_it_hold_every_gate():
    words = only(clean_gate(), gate(), failing(metrics={"accuracy": metric(305)})).words

    assert (
        "clean without an attack: accuracy 0.860 (430 of 500; 95 % interval 0.820 to 0.900), required >= 0.7" in words
    )
    assert "pgd[2/255] at ε = 2/255: accuracy 0.810" in words
    assert "pgd[4/255] at ε = 2/255: accuracy 0.610" in words
