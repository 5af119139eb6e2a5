"""What the reader of a gate's verdict should know about how it was searched."""

from __future__ import annotations

from collections.abc import Iterator

from robustcheck.evaluation.health.checks import MEANINGS, as_findings
from robustcheck.evaluation.search.found import Found
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.standing import Standing
from robustcheck.policy import Gate
from robustcheck.policy.bounds import LOWER_IS_BETTER, NEEDS_POSITIVE
from robustcheck.results import Control, Finding, HealthCheck, Metric, Surrogate
from robustcheck.results.agreed import WORST_FINDING, WORST_SUBGROUP
from robustcheck.words import listed, plural

NOTHING_TO_FOLLOW = "no-usable-gradient"  # replaces what health checks say about gradients

CODES = frozenset(MEANINGS) | {
    "area-at-most",
    "batch-halved",
    "few-attacked",
    "few-queries",
    "finding-not-aimed-at",
    "gradient-not-finite",
    "hardly-examined",
    "holds-whatever-is-turned",
    "images-left-out",
    "label-without-samples",
    "lost-in-rounding",
    "lost-on-fresh-looks",
    "met-by-weakness",
    "no-better-than-chance",
    "no-start",
    NOTHING_TO_FOLLOW,
    "outdone-by-control",
    "part-not-measured",
    "poor-surrogate",
    "range-unused",
    "repeated-images",
    "surrogate-not-turned",
    "tiny-budget",
    "twin-disagreed",
    "undercut-by-control",
}
"""Codes of all findings of gates, wherever they come from; those of health checks are the checks' names."""

LEAST_TURNED = 0.5  # of the attacked samples: a surrogate that the attack turns less often than this is no guide
LEAST_RIGHT = 0.1  # of the samples: if fewer are right in all findings, few are attacked
FEW = 10  # attacked samples, if they are less than half of all; otherwise the policy has no more to offer
_ONE_FINDING = "; a gate that names a finding, with goal: missed_finding or false_alarm, attacks that one alone"
LEAST_AGREEMENT = 0.75  # of the samples: a surrogate that agrees on fewer is another model


def findings(
    standing: Standing, *, surrogates: tuple[Surrogate, ...], success: Metric, health: tuple[HealthCheck, ...]
) -> tuple[Finding, ...]:
    """Findings about how a gate was searched, the most serious first.

    Those about metrics, requirements and passes are `measurement`'s, `vacuous`'s and `weak_passes`'.
    """
    gate, setting, found, blind = standing.gate, standing.setting, standing.found, standing.blind
    return (
        *_unsearched(gate, setting, found, blind),
        *as_findings([check for check in health if not (blind and says_no_more(check))]),
        *_outdone(success, standing.controls),
        *_hardly_attacked(standing),
        *_by_weakness(gate),
        *_not_aimed_at(gate, setting),
        *_poor(surrogates, len(found.searched)),
        *_of_the_search(found),
        *_of_the_machine(setting),
    )


def says_no_more(check: HealthCheck) -> bool:
    """Whether it says no more than that there was little or nothing to follow."""
    return check.name == "gradients" or (check.name, check.outcome) == ("gradient-predicts", "not examined")


def _unsearched(gate: Gate, setting: Setting, found: Found, blind: set[int]) -> Iterator[Finding]:
    unstarted = blind & found.trace.unstarted
    if unstarted:
        message = (
            f"{plural(len(unstarted), 'sample')} held, but no image to start from was found for them within the limit: "
            "of noise, and of the other images that are labelled as the adversary wants, none that was tried before "
            "the last query is read that way; "
            f"raise queries, or add samples (first: {_first(setting, unstarted)})"
        )
        yield Finding(code="no-start", severity="warning", message=message)
    if rest := blind - unstarted:
        why = "no answers that changed" if gate.asks else "most gradients were zero, NaN or infinite"
        message = (
            f"{plural(len(rest), 'sample')} held, but the attack had little or nothing to follow there: {why} "
            f"(first: {_first(setting, rest)}){_of_probabilities(gate, setting)}"
        )
        yield Finding(code=NOTHING_TO_FOLLOW, severity="warning", message=message)


def _of_probabilities(gate: Gate, setting: Setting) -> str:
    """What to do about a candidate that ends in probabilities whose softmax or sigmoid could not be left off."""
    candidate = setting.candidate
    if gate.knowledge != "white-box" or not candidate.head.outputs_probabilities or candidate.bare is not None:
        return ""
    if candidate.network.module is None and candidate.network.twin is None:  # nothing is left off such a format
        return "; a candidate that gives logits hides less than one that gives probabilities"
    return "; a candidate that gives probabilities should end in the softmax or sigmoid that makes them, or give logits"


def _outdone(success: Metric, controls: tuple[Control, ...]) -> Iterator[Finding]:
    """Warn about controls, which nobody optimised, that turn as many samples as the attack."""
    for control in controls:
        if (turned := control.success.successes) and turned >= (success.successes or 0):
            message = (
                f"{control.name} turned {turned} of {control.success.samples} samples, and the "
                f"attack {success.successes}: the attack is weak, or its search was too short"
            )
            yield Finding(code="outdone-by-control", severity="warning", message=message)


def nothing_right(gate: Gate, setting: Setting) -> str:
    """Why nothing was attacked if no sample is worth it and, with several findings, what can be done about it."""
    about = "" if gate.goal == "untargeted" else f" that the goal {gate.goal} is about"
    at_once = _at_once(gate, setting)
    more = _ONE_FINDING if at_once else ""
    return f"no sample{about} is read correctly before the attack{at_once}: nothing was attacked{more}"


def _at_once(gate: Gate, setting: Setting) -> str:
    """In how many findings a sample has to be right to be attacked; "" if that is one."""
    head = setting.candidate.head
    several = head.multilabel and len(head.labels) > 1 and gate.goal == "untargeted"
    return f" in all {len(head.labels)} findings at once" if several else ""


def _hardly_attacked(standing: Standing) -> Iterator[Finding]:
    """Warn if so few samples are attacked that the result says little about the candidate."""
    gate, setting = standing.gate, standing.setting
    attacked_count, judged_count = len(standing.attacked), len(standing.judged)
    at_once = _at_once(gate, setting)
    few = attacked_count < FEW and 2 * attacked_count < judged_count
    if not attacked_count or not (few or (at_once and attacked_count < LEAST_RIGHT * judged_count)):
        return
    if at_once:
        message = (
            f"only {attacked_count} of {plural(judged_count, 'sample')} are read correctly before the attack{at_once}: "
            f"the others were not attacked{_ONE_FINDING}"
        )
    else:
        spared = int((~standing.goal.applies(setting.labels))[standing.judged].sum())
        wrong = judged_count - spared - attacked_count
        why = [f"the goal {gate.goal} is not about {spared} of them"] if spared else []
        why += [f"{wrong} {'is' if wrong == 1 else 'are'} read wrongly before the attack"] if wrong else []
        message = (
            f"the attack had only {attacked_count} of {plural(judged_count, 'sample')} to turn, because "
            f"{' and '.join(why)}: the result on so few says little"
        )
    yield Finding(code="few-attacked", severity="warning", message=message)


def _by_weakness(gate: Gate) -> Iterator[Finding]:
    """Warn if all that is required is that the attack succeeds often enough."""
    asked = [bound for bound in gate.bounds if not bound.always_met and bound.of[1] != "control_success"]
    if asked and all(bound.at_least == (bound.of[1] in LOWER_IS_BETTER) for bound in asked):
        message = (
            f"{listed(f'{bound.metric} {bound}' for bound in asked)} is met by a candidate that the attack breaks, and "
            "not by one that holds: a pass shows no robustness; to require robustness, reverse the bound"
        )
        yield Finding(code="met-by-weakness", severity="warning", message=message)


def _not_aimed_at(gate: Gate, setting: Setting) -> Iterator[Finding]:
    """Warn about requirements on findings that this goal does not attack."""
    head = setting.candidate.head
    if not head.multilabel or len(head.labels) == 1:
        return
    positive, aimed = None if head.positive is None else head.labels[head.positive], gate.finding
    spared = {"missed_finding": "specificity", "false_alarm": "sensitivity"}.get(gate.goal)
    named = list[str]()
    for bound in gate.bounds:
        about, plain = bound.of
        one = positive if about in ("", WORST_SUBGROUP) and plain in NEEDS_POSITIVE else about
        if bound.averages_findings or (one in (*head.labels, WORST_FINDING) and (one != aimed or plain == spared)):
            named.append(bound.metric)
    if named:
        about = "" if aimed is None else f", which is about {aimed},"
        message = (
            f"{listed(named)} may look better than it is: under goal {gate.goal}{about} a search ends with whichever "
            "finding turns first, and others turn only by accident; to require something of a finding, give it a gate "
            "of its own that names it, with goal: missed_finding for its sensitivity or false_alarm for its specificity"
        )
        yield Finding(code="finding-not-aimed-at", severity="warning", message=message)


def _first(setting: Setting, samples: set[int]) -> str:
    return setting.samples.names[min(samples)]


def _poor(surrogates: tuple[Surrogate, ...], searched: int) -> Iterator[Finding]:
    """Warn about surrogates that say little about the candidate.

    Agreement on all samples is not enough: if most are not attacked, a surrogate may misread all that are.
    """
    for surrogate in surrogates:
        of_all, of_attacked = surrogate.agreement, surrogate.agreement_attacked
        if _disagrees(of_all):
            said = f"reads only {of_all.successes} of {of_all.samples} samples as the candidate does"
        elif of_attacked is not None and _disagrees(of_attacked):
            said = (
                f"reads only {of_attacked.successes} of the {of_attacked.samples} attacked samples correctly before "
                "the attack, as the candidate does"
            )
        else:
            continue
        message = f"the surrogate {surrogate.path} {said}; if attacks do not carry over, it may be to blame"
        yield Finding(code="poor-surrogate", severity="warning", message=message)
    if not surrogates or not searched:
        return
    turned = surrogates[0].turned  # of several, by their mean
    successes, misread = turned.successes or 0, searched - turned.samples
    if successes < LEAST_TURNED * searched:
        who = f"the surrogate {surrogates[0].path} itself" if len(surrogates) == 1 else "the surrogates together"
        before = f" ({misread} were misread there before it)" if misread else ""
        message = (
            f"the attack turned {successes} of {searched} samples on {who}{before}; an attack that does not turn the "
            "surrogate shows little about the candidate"
        )
        yield Finding(code="surrogate-not-turned", severity="warning", message=message)


def _disagrees(agreement: Metric) -> bool:
    return agreement.value is not None and agreement.value < LEAST_AGREEMENT


def _of_the_search(found: Found) -> Iterator[Finding]:
    trace = found.trace
    if trace.not_finite:
        message = (
            f"{trace.gradients_not_finite} gradients, on {plural(len(trace.not_finite), 'image')}, had NaN or "
            "infinity in places, which were not followed"
        )
        yield Finding(code="gradient-not-finite", severity="warning", message=message)
    if trace.refuted:
        message = (
            f"{trace.refuted} proposals that were misread in the search were not misread once they were rounded to the "
            "stored depth and read by the artefact in full precision; the search went on"
        )
        yield Finding(code="lost-in-rounding", severity="note", message=message)
    if trace.lapsed:
        message = (
            f"{trace.lapsed} proposals held on the looks of a step, but not on as many fresh ones as are required; "
            "the search went on"
        )
        yield Finding(code="lost-on-fresh-looks", severity="note", message=message)
    if trace.disagreed:
        message = (
            f"of these, {trace.disagreed} are misread by the twin of the graph as they are stored, but not by "
            "ONNX Runtime, whose verdict counts"
        )
        yield Finding(code="twin-disagreed", severity="note", message=message)


def _of_the_machine(setting: Setting) -> Iterator[Finding]:
    if setting.candidate.chunks.halved_to:
        message = (
            f"memory ran out, so the batch was halved to {setting.candidate.chunks.halved_to}; no draw depends on it"
        )
        yield Finding(code="batch-halved", severity="note", message=message)
