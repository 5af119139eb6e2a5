"""Several worker processes, one policy, the same answers as one process.

The gates of one family inherit from one another, so whichever worker first needs one of them evaluates the family
under a lock; the others wait and read. Families run side by side, except for gates that are compared. A white-box gate
waits for gates with a narrower goal, less knowledge or a single step; a gate that queries an oracle waits for `noise`
gates; a patch gate waits for smaller patches, and for those that may do no more. Never the reverse, so workers cannot
deadlock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.results import Answer, GateResult
from robustcheck.whole_files import replacing


def answer(
    evaluation: Evaluation,
    gate_id: str,
    *,
    selected: Sequence[str],
    elsewhere: Callable[[str], GateResult] | None = None,
) -> Answer:
    """A gate's result, evaluated in this process, with what it was measured on."""
    return _answer(evaluation, evaluation.gate(gate_id, selected=selected, elsewhere=elsewhere))


def shared_answer(evaluation: Evaluation, gate_id: str, *, selected: Sequence[str], folder: Path) -> Answer:
    """A gate's result, evaluated by this worker or read from `folder`, where all workers of a run leave theirs."""
    order = [gate.id for gate in evaluation.policy.gates]
    files = {name: folder / f"answer-{index}.json" for index, name in enumerate(order)}
    family = [gate.id for gate in evaluation.family(gate_id)]
    folder.mkdir(exist_ok=True)

    def elsewhere(other: str) -> GateResult:
        """The result of a gate that this one is compared with, and which never waits for this one."""
        return shared_answer(evaluation, other, selected=selected, folder=folder).gate

    try:
        lock = FileLock(folder / f"family-{order.index(family[0])}.lock").acquire()
    except (OSError, NotImplementedError) as error:  # the latter is filelock's word for a disk without locks
        reason = getattr(error, "strerror", None) or "this disk has no locks"
        return _answer(
            evaluation,
            evaluation.not_evaluated(
                gate_id,
                f"workers cannot share results in {folder}: {reason}; name a folder on a local disk with "
                "--robustcheck-output, or run without -n",
            ),
        )
    with lock:
        if not files[gate_id].exists():
            for name in family:
                if name in selected or name == gate_id:
                    own = answer(evaluation, name, selected=selected, elsewhere=elsewhere)
                    with replacing(files[name]) as part:
                        part.write_text(json.dumps(own.to_builtins()))
    return Answer.from_builtins(json.loads(files[gate_id].read_bytes()))


def _answer(evaluation: Evaluation, gate: GateResult) -> Answer:
    return Answer(gate=gate, model=evaluation.model, data=evaluation.data, environment=evaluation.environment)
