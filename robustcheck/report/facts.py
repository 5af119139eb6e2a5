"""Facts for page and text: name and value, in the order in which a reviewer asks for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from robustcheck.report.queries import smaller_limits_text, success_text
from robustcheck.report.text import (
    cost_text,
    needed_text,
    parameters_text,
    percent,
    seconds,
    status_text,
)
from robustcheck.report.threat import CAPABILITIES, GOALS, KNOWLEDGE, NORMS, explained, threat_text
from robustcheck.results import AuditReport, DataInfo, GateResult, ModelInfo, Patch
from robustcheck.words import plural

Facts = tuple[tuple[str, str], ...]

_BROKEN_ATTACKS = {"strict": "turn a gate that would pass into an error", "warn": "are only reported"}
_NO_GROUPS = "none named; intervals treat each image as independent"
_MOST_BITS = 64  # in which values could be stored; a report may come from anybody
_KNOWLEDGE = {name: words for name, words in KNOWLEDGE.items() if name != "none"}


def gate_facts(gate: GateResult) -> Facts:
    """How one gate was run."""
    parameters = f" ({parameters_text(gate.parameters)})" if gate.parameters else ""
    facts = {
        "Attack": (gate.attack or "none (clean images)") + parameters,
        "Threat model": threat_text(gate.threat) if gate.threat else "",
        "Samples": status_text(gate) if gate.samples else "",
        "Samples needed": needed_text(gate),
        "Evidence": _evidence(gate),
        "Found by": _found_by(gate),
        "Queries to success": success_text(gate),
        "Accuracy at smaller limits": smaller_limits_text(gate),
        "Cost": cost_text(gate.cost),
    }
    return _with_values(facts)


def patch_facts(patch: Patch) -> Facts:
    """What was laid on the images."""
    facts = {
        "Origin": patch.origin,
        "Size": f"{patch.side:,} × {patch.side:,} pixels",
        "Files": ", ".join(file for file in (patch.picture, patch.array) if file),
        "sha256 of its pixels": patch.sha256,
    }
    return _with_values(facts)


def _with_values(facts: Mapping[str, str]) -> Facts:
    """The facts that have a value."""
    return tuple((name, value) for name, value in facts.items() if value)


def _found_by(gate: GateResult) -> str:
    """Who found the counterexamples; nothing if this gate found all of them by its one attack."""
    found = Counter(
        outcome.found_by + (f" ({outcome.attack})" if outcome.attack and outcome.attack != gate.attack else "")
        for outcome in gate.samples
        if outcome.status == "broken" and outcome.found_by
    )
    if not set(found) - {gate.id}:
        return ""
    return ", ".join(f"{count:,} by {name}" for name, count in found.most_common())


def _evidence(gate: GateResult) -> str:
    """How many of the samples that the adversary was after were searched here, known already, or never begun."""
    evidence = Counter(outcome.evidence for outcome in gate.samples)
    known = f"{evidence['inherited']:,} known from other gates" if evidence["inherited"] else ""
    searched = f"{plural(evidence['searched'], 'sample')} searched in this gate" if evidence["searched"] else ""
    lost = f"{evidence['unstarted']:,} for which no image to start from was found" if evidence["unstarted"] else ""
    return ", ".join(part for part in (searched, known, lost) if part)


def run_facts(report: AuditReport) -> Facts:
    """What was asked, and when."""
    facts = {
        "Policy": report.policy.path,
        "Policy sha256": report.policy.sha256,
        "Started": report.started,
        "Duration": seconds(report.seconds),
        "Seed": str(report.seed),
        "Decision rule": _decision(report),
        "Evidence between gates": report.evidence,
        "Attacks that are shown to be broken": _BROKEN_ATTACKS[report.health] if report.health else "",
    }
    return _with_values(facts)


def _decision(report: AuditReport) -> str:
    kind = f"{report.interval} for rates"
    if report.stop != "never":
        kind = (
            f"beta-mixture, valid at every number of samples, for rates of gates that stop {report.stop}; else {kind}"
        )
    intervals = f"{percent(report.confidence)} intervals ({kind})"
    if report.decision != "confident":
        early = "gates that stopped early were decided by the interval, the others by the estimate; "
        return f"{report.decision}; {early if report.stop == 'early' else ''}{intervals} are reported"
    allowed = ", which the policy allows" if report.inconclusive == "allow" else ""
    return f"{report.decision}: {intervals} decide; a bound inside one leaves its gate inconclusive{allowed}"


def model_facts(model: ModelInfo) -> Facts:
    """What was judged."""
    facts = {
        "Path": model.path,
        "Format": model.format,
        "sha256 over all files": model.sha256,
        "Architecture": _architecture(model),
        "Weights in the file": model.weights or "",
        "Task": model.task,
        "Labels": ", ".join(model.labels),
        "Positive label": model.positive or "none",
        "Operating point": _operating_point(model),
        "Output": model.output or "",
        "Scores of the labels": ", ".join(map(str, model.scores or ())),
        "Preprocessing": parameters_text(model.preprocess or {}),
        "Precision of searches": model.precision or "",
        "Notes": _notes(model.notes),
    }
    return _with_values(facts)


def _notes(notes: Sequence[str]) -> str:
    """Notes on one line, with or without full stops."""
    return "; ".join(note.removesuffix(".") for note in notes)


def _architecture(model: ModelInfo) -> str:
    arguments = parameters_text(model.architecture_args)
    return (model.architecture or "") + (f" ({arguments})" if arguments else "")


def _operating_point(model: ModelInfo) -> str:
    point = model.operating_point
    if point is None:
        return "the label with the highest score"
    if not isinstance(point, tuple):
        return f"{point:g} on the positive label's probability"
    if len(set(point)) == 1:
        return f"{point[0]:g} on each label's probability"
    each = ", ".join(f"{label}: {threshold:g}" for label, threshold in zip(model.labels, point, strict=False))
    return f"on each label's probability ({each})"


def data_facts(data: DataInfo) -> Facts:
    """What it was judged on."""
    by_label = ", ".join(f"{label}: {count:,}" for label, count in data.by_label.items())
    facts = {
        "Source": data.source + (f", split {data.split}" if data.split else ""),
        "sha256 of pixels and labels": data.sha256,
        "Samples": f"{data.samples:,} of {data.available:,} available ({by_label})",
        "Groups": f"{data.groups:,} ({data.group})" if data.groups is not None else _NO_GROUPS,
        "Subgroups": "; ".join(
            f"{column}: {', '.join(f'{value} {count:,}' for value, count in values.items())}"
            for column, values in data.subgroups.items()
        ),
        "Prevalence": _prevalence(data),
        "Stored depth": plural(data.bits, "bit") + _values(data),
        "Shape": " × ".join(map(str, data.shape)) + " (channels, height, width)" if data.shape else "images differ",
        "Synthetic": "yes" if data.synthetic else "no",
        "Notes": _notes(data.notes),
    }
    return _with_values(facts)


def _values(data: DataInfo) -> str:
    """The values that levels stand for; nothing if they are the levels themselves."""
    if not 0 < data.bits <= _MOST_BITS:
        return ""
    lowest, unit = (data.zero, "") if data.hounsfield is None else (data.hounsfield, " HU")
    return f", {lowest} to {lowest + 2**data.bits - 1}{unit}" if lowest or unit else ""


def _prevalence(data: DataInfo) -> str:
    """How common positives are where the candidate will be used, which predictive values are about."""
    shares = data.prevalence or ()
    return ", ".join(f"{share:.6g}" for share in shares) + (" (of each label, in turn)" if len(shares) > 1 else "")


def not_tried(report: AuditReport) -> Iterator[str]:
    """What this report is silent on, as far as the report itself shows it."""
    if report.not_run:
        reason = "the run was interrupted" if report.interrupted else "deselected or not reached"
        yield f"Gates of the policy that were not run ({reason}): {', '.join(report.not_run)}."
    if report.data and report.data.samples < report.data.available:
        yield f"{report.data.available - report.data.samples:,} of {report.data.available:,} available samples."
    # Noise is not an attack, and a gate that could not be evaluated cannot count as having tried anything.
    counting = [gate for gate in report.gates if gate.verdict != "error" and gate.attack != "noise"]
    threats = [gate.threat for gate in counting if gate.threat]
    if not threats:
        yield "Any attack at all."
        return
    for what, known, tried in (
        ("Goals", GOALS, {threat.goal for threat in threats}),
        ("Knowledge", _KNOWLEDGE, {threat.knowledge for threat in threats} - {"none"}),
        ("Capabilities", CAPABILITIES, {threat.capability for threat in threats}),
        ("Norms", NORMS, {threat.norm for threat in threats if threat.norm is not None}),
    ):
        missing = [name for name in known if name not in tried]
        # If one of them is a word that is not known here, what is missing is not known either.
        if missing and tried <= set(known):
            words = (NORMS[name] if known is NORMS else explained(known, name) for name in missing)
            yield f"{what}: {'; '.join(words)}."
    if not any(threat.conditions for threat in threats):
        yield "Viewing conditions: images are judged as they are stored."
