"""A report's evidence, read again: counterexamples that do not rest on the run that found them.

Nothing is searched. For each broken sample, the stored image is compared with its digest, its distance is measured from
the sample in the data, and the artefact reads it (`counterexamples`). Clean readings are compared too, figures are
counted and gates judged again (`recounting`), each gate is compared with those that share its counterexamples
(`ladders`), and so is what is said about policy, candidate and data (`heading`). None of this shows that a sample held:
for that, the policy has to be run again.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from robustcheck.errors import ReportError
from robustcheck.evaluation.adversary import goal_of
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.failures import as_evaluation_error
from robustcheck.evaluation.progress import Listener, silent
from robustcheck.evaluation.replay.counterexamples import DRAWS, Reader, ReadStored, Stated
from robustcheck.evaluation.replay.heading import as_stated, faults_of_report
from robustcheck.evaluation.replay.ladders import faults_of_ladder
from robustcheck.evaluation.replay.patches import Row
from robustcheck.evaluation.replay.recounting import faults_of_gate, is_as_asked, not_counted, unknown_gate
from robustcheck.evaluation.replay.restating import NEAR, better_by
from robustcheck.evaluation.setting import Setting
from robustcheck.models.artefact import digest
from robustcheck.models.process_settings import fitting_threads, full_precision, left_as_found
from robustcheck.policy import Gate, Policy
from robustcheck.results import AuditReport, GateResult, Outcome
from robustcheck.results.replay import GateReplay, Replay
from robustcheck.words import plural, shown


@fitting_threads()
def replay(policy: Policy, report: AuditReport, stored: ReadStored, *, progress: Listener | None = None) -> Replay:
    """Check a report against its policy, candidate and data.

    Args:
        policy: that the report is about.
        report: what is stated.
        stored: reads the counterexamples' files.
        progress: told how far it is.

    Raises:
        ReportError: it is about another policy, candidate or data, or has a gate that its policy does not have.
        EvaluationError: candidate or data cannot be loaded, or the candidate fails.
    """
    _same("policy", report.policy.sha256, policy.sha256)
    _same_files(policy, report)
    evaluation = Evaluation(policy, progress=progress)
    setting = evaluation.setting
    _same("candidate", *(one.sha256 if one else None for one in (report.model, evaluation.model)))
    _same("data", *(one.sha256 if one else None for one in (report.data, evaluation.data)))
    if (name := unknown_gate(policy, report)) is not None:
        raise ReportError(f"the report has a gate {name}, which its policy does not have")
    worded = report.environment.get("robustcheck") == version("pytest-robustcheck")
    tell, found = progress or silent, list[tuple[GateReplay, Stated]]()
    gates, results = {gate.id: gate for gate in policy.gates}, {result.id: result for result in report.gates}
    for number, result in enumerate(report.gates):
        tell("counting again", number, len(report.gates))
        weaker = [(gate, results[gate.id]) for gate in evaluation.weaker(result.id) if gate.id in results]
        others = [other for gate, other in weaker if is_as_asked(gate, other, setting)]
        asked = gates[result.id]
        with as_evaluation_error(), left_as_found(), full_precision(setting.candidate.device):
            found.append(_counted_again(asked, result, others, setting.about(asked.finding), worded=worded))
    with as_evaluation_error(), left_as_found(), full_precision(setting.candidate.device):
        _read_again([stated for _, stated in found], evaluation, stored, tell)
    return Replay(
        gates=tuple(
            replace(
                gate,
                read=stated.read,
                not_read=stated.not_read,
                amiss=(*gate.amiss, *stated.amiss, *faults_of_ladder(evaluation, gate.id, results)),
            )
            for gate, stated in found
        ),
        amiss=tuple(faults_of_report(evaluation, report)),
        not_run=report.not_run,
        as_stated=as_stated(evaluation, report),
    )


def _same(what: str, stated: str | None, here: str | None) -> None:
    if stated != here:
        raise ReportError(f"the report is about another {what}: its sha256 is {shown(stated)}, and here it is {here}")


def _same_files(policy: Policy, report: AuditReport) -> None:
    """Compare the candidate's files, and its code beside the policy, before any of them is run."""
    if report.model is None:
        raise ReportError("the report is about no candidate: none was loaded, and nothing was attacked")
    home = (policy.folder / policy.model.path).parent
    for stated in report.model.files:
        # File names start from the folder as it is written, so `../` must not follow a link.
        file = Path(os.path.abspath(home / stated.path))  # noqa: PTH100 - resolving follows it
        if not file.is_file():  # reading a pipe would not end
            here = "no file"
        elif (size := file.stat().st_size) != stated.bytes:  # nor would reading some that the system makes
            here = f"another, of {size:,} bytes"
        else:  # the size of a system's own file means nothing: one without a size is not read
            here = digest([file], home)[1][0].sha256 if size else hashlib.sha256().hexdigest()
        if here != stated.sha256:
            raise ReportError(
                f"the report is about another candidate: the sha256 of {shown(stated.path)} is {shown(stated.sha256)}, "
                f"and here it is {here}"
            )


def _counted_again(
    gate: Gate, result: GateResult, others: Sequence[GateResult], setting: Setting, *, worded: bool
) -> tuple[GateReplay, Stated]:
    """What came of a gate before its counterexamples are read, and what is stated about these."""
    amiss, rows = list(faults_of_gate(gate, result, others, setting, worded=worded)), list[Row]()
    numbers = {name: place for place, name in enumerate(setting.samples.names)}
    for outcome in result.samples:
        place = numbers.get(outcome.sample)
        if place is None:
            continue  # which was said
        amiss += [f"{outcome.sample}: {sentence}" for sentence in _unattacked(gate, outcome, place, setting)]
        if outcome.status == "broken":
            rows.append((outcome, place))
    counted = GateReplay(
        id=gate.id,
        stated=len(rows),
        read=0,
        amiss=tuple(amiss),
        not_compared=_read_otherwise(result, numbers, setting) if setting.candidate.randomness is not None else "",
        held=sum(one.status == "held" and one.evidence is not None for one in result.samples),
        not_counted=not_counted(gate, result, setting, beside=bool(others)),
    )
    return counted, Stated(gate=gate, patch=result.patch, rows=rows)


def _read_again(every: Sequence[Stated], evaluation: Evaluation, stored: ReadStored, tell: Listener) -> None:
    """Read the counterexamples of all gates; those that gates share only once."""
    families, done = dict[str, list[Stated]](), 0
    for one in every:
        families.setdefault(evaluation.family(one.gate.id)[0].id, []).append(one)
    setting = evaluation.setting
    readers = [Reader(gates, setting.about(gates[0].gate.finding), stored) for gates in families.values()]
    of = sum(map(len, readers))
    for reader in readers:
        for count in reader.read():
            tell("reading again", done := done + count, of)


def _read_otherwise(result: GateResult, places: Mapping[str, int], setting: Setting) -> str:
    """How many clean readings of a candidate that draws differ from the report."""
    head, clean = setting.candidate.head, {one.sample: one.clean for one in result.samples if one.sample in places}
    others = sum(head.name(int(setting.decisions[places[name]])) != stated for name, stated in clean.items())
    return f"{DRAWS}; here {others} of {plural(len(clean), 'sample')} are read differently"


def _unattacked(gate: Gate, outcome: Outcome, place: int, setting: Setting) -> Iterator[str]:
    """What is amiss with a sample before the attack."""
    head = setting.candidate.head
    label, clean = head.name(int(setting.labels[place])), head.name(int(setting.decisions[place]))
    if label != outcome.label:
        yield f"its label is {label}, but the report says {outcome.label}"
    if outcome.status != "broken" and outcome.attacked != outcome.clean:
        yield f"nothing turned it, but the report says that it is read as {outcome.attacked} after {outcome.clean}"
    if setting.candidate.randomness is not None:
        return  # it is read differently each time
    if clean != outcome.clean:
        yield f"the clean image is read as {clean}, but the report says {outcome.clean}"
        return
    at = slice(place, place + 1)
    attackable = gate.attack is not None and bool(
        goal_of(gate, setting).attackable(setting.decisions[at], setting.labels[at])
    )
    if not attackable and (outcome.evidence is not None or outcome.status == "broken"):
        yield "it was not to be attacked: the clean image is read as the adversary wants, or the goal spares it"
    elif attackable and outcome.evidence is None:
        yield "it was to be attacked, but the report says that it was not"
    elif not attackable and (outcome.status == "wrong") != (label != clean):
        read = "correctly" if label == clean else "wrongly"
        yield f"the clean image is read {read}, but the report says that it is not"
    elif setting.positive_probabilities is not None and outcome.score is not None and outcome.status != "broken":
        score, positive = float(setting.positive_probabilities[place]), head.is_positive(int(setting.labels[place]))
        better = better_by(outcome.score, score, positive=positive)
        # No score under attack is better than that of the clean image, and without an attack there is no other.
        if math.isfinite(score) and (not better <= NEAR or (better < -NEAR and outcome.evidence is None)):
            yield f"the clean image has the score {score:.4g}, but the report says {outcome.score:.4g}"
