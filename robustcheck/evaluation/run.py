"""A whole policy, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from robustcheck.evaluation.assembly import assemble
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.progress import Listener, ListenerError, ending
from robustcheck.interrupts import interrupts_ignored
from robustcheck.models.process_settings import fitting_threads
from robustcheck.policy import Policy
from robustcheck.results import AuditReport, GateResult


@fitting_threads()
def run(
    policy: Policy,
    *,
    folder: Path | str | None = None,
    progress: Listener | None = None,
    finished: Callable[[GateResult], None] | None = None,
) -> AuditReport:
    """Evaluate every gate of a policy.

    What keeps a gate from being evaluated makes it an `error` and raises nothing. Ctrl-C ends the run and is not raised
    either: look at the report's `interrupted`.

    Args:
        policy: what is asked.
        folder: where counterexamples are written; None writes none.
        progress: told how far long work is: what is being done (a gate's id, or "loading"), how many samples are done,
            and of how many. What it raises ends the run and is raised here, such as where somebody cancels.
        finished: told each gate's result as it comes. What it raises is raised here, too.

    Returns:
        The report. After Ctrl-C it holds the gates that were finished, names the others as not run, and its verdict is
        `error`.
    """
    started, began = datetime.now(UTC), time.monotonic()
    folder = None if folder is None else Path(folder)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    evaluation = Evaluation(policy, folder=folder, progress=progress and ending(progress))
    results: dict[str, GateResult] = {}
    interrupted, raised = False, None
    try:
        for gate in policy.gates:
            results[gate.id] = evaluation.gate(gate.id)
            if finished:
                finished(results[gate.id])
    except KeyboardInterrupt:
        interrupted = True
    except ListenerError as error:
        raised = error.raised
    if raised is not None:  # outside the `except`, where it would get a context
        raise raised
    with interrupts_ignored(interrupted):
        return assemble(
            policy,
            results,
            model=evaluation.model,
            data=evaluation.data,
            environment=evaluation.environment,
            started=started,
            seconds=time.monotonic() - began,
            interrupted=interrupted,
            interruption=evaluation.interruption,
        )
