"""Checks which health checks and findings a gate's result states, in which words, and how serious they are."""

from __future__ import annotations

from collections.abc import Iterator

from robustcheck.evaluation.conclusion import checks_of, vacuous_in
from robustcheck.evaluation.findings import CODES, NOTHING_TO_FOLLOW, findings, says_no_more
from robustcheck.evaluation.health.checks import MEANINGS, same_answers
from robustcheck.evaluation.metrics.verdicts import compare, judge
from robustcheck.evaluation.replay.restating import measurement
from robustcheck.evaluation.standing import Standing
from robustcheck.evaluation.weak_passes import weak_passes
from robustcheck.results import Finding, GateResult
from robustcheck.words import shown

_OF_SEARCHES = frozenset({"hardly-examined", "holds-whatever-is-turned", "no-start", "surrogate-not-turned"})
"""Codes whose messages also contain what searches saw, or areas."""
_OF_ALL = frozenset({"holds-whatever-is-turned", "no-better-than-chance"})
"""Codes that are about the clean readings of all samples; a gate may list only some of these."""


def of_words(result: GateResult) -> Iterator[str]:
    """Faults: health checks and findings that no run states."""
    unknown = dict.fromkeys(check.name for check in result.health if check.name not in MEANINGS)
    yield from (f"it states a health check {shown(name)}, which does not exist" for name in unknown)
    unknown = dict.fromkeys(one.code for one in result.findings if one.code not in CODES)
    yield from (f"it states a finding {shown(code)}, which does not exist" for code in unknown)


def of_warnings(result: GateResult, standing: Standing, *, worded: bool) -> Iterator[str]:
    """What is amiss with health checks and warnings, compared with those that a run states for such samples.

    Args:
        result: what is stated about a gate.
        standing: made from it again.
        worded: whether this version of robustcheck worded it.
    """
    gate, setting = standing.gate, standing.setting
    if gate.attack is not None:
        drawn, examined = setting.candidate.randomness, {check.name: check.outcome for check in result.health}
        wanted = checks_of(gate, drawn)
        yield from (f"its health check {name} is missing" for name in wanted if name not in examined)
        answers = same_answers(drawn)
        if answers.name in wanted and examined.get(answers.name, answers.outcome) != answers.outcome:
            yield f"its health check {answers.name} is stated as {examined[answers.name]}, but is {answers.outcome}"
    graves = {(one.code, one.severity) for one in result.findings}
    excused = set[str]()
    if (NOTHING_TO_FOLLOW, "warning") in graves:  # which replaces what these checks say
        excused = {check.name for check in result.health if says_no_more(check)}
    if setting.candidate.randomness is not None and len(result.samples) < len(setting.labels):
        excused |= _OF_ALL  # samples that are not listed are read differently each time
    here = [one for one in _findings(result, standing) if one.severity != "note" and one.code not in excused]
    codes, messages = {one.code for one in result.findings}, {(one.code, one.message) for one in result.findings}
    for code, severity in dict.fromkeys((one.code, one.severity) for one in here):  # notes may be about the machine
        if code not in codes:
            yield f"{code} is not among its findings, but what it states calls for it"
        elif (code, severity) not in graves:
            yield f"its finding {code} should have the severity {severity}"
    for one in here:
        if worded and one.code not in _OF_SEARCHES and one.code in codes and (one.code, one.message) not in messages:
            yield f"its finding {one.code} is stated in other words than: {one.message}"


def _findings(result: GateResult, standing: Standing) -> list[Finding]:
    """The findings that a run states for such samples."""
    gate, measured = standing.gate, measurement(standing)
    here = [*measured.findings(gate.bounds)]
    if gate.attack is not None:
        success = measured.plain["attack_success"](standing.setting.intervals)
        here += findings(standing, surrogates=result.surrogates, success=success, health=result.health)
        passed = judge(compare(gate.bounds, result.metrics, standing.rule), result.metrics) == "pass"
        if passed and (vacuous := vacuous_in(standing)) is not None:
            here.append(vacuous.finding(standing.goal))
        if result.verdict == "pass":
            here += weak_passes(standing, result.health, result.cost)
    return here
