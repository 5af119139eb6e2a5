"""The `robustcheck` command."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from robustcheck.errors import PolicyError, ReportError
from robustcheck.exit_codes import EXIT_CODES, Commands, exit_code, last_words, tell
from robustcheck.interrupts import interrupts_ignored, sigterm_interrupts
from robustcheck.printing import print_table
from robustcheck.words import plural, visible

if TYPE_CHECKING:
    from robustcheck.policy import Policy

_Command = TypeVar("_Command", bound=Callable[..., None])

_POLICY = click.argument("policy", type=click.Path(path_type=Path))


def _output(about: str, default: Path | None = None) -> Callable[[_Command], _Command]:
    """The option that names the folder to write to."""
    folder = click.Path(path_type=Path, file_okay=False)
    return click.option("-o", "--output", type=folder, default=default, show_default=default is not None, help=about)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pytest-robustcheck", prog_name="robustcheck")
def main() -> None:
    """Gate medical image models on adversarial robustness.

    A policy (YAML) names a candidate model, the samples it is judged on, and gates: what an adversary may do, how it
    searches, and how much of the candidate's accuracy has to be left.

    \b
    Begin with:
      robustcheck validate policy.yaml     can the policy be used?
      robustcheck plan policy.yaml         are there enough samples, and how long will it take?
      robustcheck run policy.yaml          run its gates
      pytest --robustcheck policy.yaml     the same, as tests
      robustcheck qualify                  does this installation find known answers?
      robustcheck replay report.json policy.yaml    does the evidence match the report?
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every console has an ε: not worth a traceback


@main.command("run")
@_POLICY
@_output("Folder for junit.xml, report.json, report.html and counterexamples/.", Path("robustcheck-report"))
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the last line.")
def run_command(policy: Path, output: Path, *, quiet: bool) -> None:
    """Run the gates of POLICY and write the reports.

    \b
    Exit codes:
      0  every gate passed, or is inconclusive and the policy allows that
      1  a gate failed
      2  the policy, or the command, cannot be used
      3  a gate could not be evaluated (its verdict is error), or the reports or the output could not be written
      4  only inconclusive gates keep the run from passing
      130  interrupted (Ctrl-C, SIGTERM); the reports contain what was finished

    The heaviest verdict counts: error > fail > inconclusive > pass.
    """
    try:
        loaded = _load(policy)
    except PolicyError:
        there = False  # a typing slip must not cost a report
        with suppress(OSError):  # a name may be longer than any that a file has
            there = output.exists() and policy.exists()
        if there:
            from robustcheck.report.output import try_to_remove_earlier

            try_to_remove_earlier(output, [policy])
        raise
    from robustcheck.report.output import outputs

    (place,) = outputs(output, [loaded.path])
    files, unwritten = list[Path](), None
    with sigterm_interrupts():
        try:
            from robustcheck.evaluation.run import run
            from robustcheck.report.progress import Bars

            with Bars(quiet=quiet) as bars:
                report = run(loaded, folder=place.scratch, progress=bars.update, finished=bars.finished)
                with interrupts_ignored(report.interrupted):  # before the bars are taken away, which takes a moment
                    try:
                        files = place.publish(report)
                    except ReportError as error:
                        unwritten = error
        finally:
            place.discard()
    from robustcheck.report.found_elsewhere import found_elsewhere_text
    from robustcheck.report.summary import summary_line, summary_table, warnings_text

    if unwritten is not None:
        tell(visible(str(unwritten)))
    with last_words(exit_code(report) if unwritten is None else EXIT_CODES["error"]):
        if not quiet:
            print_table(summary_table(report))
            click.echo(found_elsewhere_text(report.gates) + warnings_text(report), nl=False)
            for file in files:
                click.echo(f"  {output / file.relative_to(place.folder)}")
        click.echo(summary_line(report))


@main.command("validate")
@_POLICY
def validate_command(policy: Path) -> None:
    """Print every mistake in POLICY; no model is loaded.

    The exit code is 0 if it can be used and 2 if it cannot (3: the output cannot be written; 130: interrupted).
    """
    loaded = _load(policy)
    with last_words(0):
        click.echo(f"{policy}: {plural(len(loaded.gates), 'gate')}")
        for gate in loaded.gates:
            attack = gate.attack_name or "no attack"
            attack += f" at {gate.epsilon.text}" if gate.epsilon else f" of {gate.size.text}" if gate.size else ""
            bounds = ", ".join(f"{bound.metric} {bound}" for bound in gate.bounds)
            click.echo(f"  {gate.id}: {attack}; requires {bounds}")


def _not_nan(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if value != value:  # only a NaN is not itself, and it lies within any range
        raise click.BadParameter("nan is not a number")
    return value


@main.command("plan")
@_POLICY
@click.option(
    "--margin",
    type=click.FloatRange(0.001, 0.5),
    default=0.05,
    show_default=True,
    callback=_not_nan,
    help="How far a metric's true value is assumed to lie on the good side of its bound.",
)
@click.option(
    "--power",
    type=click.FloatRange(0.5, 1, max_open=True),
    default=0.9,
    show_default=True,
    callback=_not_nan,
    help="The probability with which a requirement should then be met.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, for programs.")
def plan_command(policy: Path, *, margin: float, power: float, as_json: bool) -> None:
    """Say what POLICY needs: samples and time.

    Nothing is attacked and no file is written: the samples are read, the candidate is asked about each unattacked
    one, and its steps are timed on this machine.

    For each requirement the plan says how many samples its rule needs, so that a candidate whose true value is a
    margin better than the bound passes with the power that you ask for; how many samples there are of the kind that
    the metric is about (positives for sensitivity, those read right for attack_success); how likely these are to
    pass, and how wide the interval will be. With too few samples, a good candidate fails by chance (rule: estimate)
    or is inconclusive (rule: confident).

    \b
    Examples:
      robustcheck plan policy.yaml
      robustcheck plan policy.yaml --margin 0.02 --power 0.8
      robustcheck plan policy.yaml --json | jq .too_few

    \b
    Exit codes:
      0  planned, whether or not there are enough samples
      2  the policy, or the command, cannot be used
      3  the samples or the candidate cannot be loaded, or the output cannot be written
      130  interrupted
    """
    loaded = _load(policy)
    from robustcheck.report.progress import Bars

    with Bars(quiet=False) as bars:
        from robustcheck.evaluation.planning.planning import plan

        planned = plan(loaded, margin=margin, power=power, progress=bars.update)
    if as_json:
        click.echo(json.dumps(planned.to_dict(), indent=2, allow_nan=False))
        return
    from robustcheck.report.plan import plan_line, plan_tables

    print_table(plan_tables(planned), least=80)
    click.echo(plan_line(planned))


@main.command("schema")
@click.option("--report", is_flag=True, help="Print the schema of report.json instead of the policy's.")
def schema_command(*, report: bool) -> None:
    """Print the JSON Schema of a policy, for editors and other tools."""
    if report:
        from robustcheck.results import json_schema
    else:
        from robustcheck.policy.schema import json_schema
    click.echo(json.dumps(json_schema(), indent=2))


@main.command("attacks")
def attacks_command() -> None:
    """List the attacks: what each is, needs, takes and cites."""
    from robustcheck.policy import ATTACKS
    from robustcheck.policy.fields import allowed

    for name, spec in ATTACKS.items():
        click.echo(click.style(name, bold=True))
        click.echo(f"  what    {spec.summary}")
        click.echo(f"  needs   {spec.needs}")
        schemas = spec.model_json_schema()["properties"]
        for parameter, field in spec.model_fields.items():
            if parameter != "name":
                if field.is_required():
                    default = " (required)"
                else:
                    default = "" if field.default is None else f" (default: {json.dumps(field.default)})"
                values = allowed(schemas[parameter])
                told = all(value in str(field.description) for value in re.split(", | or ", values))
                click.echo(f"  takes   {parameter}: {field.description}{'' if told else f'; {values}'}{default}")
        click.echo(f"  source  {spec.source}")


@main.command("qualify")
@_output("Folder for qualification.json and qualification.html.", Path("robustcheck-qualification"))
def qualify_command(output: Path) -> None:
    """Check this installation on known answers.

    Runs gates on candidates whose robustness is known. Robust and fragile ones must get their known accuracy and the
    verdict that follows from it; those that hide their gradients must not pass. This shows that this installation, on
    this machine, finds these answers; the report lists what that does not cover. Takes ten to twenty seconds on an
    idle machine, needs no network connection, and writes a report for a quality system to file.

    \b
    Exit codes:
      0  every known answer was found
      1  one was not: do not rely on this installation
      2  the report cannot be written, or there is no temporary folder
      3  the output cannot be written
      130  interrupted
    """
    from robustcheck.report.progress import Bars
    from robustcheck.report.qualification import (
        qualification_line,
        qualification_table,
        remove_earlier_qualification,
        write_qualification,
    )

    remove_earlier_qualification(output)
    with Bars(quiet=False, counted="candidates") as bars:
        from robustcheck.qualification import qualify

        found = qualify(progress=bars.update)
    files = write_qualification(found, output)
    with last_words(0 if found.qualified else 1):
        print_table(qualification_table(found), least=80)
        for file in files:
            click.echo(f"  {file}")
        click.echo(qualification_line(found))


@main.command("render")
@click.argument("report", type=click.Path(path_type=Path))
@_output("Folder to write to (default: the report's own).")
def render_command(report: Path, output: Path | None) -> None:
    """Write junit.xml and report.html again.

    REPORT is a report.json of any age, which stays as it is.

    \b
    Exit codes:
      0  written
      2  the report cannot be read, or junit.xml and report.html cannot be written
      3  the output cannot be written
      130  interrupted
    """
    from robustcheck.report import read_report, render_reports
    from robustcheck.report.output import RENDERED, refuse_what_is_not_ours

    stated = read_report(report)
    refuse_what_is_not_ours(output or report.parent, RENDERED)
    for file in render_reports(stated, output or report.parent, images=report.parent):
        click.echo(str(file))


@main.command("replay")
@click.argument("report", type=click.Path(path_type=Path))
@_POLICY
def replay_command(report: Path, policy: Path) -> None:
    """Show a report's counterexamples to the candidate again.

    REPORT is a report.json, with counterexamples/ beside it. POLICY is the policy that it is about, with candidate and
    data. Nothing is searched, so a replay takes seconds. Each counterexample must be the image whose digest is stated,
    lie within the budget, be as far from the sample as stated, and be read as stated; clean images must be read as
    stated too. A gate must list all samples that it is about. Metrics, their intervals, requirements and verdicts must
    follow from the samples and from what is stated about the attack's health; anything not counted again is named.
    Statements about policy, candidate and data must be true, and junit.xml and report.html beside the report must be
    what it renders to. For counterexamples under viewing conditions (except stickers) and those of candidates that
    draw, only file and distance are compared. Only running the policy again shows that a sample held.

    A policy names code (an architecture, trust: pickle, operators, module:callable), which is executed as in any run.
    Files of the candidate that do not match the report are refused first; but someone who made both can have made them
    agree, so replay a stranger's policy in a container.

    \b
    Exit codes:
      0  nothing is amiss
      1  something is
      2  the report or the policy cannot be used, or the one is not about the other
      3  candidate or data cannot be loaded, or the output cannot be written
      130  interrupted
    """
    loaded = _load(policy)
    from robustcheck.report import read_report
    from robustcheck.report.file_comparison import with_files
    from robustcheck.report.pictures import read_stored
    from robustcheck.report.progress import Bars
    from robustcheck.report.replay import replay_line, replay_table, replay_text

    stated = read_report(report)
    with Bars(quiet=False) as bars:
        from robustcheck.evaluation.replay.replaying import replay

        found = replay(loaded, stated, partial(read_stored, report.parent), progress=bars.update)
    found = with_files(found, stated, report)
    with last_words(0 if found.agrees else 1):
        print_table(replay_table(found))
        click.echo(replay_text(found), nl=False)
        click.echo(replay_line(found))


def _load(policy: Path) -> Policy:
    """Read the policy first, so that its mistakes are reported before anything heavy is imported."""
    from robustcheck.policy import load_policy

    return load_policy(policy)
