"""A plan for the terminal: a table a gate, and a last line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robustcheck.report.text import number, one_line, percent, seconds
from robustcheck.report.wrapping import required
from robustcheck.results.plan import GatePlan, Plan, RequirementPlan
from robustcheck.words import plural

_REQUIRED = 20  # columns: longer names break


def plan_tables(plan: Plan) -> RenderableType:
    """What each gate needs and has, with a row for each requirement."""
    return Group(*_head(plan), *(part for gate in plan.gates for part in _gate(gate, grouped=plan.groups is not None)))


def plan_line(plan: Plan) -> str:
    """The total, and which gates have too few samples for their rule."""
    unknown = [gate.id for gate in plan.gates if gate.seconds is None and gate.error is None]
    left_out = f" without {_listed(unknown)}" if unknown else ""
    total = f"at most about {seconds(plan.seconds)}{left_out}, of which {seconds(plan.loading)} to load"
    enough = "enough samples for all others" if plan.failed else "enough samples for all"
    parts = [total, f"too few samples for {_listed(plan.too_few)}" if plan.too_few else enough]
    if plan.failed:
        parts.append(f"{plural(len(plan.failed), 'gate')} cannot be evaluated: {_listed(plan.failed)}")
    return f"PLAN: {'; '.join(parts)}"


def _listed(gates: Sequence[str]) -> str:
    return ", ".join(map(one_line, gates))


def _head(plan: Plan) -> Iterator[RenderableType]:
    yield Text(one_line(plan.name), style="bold")
    rule = f"{percent(plan.confidence)} intervals ({plan.interval})" if plan.rule == "confident" else "point estimates"
    yield Text(
        f"Needed: how many samples of its kind it takes to meet a requirement whose true value is {plan.margin:g} "
        f"better than its bound with a power of {percent(plan.power)}, by {rule}. Interval: how wide it would be with "
        "the samples that there are. Times assume that no sample breaks; broken samples stop early, so runs are "
        "usually faster."
    )
    if plan.groups is not None:
        yield Text(
            f"The {plural(plan.samples, 'sample')} are of {plural(plan.groups, 'group')}. Worth: at least as many "
            "independent ones, if those of a group always agree; power and interval are for these."
        )
    if plan.order != tuple(gate.id for gate in plan.gates):
        yield Text(f"Gates that share counterexamples go by budget: {_listed(plan.order)}.")
    if plan.steps:
        kinds = {one.kind: one for one in plan.steps}  # where a kind was timed with several batches, the last one
        measured = ", ".join(f"{one_line(kind)} {1000 * one.seconds:.3g} ms" for kind, one in kinds.items())
        yield Text(f"Measured on {one_line(plan.device)}, per image: {measured}.")


def _gate(gate: GatePlan, *, grouped: bool) -> Iterator[RenderableType]:
    attack = "no attack" if gate.attack is None else one_line(gate.attack)
    if gate.attack is not None:
        attack += f" at {one_line(gate.budget)}" if gate.budget else ""
        took = "unknown time" if gate.seconds is None else f"at most about {seconds(gate.seconds)}"
        attack += f", {plural(gate.attacked, 'sample')} attacked, {took}"
    yield Text()
    yield Text.assemble((one_line(gate.id), "bold"), f": {attack}")
    if gate.error is not None:
        yield Text(f"cannot be evaluated: {one_line(gate.error.strip().splitlines()[0])}", style="bold magenta")
    for note in gate.notes:
        yield Text(one_line(note))
    if gate.requirements:
        table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
        named = [required(one.metric, one.bound) for one in gate.requirements]
        widest = max(_REQUIRED, *(cell.narrowest for cell in named))
        table.add_column("required", width=min(widest, max(8, *(cell.widest for cell in named))))
        numbers = ("needed", "has", "worth", "power", "interval", "clean")
        for column in (column for column in numbers if grouped or column != "worth"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("", overflow="fold")
        for name, requirement in zip(named, gate.requirements, strict=True):
            table.add_row(name, *_row(requirement, grouped=grouped))
        yield table


def _row(requirement: RequirementPlan, *, grouped: bool) -> list[Text]:
    low, high = requirement.low, requirement.high
    width = "-" if low is None or high is None else number(high - low)
    notes = [*(() if requirement.enough or requirement.never else ("too few",)), *map(one_line, requirement.notes)]
    return [
        Text(_needed(requirement), style="" if requirement.enough else "bold yellow"),
        Text(f"{requirement.samples:,}"),
        *([Text(f"{requirement.worth:,}")] if grouped else []),
        Text("-" if requirement.power is None else number(requirement.power)),
        Text(width),
        Text("-" if requirement.clean is None else number(requirement.clean)),
        Text("; ".join(notes), style="" if requirement.enough else "yellow"),
    ]


def _needed(requirement: RequirementPlan) -> str:
    if requirement.never:
        return "never"
    if requirement.needed is None:
        return "-"
    return f"{'~' if requirement.about else ''}{requirement.needed:,}"
