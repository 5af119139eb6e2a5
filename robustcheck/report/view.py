"""What the HTML template shows, computed beforehand: the template only lays it out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustcheck.report.canvas import Plot
from robustcheck.report.facts import Facts, data_facts, gate_facts, model_facts, not_tried, patch_facts, run_facts
from robustcheck.report.found_elsewhere import found_elsewhere
from robustcheck.report.gate import metric_of, requirement_state, verdict_sentence
from robustcheck.report.pictures import Album, Example, Gallery, PatchPicture, gallery, link_to, patch_picture
from robustcheck.report.plot import plots
from robustcheck.report.queries import queries_text
from robustcheck.report.query_plot import query_plot
from robustcheck.report.summary import summary_line
from robustcheck.report.tables import (
    GridView,
    MeasuredCell,
    SlicesView,
    control_rows,
    grid_view,
    slices_views,
    surrogate_row,
)
from robustcheck.report.text import (
    confidence_of,
    date_text,
    interval,
    levels,
    meaning_of,
    measured_value,
    number,
    percent,
    seconds,
    status_counts,
    status_text,
    support_count,
)
from robustcheck.report.threat import budget_text, unlike_most
from robustcheck.results import AuditReport, GateResult, Surrogate, Threat, Verdict
from robustcheck.results.agreed import EXAMPLES_A_GATE
from robustcheck.words import plural, visible

REASONS = 5  # gates that are named at once, with why they are no passes
PICTURES_IN_ALL = 60  # examples, at most half a MB each, and patches

_COLUMN = 150  # CSS pixels that a picture has where two examples stand side by side
_HEAVIEST_FIRST: tuple[Verdict, ...] = ("error", "fail", "inconclusive")

BANNERS: dict[Verdict, tuple[str, str]] = {
    "pass": ("Pass", "Every gate that was run met its requirements."),
    "fail": ("Fail", "At least one gate did not meet its requirements."),
    "inconclusive": ("Inconclusive", "At least one gate could not be decided with the required confidence."),
    "error": ("Error", "Not everything could be evaluated, so the run shows nothing about the candidate as a whole."),
}


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A banner below the verdict's."""

    kind: str
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class RequirementView:
    """A requirement and what was measured, as one row says it."""

    metric: str
    bound: str
    value: str
    interval: str
    state: str


@dataclass(frozen=True, kw_only=True)
class MetricView:
    """A metric of a gate."""

    name: str
    meaning: str
    value: str
    interval: str
    count: str
    required: str
    state: str  # of the requirement; "" without one


@dataclass(frozen=True, kw_only=True)
class ExampleView:
    """A broken sample: three pictures and what is said about them."""

    picture: Example
    amplified: str
    details: str
    clean_link: str
    attacked_link: str
    wide: bool  # it has more pixels than a column has room for


@dataclass(frozen=True, kw_only=True)
class GateView:
    """A gate: its row in the table and its section."""

    anchor: str
    gate: GateResult
    confidence: str  # of its intervals
    attack: str
    budget: str
    sentence: str
    error: str
    counts: str
    elsewhere: str  # how much of it other gates found, if that is the larger part
    seconds: str
    requirements: tuple[RequirementView, ...]
    metrics: tuple[MetricView, ...]
    facts: Facts
    surrogates: tuple[tuple[Surrogate, tuple[MeasuredCell, ...]], ...]
    controls: tuple[tuple[str, str, str, str], ...]
    patch: PatchPicture
    patch_link: str
    patch_facts: Facts
    grid: GridView | None
    slices: tuple[SlicesView, ...]
    examples: tuple[ExampleView, ...]
    examples_note: str


@dataclass(frozen=True, kw_only=True)
class ReportView:
    """All of the page."""

    report: AuditReport
    banner: str
    explanation: str
    summary: str
    date: str
    notices: tuple[Notice, ...]
    plots: tuple[Plot, ...]
    query_plot: Plot | None
    gates: tuple[GateView, ...]
    reasons: tuple[GateView, ...]  # the first of the gates that are no passes
    more_reasons: int
    not_tried: tuple[str, ...]
    confidence: str
    run: Facts
    model: Facts
    data: Facts


def report_view(report: AuditReport, folder: Path | None) -> ReportView:
    """Compute the page; pictures come from `folder`, and there are none without one."""
    banner, explanation = BANNERS[report.verdict]
    undecided = sum(gate.verdict == "inconclusive" for gate in report.gates)
    if report.green and undecided:
        rest = "no gate failed" if report.verdict == "pass" else "no gate passed, and none failed"
        explanation = f"{plural(undecided, 'gate')} could not be decided, which the policy allows; {rest}."
    failed = sum(gate.verdict == "fail" for gate in report.gates)
    if report.verdict == "error" and failed:
        others = any(gate.verdict == "error" for gate in report.gates)
        left = "others could not be evaluated" if others else "the run was stopped before its end"
        explanation = f"{plural(failed, 'gate')} failed, and {left}."
    with_pictures = sum(any(outcome.status == "broken" for outcome in gate.samples) for gate in report.gates)
    patches = sum(gate.patch is not None for gate in report.gates)
    most = max(1, min(EXAMPLES_A_GATE, (PICTURES_IN_ALL - patches) // max(1, with_pictures)))
    bits = report.data.bits if report.data else None
    album = Album(folder, bits, PICTURES_IN_ALL) if folder else None
    # First, so that samples have what room they leave.
    patches_shown = [patch_picture(gate, album) if album else PatchPicture() for gate in report.gates]
    gates = tuple(
        _gate(gate, report.gates, f"gate-{order}", patch, gallery(gate, album, most) if album else Gallery())
        for order, (gate, patch) in enumerate(zip(report.gates, patches_shown, strict=True), 1)
    )
    reasons = [item for verdict in _HEAVIEST_FIRST for item in gates if item.gate.verdict == verdict]
    return ReportView(
        report=report,
        banner=banner,
        explanation=explanation,
        summary=summary_line(report).partition(": ")[2],
        date=date_text(report.started),
        notices=tuple(_notices(report)),
        plots=tuple(plots(report)),
        query_plot=query_plot(report),
        gates=gates,
        reasons=tuple(reasons[:REASONS]),
        more_reasons=len(reasons[REASONS:]),
        not_tried=tuple(not_tried(report)),
        confidence=percent(report.confidence),
        run=run_facts(report),
        model=model_facts(report.model) if report.model else (),
        data=data_facts(report.data) if report.data else (),
    )


def _notices(report: AuditReport) -> Iterator[Notice]:
    if report.data and report.data.synthetic:
        text = "The images are generated. The result says nothing about any patient."
        yield Notice(kind="synthetic", title="Synthetic data", text=text)
    if report.interrupted:
        text = "The run was stopped before its end. Gates below were finished; the others were not reached."
        yield Notice(kind="error", title="Interrupted", text=text)
    if report.not_run:
        were = "was" if len(report.not_run) == 1 else "were"
        text = f"{plural(len(report.not_run), 'gate')} of the policy {were} not run."
        yield Notice(kind="inconclusive", title="Partial", text=text)
    warnings = sum(finding.severity == "warning" for gate in report.gates for finding in gate.findings)
    if warnings:
        text = f"{plural(warnings, 'warning')} about the gates should be read before you rely on the verdict."
        yield Notice(kind="inconclusive", title="Warnings", text=text)


def _gate(
    gate: GateResult, gates: Sequence[GateResult], anchor: str, patch: PatchPicture, pictures: Gallery
) -> GateView:
    return GateView(
        anchor=anchor,
        gate=gate,
        confidence=confidence_of(gate),
        attack=gate.attack or "no attack",
        budget=", ".join((budget_text(gate.threat), *unlike_most(gate.threat))) if gate.threat else "",
        sentence=verdict_sentence(gate),
        error="\n".join(visible(gate.error).strip().splitlines()[1:]) if gate.error else "",
        counts=status_text(gate).removesuffix(" before the attack") if gate.samples else "",
        elsewhere=found_elsewhere(gate, gates),
        seconds=seconds(gate.cost.seconds),
        requirements=_requirements(gate),
        metrics=_metrics(gate),
        facts=gate_facts(gate),
        surrogates=tuple(surrogate_row(surrogate) for surrogate in gate.surrogates),
        controls=tuple(control_rows(gate)),
        patch=patch,
        patch_link=link_to(gate.patch.picture or gate.patch.array or "") if gate.patch else "",
        patch_facts=patch_facts(gate.patch) if gate.patch else (),
        grid=grid_view(gate),
        slices=tuple(slices_views(gate)),
        examples=tuple(_example(example, gate.threat) for example in pictures.examples),
        examples_note=_examples_note(gate, pictures),
    )


def _requirements(gate: GateResult) -> tuple[RequirementView, ...]:
    return tuple(
        RequirementView(
            metric=requirement.metric,
            bound=requirement.bound,
            value=measured_value(metric_of(gate, requirement), requirement),
            interval=interval(metric_of(gate, requirement), requirement),
            state=requirement_state(gate, requirement),
        )
        for requirement in gate.requirements
    )


def _metrics(gate: GateResult) -> tuple[MetricView, ...]:
    required = {requirement.metric: requirement for requirement in gate.requirements}
    return tuple(
        MetricView(
            name=name,
            meaning=meaning_of(name, None if gate.threat is None else gate.threat.finding),
            value=measured_value(metric, required.get(name)),
            interval=interval(metric, required.get(name)) or "not computed",
            count=support_count(metric),
            required=required[name].bound if name in required else "",
            state=requirement_state(gate, required[name]) if name in required else "",
        )
        for name, metric in gate.metrics.items()
    )


def _example(example: Example, threat: Threat | None) -> ExampleView:
    outcome = example.outcome
    details = [f"labelled {outcome.label}", f"largest change {plural(example.changed_levels, 'grey level')}"]
    if outcome.distance_levels is not None and outcome.distance_levels != example.changed_levels:
        details.append(f"distance {levels(outcome.distance_levels)}")
    if outcome.score is not None:
        about = "the positive label" if threat is None or threat.finding is None else visible(threat.finding)
        details.append(f"probability of {about} {number(outcome.score)}")
    if outcome.share is not None:
        details.append(f"holds on {number(outcome.share)} of the looks")
    if outcome.found_by:
        details.append(f"found by {outcome.found_by}")
    if outcome.found_after is not None:
        details.append(f"found after {queries_text(outcome.found_after)}")
    return ExampleView(
        picture=example,
        amplified=f"×{example.amplification:.3g}",
        details=", ".join(details),
        clean_link=link_to(example.clean_file),
        attacked_link=link_to(outcome.counterexample or ""),
        wide=max(example.width, example.height) > _COLUMN,
    )


def _examples_note(gate: GateResult, pictures: Gallery) -> str:
    broken = status_counts(gate)["broken"]
    notes = []
    if pictures.examples:
        notes.append(f"{len(pictures.examples)} of {plural(broken, 'broken sample')}; report.json lists all of them.")
        notes.append("In the difference, mid-grey means no change.")
    if any(example.reduced for example in pictures.examples):
        notes.append("Pictures are shown smaller than they are stored; the files beside this report are full size.")
    if any(example.stretched for example in pictures.examples):
        notes.append("Images that use few of their levels are stretched from their darkest to their brightest level.")
    if pictures.full:
        notes.append(f"A page shows {PICTURES_IN_ALL} pictures of samples and patches at most; others are left out.")
    if pictures.not_as_judged:
        left_out = plural(pictures.not_as_judged, "picture")
        notes.append(f"{left_out} left out: the file is not the one that was judged (its digest differs).")
    return " ".join(notes)
