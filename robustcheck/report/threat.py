"""The threat model of a gate in words: whole, or as short as a column or a caption needs it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from robustcheck.report.queries import queries_text
from robustcheck.report.text import one_line
from robustcheck.results import Threat
from robustcheck.results.agreed import SET_BY_A_GRID
from robustcheck.words import listed, plural

NORMS = {"linf": "L∞", "l2": "L2"}
GOALS = {
    "untargeted": "any wrong answer",
    "targeted": "one particular wrong answer",
    "missed_finding": "disease read as no disease",
    "false_alarm": "no disease read as disease",
}
KNOWLEDGE = {
    "white-box": "the candidate's weights and gradients",
    "scores": "the scores of all labels",
    "top-k": "the scores of the best few labels",
    "label": "the predicted label only",
    "transfer": "another model only",
    "none": "nothing: what it uses was made beforehand",
}
CAPABILITIES = {
    "ball": "small changes everywhere",
    "patch": "a patch on the image",
    "stickers": "anything inside a mask",
}
ORACLES = {"stored": ", each rounded to the stored depth", "float": ", none rounded to the stored depth"}


def norm_text(norm: str) -> str:
    """`L∞` for `linf`."""
    return NORMS.get(norm, one_line(norm))


def budget_text(threat: Threat) -> str:
    """`ε = 2/255, L∞`, `patch of 10%`, or `stickers`."""
    ball = threat.ball
    if ball is None:
        return f"patch of {one_line(threat.size)}" if threat.size is not None else one_line(threat.capability)
    return f"ε = {one_line(ball.epsilon)}, {norm_text(ball.norm)}"


def short_budget(threat: Threat) -> str:
    """`2/255 L∞`, `10%`, or `stickers`: for a narrow column."""
    ball = threat.ball
    if ball is None:
        return one_line(threat.size if threat.size is not None else threat.capability)
    return f"{one_line(ball.epsilon)} {norm_text(ball.norm)}"


def unlike_most(threat: Threat) -> tuple[str, ...]:
    """`missed finding`, `targeted: normal`, `≤1,000 queries`: what beside its budget sets a threat apart from most.

    These are any wrong answer, to images as they are, with nobody counting queries, and of patches the ones that were
    searched for.
    """
    goal = "" if threat.goal == "untargeted" else one_line(threat.goal.replace("_", " "))
    given, about = threat.capability == "patch" and threat.knowledge == "none", threat.wanted[1]
    told = (
        f"{goal}: {one_line(about)}" if goal and about is not None else goal,
        "given" if given else "",
        "under conditions" if threat.conditions else "",
        "" if threat.queries is None else f"≤{queries_text(threat.queries)}",
    )
    return tuple(filter(None, told))


def conditions_text(threat: Threat) -> str:
    """`rotation -15 to 15, scale 0.9 to 1.1`; nothing where images are seen as they are."""
    return ", ".join(
        f"{one_line(name)} {' to '.join(f'{end:g}' for end in ends)}"
        for name, ends in _ranges(threat).items()
        if all(isinstance(end, (int, float)) and abs(end) < sys.float_info.max for end in ends)
    )


def _ranges(threat: Threat) -> dict[str, Sequence[float]]:
    return {name: ends for name, ends in (threat.conditions or {}).items() if isinstance(ends, (list, tuple))}


def threat_text(threat: Threat) -> str:
    """The threat model in words: goal, knowledge, capability, query limit."""
    goal, knowledge = explained(GOALS, threat.goal), _knowledge(threat)
    if (about := threat.wanted[1]) is not None:
        goal += f", {one_line(about)}"
    seen = conditions_text(threat)
    return f"Goal: {goal}. Knowledge: {knowledge}. Capability: {_capability(threat)}. Queries: {_queries(threat)}." + (
        f" Seen with: {seen}; a counterexample holds on {_holds(threat)}." if seen else ""
    )


def _holds(threat: Threat) -> str:
    conditions = threat.conditions or {}
    share = f"{100 * conditions['holds_on']:g} %" if isinstance(conditions.get("holds_on"), float) else "most"
    looks = conditions.get("judged_on")
    count = looks if isinstance(looks, int) else "the"
    calls = conditions.get("candidate_draws") is True
    if threat.capability != "stickers":
        return f"{share} of {count} fresh looks{', each a call of its own' if calls else ''}, and of as many again"
    drawn = [one_line(name) for name in _ranges(threat) if name not in SET_BY_A_GRID]
    if not drawn and not calls:
        return f"{share} of the cells of its grid"
    under = f" under draws of {listed(drawn)}" if drawn else ""
    grid = f"{share} of {count} looks, from each cell of its grid (distance and angle){under}"
    return f"{grid}, each a call of its own, and of as many calls again" if calls else grid


def _capability(threat: Threat) -> str:
    ball = threat.ball
    if ball is None:
        if threat.size is None:
            return "paint anything inside a mask" if threat.capability == "stickers" else one_line(threat.capability)
        return f"lay a patch on the image, {one_line(threat.size)} {'long' if 'px' in threat.size else 'of its area'}"
    if ball.norm == "linf":
        amount = f"change each stored value by at most {plural(int(ball.levels), 'grey level')}"
    else:
        amount = f"change the image by at most {ball.levels:g} grey levels in the norm"
    return f"{amount} ({budget_text(threat)})"


def _queries(threat: Threat) -> str:
    if threat.queries is None:
        return "none about a sample" if threat.knowledge in ("transfer", "none") else "no limit"
    return f"at most {threat.queries:,} a sample" + (ORACLES[threat.oracle] if threat.oracle else "")


def _knowledge(threat: Threat) -> str:
    if threat.top_k is None:
        return explained(KNOWLEDGE, threat.knowledge)
    best = "score of the best label" if threat.top_k == 1 else f"scores of the best {threat.top_k:,} labels"
    return f"the {best} ({one_line(threat.knowledge)})"


def explained(meanings: Mapping[str, str], word: str) -> str:
    """`any wrong answer (untargeted)`; the word alone if it is not known."""
    return f"{meanings[word]} ({word})" if word in meanings else one_line(word)
