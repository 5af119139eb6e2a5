"""Makes a gate's result from what its searches came to: measured, judged and reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from robustcheck.evaluation.adversary import worth_attacking
from robustcheck.evaluation.cost import Account
from robustcheck.evaluation.findings import findings, nothing_right
from robustcheck.evaluation.health.checks import (
    MEND,
    OF_BALLS,
    OF_GRADIENTS,
    OF_THOSE_WHO_ASK,
    in_examination_order,
    not_relied_on,
    of_gradients,
    same_answers,
)
from robustcheck.evaluation.health.comparing import is_compared
from robustcheck.evaluation.health.examination import is_asked_with_noise
from robustcheck.evaluation.metrics.chance import read_alike
from robustcheck.evaluation.metrics.verdicts import compare, judge
from robustcheck.evaluation.outcomes import keep_examples, outcomes, readings, undefined
from robustcheck.evaluation.search.ledger import Entry, unknown
from robustcheck.evaluation.standing import Standing
from robustcheck.evaluation.surrogates.fidelity import as_reported
from robustcheck.evaluation.threat import threat_of
from robustcheck.evaluation.vacuous import Vacuous, turned_in_a_finding
from robustcheck.evaluation.weak_passes import weak_passes
from robustcheck.policy import Gate
from robustcheck.results import Control, Cost, Finding, GateResult, HealthCheck, Metric, Verdict
from robustcheck.words import listed, plural

_STRENGTHEN = "raise the attack's steps or draws"


def conclude(
    standing: Standing, account: Account, examine: Callable[[Standing, Cost], tuple[HealthCheck, ...]]
) -> GateResult:
    """Keep what other gates need, examine the attack, then judge the gate; health is costed apart from the search.

    Args:
        standing: what the searches came to.
        account: opened before them.
        examine: says whether an attack that asks, or follows the candidate's own gradients, worked, after searches of
            this cost.
    """
    gate, setting = standing.gate, standing.setting
    keep_examples(gate, setting, standing.broken)
    if is_compared(gate):
        setting.memory.verdict_if[gate.id] = standing.verdict_if_read
    searched_for = account.cost(standing.queries)
    drawn = setting.candidate.randomness
    health = examine(standing, searched_for) if gate.knowledge == "white-box" or is_asked_with_noise(gate) else ()
    if gate.knowledge != "white-box" and drawn is not None:
        health += (same_answers(drawn),)
    return _result(standing, account.cost(standing.queries, of_searches=searched_for), health)


def checks_of(gate: Gate, drawn: float | None) -> tuple[str, ...]:
    """Names of the health checks that `conclude` makes of a gate with an attack, on a candidate that draws or not."""
    if gate.knowledge == "white-box":
        return OF_GRADIENTS if gate.epsilon is None else OF_BALLS
    asked = OF_THOSE_WHO_ASK if is_asked_with_noise(gate) else ()
    return asked if drawn is None else (*asked, *OF_GRADIENTS[-1:])


def examine_gradients(standing: Standing, cost: Cost) -> tuple[HealthCheck, ...]:
    """Whether the gradients of patches and stickers mean anything; the controls beside them show the rest."""
    attacked = in_examination_order(standing.attacked, standing.gate, standing.setting)
    return of_gradients(standing.setting, standing.goal, standing.found.trace, attacked, standing.blind, cost)


def _result(standing: Standing, cost: Cost, health: tuple[HealthCheck, ...]) -> GateResult:
    """Measures and judges; a pass needs an attack that nothing shows to be broken."""
    gate, setting = standing.gate, standing.setting
    measurement = standing.measurement(standing.broken)
    metrics = measurement.metrics(gate.bounds)
    requirements = compare(gate.bounds, metrics, standing.rule)
    surrogates = as_reported(standing.loaded_surrogates, setting, standing.goal, standing.attacked, standing.found)
    undercut = _undercut_sample_by_sample(standing) or _undercut_as_a_whole(standing)
    by_metrics = judge(requirements, metrics)
    vacuous = vacuous_in(standing) if by_metrics == "pass" else None
    verdict, error = judged_as(standing, by_metrics, metrics, health, undercut, vacuous)
    every = outcomes(
        gate, setting, standing.broken, standing.positive_probabilities, standing.found, set(standing.attacked)
    )
    return GateResult(
        id=gate.id,
        attack=gate.attack_name,
        parameters=gate.parameters,
        threat=threat_of(gate, setting.samples.bits, drawing=setting.candidate.randomness is not None),
        verdict=verdict,
        metrics=metrics,
        slices=measurement.slices(),
        requirements=requirements,
        cost=cost,
        findings=(
            *([Finding(code="undercut-by-control", severity="error", message=undercut)] if undercut else ()),
            *([vacuous.finding(standing.goal)] if vacuous else ()),
            *findings(standing, surrogates=surrogates, success=metrics["attack_success"], health=health),
            *(weak_passes(standing, health, cost) if verdict == "pass" else ()),
            *measurement.findings(gate.bounds),
        ),
        health=health,
        samples=tuple(every[sample] for sample in standing.judged.tolist()),
        surrogates=surrogates,
        controls=standing.controls,
        error=error,
    )


def judged_as(
    standing: Standing,
    verdict: Verdict,
    metrics: Mapping[str, Metric],
    health: Sequence[HealthCheck],
    undercut: str | None,
    vacuous: Vacuous | None,
) -> tuple[Verdict, str | None]:
    """The verdict, given what the metrics alone would say; and the reason, if it is an error."""
    gate, setting, blind = standing.gate, standing.setting, standing.blind
    if not standing.goal.applies(setting.labels[standing.among]).any():
        return "error", _nothing_to_attack(gate)
    if verdict == "fail":  # what was found is verified, whatever was missed
        return verdict, None
    if not worth_attacking(standing.goal, setting, standing.among):
        return "error", nothing_right(gate, setting)
    if verdict == "error":
        return verdict, undefined(gate, metrics)
    # Before asking what the attack had to follow: a candidate with the wrong input often gives it nothing.
    if setting.strict and (alike := read_alike(readings(setting, {}, None), len(standing.broken))):
        return "error", alike
    if setting.strict and vacuous and vacuous.every:
        return "error", vacuous.message(standing.goal)
    # Nothing was searched there, which no policy may overlook.
    if blind and standing.verdict_if(unknown(blind)) != verdict:
        return "error", (
            f"the attack had little or nothing to follow on {len(blind)} of the samples that held, and without them "
            f"the gate would not pass; {_lesson(gate, unstarted=blind <= standing.found.trace.unstarted)}"
        )
    if setting.strict and (reason := _distrusted(standing, metrics, health, undercut)):
        return "error", reason
    return verdict, None


def _undercut_sample_by_sample(standing: Standing) -> str | None:
    """Why controls, on the samples that the attack left, would fail the gate; None if they would not."""
    held, judged = set(standing.held), standing.by_estimate
    each = [one for one in standing.controlled if one.admitted == "each" and held & one.turned.keys()]
    lost = {sample: entry for one in each for sample, entry in one.turned.items() if sample in held}
    if not lost or judged.verdict_if(lost) in ("pass", judged.verdict_if({})):
        return None
    who = listed(one.control.name for one in each)
    mend = _STRENGTHEN if any(one.control.name != "no attack" for one in each) else "the conditions alone turn them"
    return (
        f"{who} turned {len(lost)} of {plural(len(held), 'sample')} that held, which the adversary may do "
        f"too, and without them the gate would not pass; {mend}"
    )


def _undercut_as_a_whole(standing: Standing) -> str | None:
    """Why a control that could replace the attack on all samples would fail the gate; None if none would."""
    judged = standing.by_estimate
    for one in standing.controlled:
        if one.admitted != "all":
            continue
        if judged.without_its_attack().verdict_if(one.turned) not in ("pass", judged.verdict_if({})):
            return (
                f"{one.control.name}, which the adversary may lay on all images too, turned "
                f"{len(one.turned)} of {plural(len(standing.attacked), 'sample')}, and with it in place of the attack "
                f"the gate would not pass; {_STRENGTHEN}"
            )
    return None


def vacuous_in(standing: Standing) -> Vacuous | None:
    """Requirements that no attack could fail, over all samples the gate may look at."""
    setting, bounds = standing.setting, standing.gate.bounds
    attacked = worth_attacking(standing.goal, setting, standing.among)
    every = replace(standing, judged=standing.among, attacked=attacked)

    def required(lost: Mapping[int, Entry]) -> Mapping[str, Metric]:
        return every.measurement(dict(lost)).required(bounds)

    in_a_finding = turned_in_a_finding(standing.goal, setting, attacked)
    return Vacuous.among(bounds, required, attacked, setting.rule, in_a_finding=in_a_finding)


def _distrusted(
    standing: Standing, metrics: Mapping[str, Metric], health: Sequence[HealthCheck], undercut: str | None
) -> str | None:
    """Why samples that held are no evidence; None if they are."""
    if shown := [check for check in health if check.outcome == "broken"]:
        return not_relied_on(shown)
    if undercut:
        return undercut
    if stronger := _stronger_controls(standing, metrics):
        return (
            f"{stronger[0].name} turned {stronger[0].success.successes} of {stronger[0].success.samples} samples, "
            f"and the attack {metrics['attack_success'].successes}: an attack weaker than its control shows "
            f"nothing; {_STRENGTHEN}"
        )
    return None


def _stronger_controls(standing: Standing, metrics: Mapping[str, Metric]) -> list[Control]:
    """Controls that turn clearly more than the attack does: their intervals lie above its own.

    A patch that is given was not searched for, and may be as weak as it likes.
    """
    if standing.gate.knowledge == "none":
        return []
    most = metrics["attack_success"].high
    return [one for one in standing.controls if most is not None and (one.success.low or 0.0) > most]


def _nothing_to_attack(gate: Gate) -> str:
    if gate.target is not None:
        return f"every sample is labelled {gate.target}, which is the target: nothing was attacked"
    return f"no sample is of the kind that the goal {gate.goal} is about: nothing was attacked"


def _lesson(gate: Gate, *, unstarted: bool) -> str:
    """Advice for samples on which the search had little or nothing to follow."""
    if unstarted:
        return "a search that never started shows nothing: raise queries, or add samples of the other labels"
    if gate.attack_name == "rays" and gate.goal in ("targeted", "false_alarm"):
        return (
            "rays begins at corners of the range, which are rarely read as one certain label: use hopskipjump or "
            "label_only, which begin at other samples' images"
        )
    if gate.asks:
        return "answers that never change show nothing about other adversaries"
    if gate.knowledge == "transfer":
        return "a surrogate without gradients shows nothing about the candidate"
    return f"a candidate that hides its gradients is not shown to be robust: {MEND}"
