"""A report's evidence, read again: counterexamples that do not rest on the run that found them.

Nothing is searched. Of each broken sample the stored image is compared with its digest, its distance is measured from
the sample in the data, and the artefact reads it. Clean readings are compared too, figures are counted and gates judged
again (`recounting`), each gate is put beside those that it shares counterexamples with (`ladders`), and what is said of
policy, candidate and data is compared (`heading`). That a sample held is not shown by this: for that, the policy has to
be run again.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from robustcheck.attacks.draws import Draws
from robustcheck.digests import pixels_sha256
from robustcheck.errors import ReportError
from robustcheck.evaluation.adversary import ball_of_gate, goal_of
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.failures import as_evaluation_error
from robustcheck.evaluation.looks.choice import viewer_of
from robustcheck.evaluation.looks.look import Once, Viewer
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.progress import Listener
from robustcheck.evaluation.replay.figures import REL_TOLERANCE
from robustcheck.evaluation.replay.heading import as_stated, faults_of_report
from robustcheck.evaluation.replay.ladders import faults_of_ladder
from robustcheck.evaluation.replay.patches import Row, given_patch, places
from robustcheck.evaluation.replay.recounting import faults_of_gate, is_as_asked, not_counted, unknown_gate
from robustcheck.evaluation.replay.restating import NEAR, better_by
from robustcheck.evaluation.setting import Setting
from robustcheck.models.artefact import digest
from robustcheck.models.batches import batches
from robustcheck.models.grey_levels import shares_of
from robustcheck.models.process_settings import fitting_threads, full_precision, left_as_found
from robustcheck.policy import Gate, PatchSpec, Policy, RP2Spec
from robustcheck.results import AuditReport, GateResult, Outcome
from robustcheck.results.replay import GateReplay, Replay
from robustcheck.threats import Ball
from robustcheck.words import plural, shown

ReadStored = Callable[[str, int], np.ndarray | None]
"""Reads the stored integers (C, H, W) of a counterexample: its file, as the report names it, and how many they are at
most. None if it is not there, or no stored image."""

_DRAWS = "the candidate draws, and reads an image differently each time"


@fitting_threads()
def replay(policy: Policy, report: AuditReport, stored: ReadStored, *, progress: Listener | None = None) -> Replay:
    """Check a report against its policy, candidate and data.

    Args:
        policy: that the report is about.
        report: what is stated.
        stored: reads the counterexamples' files.
        progress: told how far it is.

    Raises:
        ReportError: it is about another policy, candidate or data, or has a gate that its policy has not.
        EvaluationError: candidate or data cannot be loaded, or the candidate fails.
    """
    _same("policy", report.policy.sha256, policy.sha256)
    _same_files(policy, report)
    evaluation = Evaluation(policy, progress=progress)
    setting = evaluation.setting
    _same("candidate", *(one.sha256 if one else None for one in (report.model, evaluation.model)))
    _same("data", *(one.sha256 if one else None for one in (report.data, evaluation.data)))
    if (name := unknown_gate(policy, report)) is not None:
        raise ReportError(f"the report has a gate {name}, which its policy has not")
    worded = report.environment.get("robustcheck") == version("pytest-robustcheck")
    gates, found = {gate.id: gate for gate in policy.gates}, list[GateReplay]()
    results = {result.id: result for result in report.gates}
    for number, result in enumerate(report.gates):
        if progress is not None:
            progress("reading again", number, len(report.gates))
        weaker = [(gate, results[gate.id]) for gate in evaluation.weaker(result.id) if gate.id in results]
        others = [other for gate, other in weaker if is_as_asked(gate, other, setting)]
        asked = gates[result.id]
        with as_evaluation_error(), left_as_found(), full_precision(setting.candidate.device):
            gate = _read_again(asked, result, others, setting.about(asked.finding), stored, worded=worded)
        found.append(replace(gate, amiss=(*gate.amiss, *faults_of_ladder(evaluation, result.id, results))))
    return Replay(
        gates=tuple(found),
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
        # Files are named from the folder as it is written, so `../` does not follow the link that it may be.
        file = Path(os.path.abspath(home / stated.path))  # noqa: PTH100 - resolving follows it
        if not file.is_file():  # reading a pipe would not end
            here = "no file"
        elif (size := file.stat().st_size) != stated.bytes:  # nor would reading some that the system makes
            here = f"another, of {size:,} bytes"
        else:  # of a file of the system its size says nothing: what has none is not read
            here = digest([file], home)[1][0].sha256 if size else hashlib.sha256().hexdigest()
        if here != stated.sha256:
            raise ReportError(
                f"the report is about another candidate: the sha256 of {shown(stated.path)} is {shown(stated.sha256)}, "
                f"and here it is {here}"
            )


def _read_again(
    gate: Gate, result: GateResult, others: Sequence[GateResult], setting: Setting, stored: ReadStored, *, worded: bool
) -> GateReplay:
    amiss, rows = list(faults_of_gate(gate, result, others, setting, worded=worded)), list[Row]()
    amiss += given_patch(gate, result, setting)
    numbers = {name: place for place, name in enumerate(setting.samples.names)}
    for outcome in result.samples:
        place = numbers.get(outcome.sample)
        if place is None:
            continue  # which was said
        amiss += [f"{outcome.sample}: {sentence}" for sentence in _unattacked(gate, outcome, place, setting)]
        if outcome.status == "broken":
            rows.append((outcome, place))
    reader = _Reader(gate, setting, stored)
    limit = max(1, setting.candidate.chunks.limit // reader.viewer.at_once)
    for alike in batches(rows, lambda row: setting.samples.shape_of(row[1]), limit):
        amiss += reader.amiss(alike)
    return GateReplay(
        id=gate.id,
        stated=len(rows),
        read=reader.read,
        amiss=tuple(amiss),
        not_read=reader.not_read if rows else "",
        not_compared=_read_otherwise(result, numbers, setting) if setting.candidate.randomness is not None else "",
        held=sum(one.status == "held" and one.evidence is not None for one in result.samples),
        not_counted=not_counted(gate, result, setting, beside=bool(others)),
    )


def _read_otherwise(result: GateResult, places: Mapping[str, int], setting: Setting) -> str:
    """How many clean readings of a candidate that draws differ from the report's."""
    head, clean = setting.candidate.head, {one.sample: one.clean for one in result.samples if one.sample in places}
    others = sum(head.name(int(setting.decisions[places[name]])) != stated for name, stated in clean.items())
    return f"{_DRAWS}; of {plural(len(clean), 'sample')} {others} are read otherwise here"


def _unattacked(gate: Gate, outcome: Outcome, place: int, setting: Setting) -> Iterator[str]:
    """What is amiss with a sample before the attack."""
    head = setting.candidate.head
    label, clean = head.name(int(setting.labels[place])), head.name(int(setting.decisions[place]))
    if label != outcome.label:
        yield f"its label is {label}, and the report says {outcome.label}"
    if outcome.status != "broken" and outcome.attacked != outcome.clean:
        yield f"nothing turned it, and the report says that it is read as {outcome.attacked} after {outcome.clean}"
    if setting.candidate.randomness is not None:
        return  # it is read differently each time
    if clean != outcome.clean:
        yield f"the clean image is read as {clean}, and the report says {outcome.clean}"
        return
    at = slice(place, place + 1)
    attackable = gate.attack is not None and bool(
        goal_of(gate, setting).attackable(setting.decisions[at], setting.labels[at])
    )
    if (outcome.evidence is not None and not attackable) or (outcome.status == "broken" and not attackable):
        yield "it was not to be attacked: the clean image is read as the adversary wants, or the goal spares it"
    elif attackable and outcome.evidence is None:
        yield "it was to be attacked, and the report says that it was not"
    elif not attackable and (outcome.status == "wrong") != (label != clean):
        read = "rightly" if label == clean else "wrongly"
        yield f"the clean image is read {read}, and the report says that it is not"
    elif setting.positive_probabilities is not None and outcome.score is not None and outcome.status != "broken":
        score, positive = float(setting.positive_probabilities[place]), head.is_positive(int(setting.labels[place]))
        better = better_by(outcome.score, score, positive=positive)
        # An attack leaves none that is better than that of the clean image, and without an attack there is no other.
        if math.isfinite(score) and (not better <= NEAR or (better < -NEAR and outcome.evidence is None)):
            yield f"the clean image has the score {score:.4g}, and the report says {outcome.score:.4g}"


def _alike(score: float, stated: float | None) -> bool:
    """Whether a score is as it is stated, which one that is no number is not."""
    return not math.isfinite(score) if stated is None else abs(score - stated) <= NEAR


class _Reader:
    """Reads a gate's counterexamples, and counts those that the candidate read."""

    def __init__(self, gate: Gate, setting: Setting, stored: ReadStored) -> None:
        self._setting, self._stored, self._gate = setting, stored, gate
        self._ball: Ball | None = None if gate.size is not None or gate.attack is None else ball_of_gate(gate, setting)
        goal, maximum = goal_of(gate, setting), setting.samples.maximum
        self.viewer: Viewer = viewer_of(gate, setting.candidate, goal, maximum=maximum)
        self.read = 0

    @property
    def not_read(self) -> str:
        """Why one more look at a counterexample would show nothing; "": it shows all."""
        if self._gate.conditions is not None and not isinstance(self._gate.attack, RP2Spec):
            return "they hold on a share of looks, each under conditions of its own"
        return _DRAWS if self._setting.candidate.randomness is not None else ""

    def amiss(self, rows: Sequence[Row]) -> list[str]:
        """What is amiss with counterexamples of samples of one shape."""
        found, known, images = list[str](), list[Row](), list[np.ndarray]()
        for outcome, place in rows:
            image = self._image(outcome, place)
            if isinstance(image, str):
                found.append(f"{outcome.sample}: {image}")
            else:
                known.append((outcome, place))
                images.append(image)
                found += self._clean(outcome, place)
        if known:
            levels = torch.from_numpy(np.stack(images).astype(np.int32))
            found += self._distances(known, levels)
            if isinstance(self._gate.attack, PatchSpec):
                found += places(PatchTask.of(self._gate, self._setting), known, levels)
            if not self.not_read:
                found += self._readings(known, levels)
        return found

    def _image(self, outcome: Outcome, place: int) -> np.ndarray | str:
        """The counterexample of a sample, or what is wrong with its file."""
        shape, maximum = self._setting.samples.shape_of(place), self._setting.samples.maximum
        image = None if outcome.counterexample is None else self._stored(outcome.counterexample, math.prod(shape))
        if image is None:
            return "its counterexample has no file, or one that is no stored image of the sample's size"
        if pixels_sha256(image) != outcome.sha256:
            return "the pixels in its file are not those whose digest the report states"
        if image.shape != shape or int(image.max()) > maximum:
            return "its counterexample has another shape, or other levels, than samples have"
        return image

    def _clean(self, outcome: Outcome, place: int) -> Iterator[str]:
        """What is amiss with the picture that a page shows beside a counterexample, where there is one."""
        image = self._setting.samples.image(place)
        for name in outcome.clean_files:
            shown_beside = self._stored(name, image.size)
            if shown_beside is not None and not np.array_equal(shown_beside, image):
                yield f"{outcome.sample}: the clean image in {shown(name)} is not the sample's"

    def _distances(self, rows: Sequence[Row], levels: torch.Tensor) -> Iterator[str]:
        if self._ball is None:
            return
        clean = np.stack([self._setting.samples.image(place) for _, place in rows]).astype(np.int32)
        pair = levels, torch.from_numpy(clean)
        inside = self._ball.contains(*pair).tolist()
        for (outcome, _), distance, within in zip(rows, self._ball.distance(*pair).tolist(), inside, strict=True):
            stated = outcome.distance_levels
            if not within or not distance:
                yield f"{outcome.sample}: its counterexample lies outside of the budget, {distance:g} levels off"
            elif stated is None or not math.isclose(distance, stated, rel_tol=REL_TOLERANCE):
                told = "nothing" if stated is None else f"{stated:g}"
                yield f"{outcome.sample}: its counterexample lies {distance:g} levels off, and the report says {told}"

    def _readings(self, rows: Sequence[Row], levels: torch.Tensor) -> Iterator[str]:
        candidate, labels = self._setting.candidate, self._setting.labels[[place for _, place in rows]]
        images = shares_of(levels.to(candidate.device), self._setting.samples.maximum)
        none = torch.zeros(len(rows), dtype=torch.int64, device=candidate.device)  # a look that is not drawn
        seen = self.viewer(images, labels.to(candidate.device), Draws(keys=none), none)
        self.read += len(rows)
        once = seen.score if isinstance(self.viewer, Once) else None  # means over looks are of looks that were drawn
        scores = [None] * len(rows) if once is None else once.tolist()
        for (outcome, _), decision, wanted, score in zip(
            rows, seen.decision.tolist(), seen.wanted.tolist(), scores, strict=True
        ):
            name = candidate.head.name(decision)
            if name != outcome.attacked:
                yield f"{outcome.sample}: its counterexample is read as {name}, and the report says {outcome.attacked}"
            elif not wanted:
                yield f"{outcome.sample}: its counterexample is read as {name}, which is not what the adversary wants"
            elif score is not None and not _alike(score, outcome.score):
                stated = "nothing" if outcome.score is None else f"{outcome.score:.4g}"
                told = f"the score {score:.4g}, and the report says {stated}"
                yield f"{outcome.sample}: its counterexample has {told}"
