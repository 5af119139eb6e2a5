"""Runs the known answers as any policy is run: from a policy file, weights and a report."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from robustcheck.errors import ReportError
from robustcheck.evaluation.progress import Listener, silent
from robustcheck.evaluation.run import run
from robustcheck.policy import Policy, load_policy
from robustcheck.qualification import candidates
from robustcheck.qualification.coverage import not_covered
from robustcheck.qualification.images import SIDE, template
from robustcheck.qualification.known_answers import (
    ATTACK,
    GATES,
    KNOWN,
    NO_GRADIENT,
    NOTHING_TO_FOLLOW,
    Known,
    true_accuracy,
)
from robustcheck.results import AuditReport, GateResult
from robustcheck.results.qualification import KnownAnswer, Qualification

_HERE = "robustcheck.qualification"


def qualify(known: tuple[Known, ...] = KNOWN, *, progress: Listener = silent) -> Qualification:
    """Run every known answer in a temporary folder.

    Args:
        known: the candidates, with their answers.
        progress: told what is being done, how many candidates are done, and of how many.

    Raises:
        KeyboardInterrupt: it was interrupted: what is known so far qualifies nothing.
        ReportError: there is no temporary folder.
    """
    started, began = datetime.now(UTC), time.perf_counter()
    answers, environment = list[KnownAnswer](), dict[str, str]()
    policies, reports = list[Policy](), list[AuditReport]()
    for number, one in enumerate(known):
        progress("qualifying", number, len(known))
        with _temporary_folder() as folder:
            policies.append(load_policy(_write(one, Path(folder)), shown="policy.yaml"))
            report = run(policies[-1])
        if report.interrupted:
            raise KeyboardInterrupt
        reports.append(report)
        environment, gates = report.environment, {gate.id: gate for gate in report.gates}
        images = report.data.samples if report.data else 0
        answers += [_answer(one, name, gates.get(name), images) for name in one.gates]
    progress("qualifying", len(known), len(known))
    return Qualification(
        qualified=all(answer.agrees for answer in answers),
        environment=environment,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - began, 1),
        answers=tuple(answers),
        not_covered=tuple(not_covered(policies, reports)),
    )


def _temporary_folder() -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory(prefix="robustcheck-qualify-")
    except OSError as error:
        raise ReportError(
            "the known answers need a temporary folder for their policies and weights, but there is none: "
            f"{error.strerror or error}; set TMPDIR to a folder that can be written"
        ) from None


def _answer(known: Known, name: str, gate: GateResult | None, images: int) -> KnownAnswer:
    """What one gate of a candidate had to answer on so many images, and what it did."""
    if gate is None:
        expected, found, caught, agrees = "an answer", "none", list[str](), False
    else:
        expected, caught, agrees = _of_masked(known, gate) if known.caught_by else _of_accuracy(known, gate, images)
        accuracy = _accuracy(gate)
        found = gate.verdict if accuracy is None else f"{gate.verdict}, {accuracy:.3f}"
    return KnownAnswer(
        candidate=known.name,
        what=known.what,
        gate=name,
        expected=expected,
        found=found,
        caught_by=", ".join(caught),
        agrees=agrees,
    )


def _of_accuracy(known: Known, gate: GateResult, images: int) -> tuple[str, list[str], bool]:
    """What a gate has to answer that leaves a known accuracy, what it is accused of, and whether it answered that."""
    measured, required = _accuracy(gate), known.gates[gate.id]
    accused = [*_codes(gate, "error"), *_codes(gate, "warning")]
    true = 1.0 if known.images == "far_images" else true_accuracy(gate.id)
    # Random search comes near, and so does the nearest storable image in L2; signs of gradients leave nothing.
    near = gate.attack == "square" or (gate.attack == "pgd" and gate.threat is not None and gate.threat.norm == "l2")
    slack, half = 0.05 if near else 0.0, 0.5 / max(1, images)  # half an image: what rounding may make
    agrees = (
        measured is not None
        and true - half < measured < true + slack + half
        and gate.verdict == ("pass" if measured >= required else "fail")
        and not accused
    )
    expected = f"{'pass' if true >= required else 'fail'}, {true:.3f}" + (f" to {true + slack:.3f}" if near else "")
    return expected, accused, agrees


def _of_masked(known: Known, gate: GateResult) -> tuple[str, list[str], bool]:
    """What has to keep a candidate that hides its gradients from passing, what did, and whether it was that."""
    caught, warned = _caught(gate), _codes(gate, "warning")
    agrees = known.caught_by in caught and (not known.draws or "same-answers" in warned)
    expected = f"no pass, caught by {known.caught_by}" + (", drawing seen" if known.draws else "")
    return expected, [*caught, *warned], agrees


def _caught(gate: GateResult) -> list[str]:
    """What keeps a masked candidate from passing; nothing, if something else went wrong."""
    error = gate.error or ""
    if gate.verdict == "fail":
        return [ATTACK]
    if gate.verdict != "error":
        return []
    said = {NOTHING_TO_FOLLOW: "the attack had little or nothing to follow", NO_GRADIENT: "it has no gradient"}
    return [*(name for name, words in said.items() if words in error), *_codes(gate, "error")]


def _accuracy(gate: GateResult) -> float | None:
    return gate.metrics["accuracy"].value if "accuracy" in gate.metrics else None


def _codes(gate: GateResult, severity: Literal["warning", "error"]) -> list[str]:
    return [finding.code for finding in gate.findings if finding.severity == severity]


def _write(known: Known, folder: Path) -> Path:
    """Write a candidate's policy, and the files that it names, to a folder; returns the policy."""
    module = getattr(candidates, known.network)()
    path = f"candidate.{known.format}"
    if known.format == "onnx":
        _write_onnx(folder / path)
    else:
        save_file(module.state_dict(), folder / path)
    save_file(candidates.Template().state_dict(), folder / "surrogate.safetensors")
    architecture = f"architecture: '{_HERE}.candidates:{known.network}'" if known.format == "safetensors" else ""
    gates = "\n".join(
        f"  - {{id: {gate}, {GATES[gate]}, require: {{accuracy: {bound}}}}}" for gate, bound in known.gates.items()
    )
    policy = folder / "policy.yaml"
    policy.write_text(f"""
robustcheck: 1
name: {known.name!r}
model:
  path: {path}
  {architecture}
  task: multiclass
  labels: [below, above]
  positive: above
  output: {known.output}
data: {{source: '{_HERE}.images:{known.images}'}}
evidence: isolated
gates:
{gates}
""")
    return policy


def _write_onnx(path: Path) -> None:
    """`candidates.Template` as a graph: flatten, and a product with the template."""
    pixels = SIDE * SIDE
    column = torch.from_numpy(template()).float().view(pixels, 1) * (255 * candidates.GAIN / pixels)
    weights = torch.cat([-column, column], dim=1).numpy()
    shape: list[str | int | None] = ["batch", 1, SIDE, SIDE]
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "weights"], ["logits"])],
        "template",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
