"""Whole policies in one process, on candidates whose robustness is known."""

from __future__ import annotations

import errno
import hashlib
import random
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from building import LEVELS, accuracy_at, brightness_gates, brightness_policy, brightness_project, flat_images
from click.testing import CliRunner
from PIL import Image
from rawpng import grey_png

from robustcheck import load_policy, read_report, run
from robustcheck.cli import main
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.sharing import shared_answer
from robustcheck.importing import import_callable
from robustcheck.models.process_settings import check_convolutions, left_as_found
from robustcheck.report.writing import write_reports
from robustcheck.results import AuditReport

LADDER = """
  - id: clean
    require: {accuracy: 1.0, sensitivity: 1.0, auroc: 1.0}
  - id: pgd
    attack: {name: pgd, steps: 5}
    epsilon: [1/255, 2/255, 4/255, 8/255]
    require: {accuracy: [0.8, 0.6, 0.5, 0.1], attack_success: "<= 0.7"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    brightness_project(tmp_path)
    return tmp_path


def _report(project: Path, gates: str, **kwargs) -> AuditReport:
    (project / "policy.yaml").write_text(brightness_policy(gates, **kwargs))
    return run(load_policy(project / "policy.yaml"), folder=project / "out")


def _plain(report: AuditReport) -> list:
    """What has to be the same each time: everything but clocks."""
    return [replace(gate, cost=replace(gate.cost, seconds=0)) for gate in report.gates]


def test_accuracy_at_every_budget_is_the_closed_form(project):
    report = _report(project, LADDER)
    measured = [gate.metrics["accuracy"].value for gate in report.gates]
    assert measured == [1.0, *(accuracy_at(levels) for levels in (1, 2, 4, 8))]
    assert [gate.verdict for gate in report.gates] == ["pass", "pass", "pass", "fail", "fail"]
    assert report.verdict == "fail"


def test_counterexamples_are_carried_up_the_ladder_and_not_searched_again(project):
    report = _report(project, LADDER)
    first, second = report.gates[1], report.gates[2]
    assert {outcome.found_by for outcome in second.samples if outcome.status == "broken"} == {
        "pgd[1/255]",
        "pgd[2/255]",
    }
    held_before = sum(outcome.status == "held" for outcome in first.samples)
    assert second.cost.gradient <= held_before * 5
    for outcome in second.samples:
        if outcome.found_by == "pgd[1/255]":
            assert outcome.distance_levels == 1


def test_isolated_evidence_shares_nothing_and_finds_the_same(project):
    report = _report(project, LADDER, extra="evidence: isolated")
    for gate in report.gates[1:]:
        assert {outcome.found_by for outcome in gate.samples if outcome.status == "broken"} == {gate.id}
    assert [gate.metrics["accuracy"].value for gate in report.gates[1:]] == [accuracy_at(n) for n in (1, 2, 4, 8)]


def test_a_large_budget_written_first_still_inherits_from_smaller_ones(project):
    gates = """
  - {id: fgsm, attack: fgsm, epsilon: 8/255, require: {accuracy: 0}}
  - {id: pgd, attack: {name: pgd, steps: 5}, epsilon: 4/255, require: {accuracy: 0}}
"""
    fgsm, pgd = _report(project, gates).gates
    by_pgd = {outcome.sample for outcome in pgd.samples if outcome.status == "broken"}
    assert by_pgd
    assert by_pgd == {outcome.sample for outcome in fgsm.samples if outcome.found_by == "pgd"}


def test_budgets_are_put_in_order_by_the_depth_that_the_files_tell(project):
    for level, label in ((32_000, "dark"), (33_500, "bright")):
        (project / "scans" / label).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), level, np.uint16)).save(project / "scans" / label / "even.png")
    gates = """
  - {id: large, attack: fgsm, epsilon: 2/255, require: {accuracy: 0}}
  - {id: small, attack: fgsm, epsilon: 3 levels, require: {accuracy: 0}}
"""  # at 8 bits the order would be the other way round
    (project / "policy.yaml").write_text(brightness_policy(gates).replace("flat.npz", "scans"))
    order = []
    report = run(load_policy(project / "policy.yaml"), progress=lambda what, *_: order.append(what))
    assert report.data.bits == 16
    assert [gate.threat.epsilon_levels for gate in report.gates] == [514, 3]
    assert list(dict.fromkeys(order)) == ["loading", "small", "large"]


def test_a_ladder_written_downwards_reuses_what_is_near_enough(project):
    down = LADDER.replace("[1/255, 2/255, 4/255, 8/255]", "[8/255, 4/255, 2/255, 1/255]")
    report = _report(project, down)
    assert [gate.metrics["accuracy"].value for gate in report.gates[1:]] == [accuracy_at(n) for n in (8, 4, 2, 1)]


def test_the_evidence_can_be_checked_without_robustcheck(project):
    report = _report(project, LADDER)
    for gate in report.gates[1:]:
        for index, outcome in enumerate(gate.samples):
            if outcome.status != "broken":
                assert outcome.counterexample is None
                continue
            pixels = np.asarray(Image.open(project / "out" / outcome.counterexample))
            assert hashlib.sha256(pixels.tobytes()).hexdigest() == outcome.sha256
            change = np.abs(pixels.astype(int) - LEVELS[index]).max()
            assert change == outcome.distance_levels <= gate.threat.epsilon_levels
            assert (pixels.mean() > 127.5) == (outcome.attacked == "bright") != (outcome.label == "bright")


def test_images_of_four_bits_are_attacked_in_their_own_levels(project):
    """And their counterexamples can be stored in four bits, and replayed."""
    for level in range(16):
        path = project / "few" / ("bright" if level > 7.5 else "dark") / f"{level:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(grey_png(np.full((8, 8), level), 4))
    gates = "  - {id: pgd, attack: {name: pgd, steps: 5}, epsilon: [1 level, 8 levels], require: {accuracy: 0}}"
    report = _report(project, gates, data="source: few")
    assert (report.data.bits, report.verdict) == (4, "pass")
    few, all_ = ([o for o in gate.samples if o.status == "broken"] for gate in report.gates)
    assert ([outcome.sample[-6:-4] for outcome in few], len(all_)) == (["08", "07"], 16)
    for outcome in all_:
        stored = np.asarray(Image.open(project / "out" / outcome.counterexample)).astype(int)
        assert stored.max() <= 15
        assert np.abs(stored - int(outcome.sample[-6:-4])).max() <= 8
    write_reports(report, project / "out")
    assert "data:image/png" in (project / "out" / "report.html").read_text()
    result = CliRunner().invoke(main, ["replay", str(project / "out" / "report.json"), str(project / "policy.yaml")])
    assert result.exit_code == 0, result.output


def test_clean_images_are_kept_beside_the_first_counterexamples(project):
    _report(project, LADDER)
    clean = sorted((project / "out" / "counterexamples" / "clean").iterdir())
    assert clean
    for file in clean:
        assert (np.asarray(Image.open(file)) == LEVELS[int(file.stem)]).all()


def test_a_full_disk_is_said_and_leaves_no_half_of_a_counterexample(project, monkeypatch):
    def full(_image, file, **_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    (gate,) = _report(project, "  - {id: fgsm, attack: fgsm, epsilon: 4/255, require: {accuracy: 0}}").gates
    where = project / "out" / "counterexamples"
    assert (gate.verdict, gate.error) == ("error", f"cannot write counterexamples to {where}: no space left on device")
    assert not [path for path in (project / "out").rglob("*") if path.is_file()]


def test_the_same_policy_gives_the_same_answer(project):
    assert _plain(_report(project, LADDER)) == _plain(_report(project, LADDER))


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_size_changes_no_outcome(project, batch):
    def outcomes(report):
        return [(gate.id, gate.samples, gate.verdict) for gate in report.gates]

    assert outcomes(_report(project, LADDER, model=f"batch_size: {batch}")) == outcomes(_report(project, LADDER))


def test_a_subset_s_draws_are_those_of_the_whole(project):
    whole = _report(project, LADDER)
    (project / "policy.yaml").write_text(brightness_policy(LADDER).replace("flat.npz", "flat.npz, samples: 6"))
    part = run(load_policy(project / "policy.yaml"))
    expected = {outcome.sample: outcome.sha256 for outcome in whole.gates[1].samples}
    assert part.data.samples == 6
    assert {outcome.sample: outcome.sha256 for outcome in part.gates[1].samples}.items() <= expected.items()


def test_nothing_global_is_left_changed(project):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    _report(project, LADDER)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)


@contextmanager
def _default(setter, value, before):
    setter(value)
    try:
        yield
    finally:
        setter(before)


@pytest.mark.parametrize(
    "around",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: _default(torch.set_default_dtype, torch.float64, torch.float32),
        lambda: _default(torch.set_default_device, "meta", None),
        lambda: torch.device("meta"),
        torch.inference_mode,
        torch.no_grad,
    ],
    ids=["autocast", "float64", "default device", "device", "inference mode", "no_grad"],
)
def test_what_the_caller_has_set_of_torch_changes_no_answer(project, around):
    source = project / "brightness.py"  # with a product of matrices, which autocast rounds
    text = source.read_text().replace("image.flatten(1).mean(dim=1)", "image.flatten(1) @ torch.full((64,), 1 / 64)")
    source.write_text(text)
    gates = LADDER.replace("[1/255, 2/255, 4/255, 8/255]", "2/255").replace("[0.8, 0.6, 0.5, 0.1]", "0.6")
    plain = _report(project, gates)
    check_convolutions.cache_clear()  # asked once a process
    with around():
        before = (torch.is_autocast_enabled("cpu"), torch.get_default_dtype(), torch.get_default_device())
        modes = (torch.is_inference_mode_enabled(), torch.is_grad_enabled())
        report = _report(project, gates)
        assert (torch.is_autocast_enabled("cpu"), torch.get_default_dtype(), torch.get_default_device()) == before
        assert (torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == modes
    assert _plain(report) == _plain(plain)
    assert report.model == plain.model


def test_an_autocast_of_the_candidate_s_own_is_kept(project):
    source = project / "brightness.py"
    said = "assert torch.mm(torch.ones(1, 1), torch.ones(1, 1)).dtype == torch.bfloat16\n            return"
    opened = f"with torch.autocast('cpu', dtype=torch.bfloat16):\n            {said}"
    source.write_text(source.read_text().replace("return", opened))
    plain = _report(project, LADDER)
    assert plain.gates[0].verdict == "pass"
    with torch.autocast("cpu", dtype=torch.float16):
        assert _plain(_report(project, LADDER)) == _plain(plain)


def test_the_report_says_how_many_threads_fitted(project, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("robustcheck.resources.processors", lambda: 2)
    with left_as_found():
        torch.set_num_threads(3)
        assert _report(project, LADDER).environment["threads"] == "2"
        assert torch.get_num_threads() == 3


def test_a_gate_asked_for_late_is_evaluated_after_those_that_it_inherits_from(project):
    (project / "policy.yaml").write_text(brightness_policy(LADDER))
    policy = load_policy(project / "policy.yaml")
    backwards, forwards = Evaluation(policy), Evaluation(policy)
    late = [backwards.gate(gate.id) for gate in reversed(policy.gates)][::-1]
    early = [forwards.gate(gate.id) for gate in policy.gates]
    assert [gate.samples for gate in late] == [gate.samples for gate in early]


def test_samples_wrong_from_the_start_are_not_attacked_and_count_as_wrong(tmp_path):
    brightness_project(tmp_path, threshold=130.5 / 255)
    report = _report(tmp_path, LADDER.replace("accuracy: 1.0, sensitivity: 1.0, auroc: 1.0", "accuracy: 0.7"))
    statuses = [outcome.status for outcome in report.gates[1].samples]
    assert statuses.count("wrong") == 2  # 128 and 129 are bright, and read as dark
    assert report.gates[0].metrics["accuracy"].value == 0.8
    success = report.gates[1].metrics["attack_success"]
    assert success.samples == 8


def test_auroc_falls_under_the_attack(project):
    report = _report(project, LADDER)
    values = [gate.metrics["auroc"].value for gate in report.gates]
    assert values[0] == 1.0
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.6


def test_a_progress_listener_sees_loading_and_every_gate(project):
    (project / "policy.yaml").write_text(brightness_policy(LADDER, model="batch_size: 4"))
    seen = []
    run(load_policy(project / "policy.yaml"), progress=lambda *step: seen.append(step))
    assert {what for what, _, _ in seen} == {"loading", "pgd[1/255]", "pgd[2/255]", "pgd[4/255]", "pgd[8/255]"}
    assert all(0 <= done <= of for _, done, of in seen)
    assert [(done, of) for what, done, of in seen if what == "loading"][-3:] == [(4, 10), (8, 10), (10, 10)]


def test_folders_and_files_may_be_named_by_texts(project):
    (project / "policy.yaml").write_text(brightness_policy(LADDER))
    folder = f"{project}/new"
    report = run(load_policy(f"{project}/policy.yaml"), folder=folder)
    write_reports(report, folder)
    assert read_report(f"{folder}/report.json") == report
    assert (project / "new" / "counterexamples").is_dir()


@pytest.mark.parametrize("at", ["loading", "pgd[2/255]"])
@pytest.mark.parametrize("error", [ValueError("enough"), SystemExit(3)])
def test_what_a_progress_listener_raises_ends_the_run(project, at, error):
    (project / "policy.yaml").write_text(brightness_policy(LADDER))

    def cancel(what, _done, _of):
        if what == at:
            raise error

    with pytest.raises(type(error)) as caught:
        run(load_policy(project / "policy.yaml"), progress=cancel)
    assert caught.value is error
    assert error.__context__ is None


def test_ctrl_c_keeps_what_was_finished(project):
    (project / "policy.yaml").write_text(brightness_policy(LADDER))

    def interrupt(what, _done, _of):
        if what == "pgd[2/255]":
            raise KeyboardInterrupt

    report = run(load_policy(project / "policy.yaml"), progress=interrupt)
    assert report.interrupted
    assert report.verdict == "error"
    assert [gate.id for gate in report.gates] == ["clean", "pgd[1/255]"]
    assert report.not_run == ("pgd[2/255]", "pgd[4/255]", "pgd[8/255]")
    assert report.interruption.gate == "pgd[2/255]"
    assert 0 <= report.interruption.seconds < report.seconds
    assert AuditReport.from_json(report.to_json()) == report


def test_the_architecture_s_source_is_part_of_the_candidate(project):
    (project / "sibling.py").write_text("sharp = 20.0\n")
    source = (project / "brightness.py").read_text()
    (project / "brightness.py").write_text("import sibling\n" + source)
    before = _report(project, LADDER).model
    assert [file.path for file in before.files] == ["brightness.safetensors", "brightness.py", "sibling.py"]
    (project / "brightness.py").write_text("import sibling\n" + source + "\n# another network\n")
    assert _report(project, LADDER).model.sha256 != before.sha256


def test_code_that_was_edited_since_an_earlier_run_is_what_is_judged(project):
    assert _report(project, LADDER).gates[0].metrics["accuracy"].value == 1.0
    source = project / "brightness.py"
    source.write_text(source.read_text().replace("return", "return -1 *"))
    report = _report(project, LADDER)
    assert report.gates[0].metrics["accuracy"].value == 0.0
    assert report.model.files[1].sha256 == hashlib.sha256(source.read_bytes()).hexdigest()


def test_code_that_is_edited_while_it_is_loaded_has_no_digest(project):
    source = project / "brightness.py"
    edit = "with open(__file__, 'a') as file: file.write('#')"
    source.write_text(source.read_text().replace("        return", f"        {edit}\n        return"))
    (error,) = {gate.error for gate in _report(project, LADDER).gates}
    assert error.endswith("changed while it was loaded, so what was judged has no digest")


# --- several workers -------------------------------------------------------------------------------------------------


def test_a_worker_leaves_the_selected_gates_of_a_family_to_the_others(project, monkeypatch):
    """And those alone, but for one that it is asked for."""
    (project / "policy.yaml").write_text(brightness_policy(LADDER))
    policy, folder = load_policy(project / "policy.yaml"), project / "answers"
    selected = ["clean", "pgd[1/255]", "pgd[4/255]"]
    first = shared_answer(Evaluation(policy), "pgd[4/255]", selected=selected, folder=folder)
    assert [path.stem for path in sorted(folder.glob("*.json"))] == ["answer-1", "answer-3"]
    with monkeypatch.context() as known:
        known.setattr("robustcheck.evaluation.sharing.answer", lambda *_, **__: pytest.fail("it is known"))
        assert shared_answer(Evaluation(policy), "pgd[4/255]", selected=selected, folder=folder) == first
        assert shared_answer(Evaluation(policy), "pgd[1/255]", selected=selected, folder=folder).gate.verdict == "pass"
    asked = shared_answer(Evaluation(policy), "pgd[8/255]", selected=selected, folder=folder)
    assert (asked.gate.id, asked.gate.verdict) == ("pgd[8/255]", "fail")


# --- gates that cannot be evaluated ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (NotImplementedError("no flock"), "this disk has no locks"),
        (OSError(errno.ENOLCK, "No locks available"), "No locks available"),
    ],
)
def test_workers_on_a_disk_without_locks_say_so(project, monkeypatch, raised, said):
    def refuse(*_given, **_more):
        raise raised

    monkeypatch.setattr("robustcheck.evaluation.sharing.FileLock.acquire", refuse)
    (project / "policy.yaml").write_text(brightness_policy(LADDER))
    evaluation, folder = Evaluation(load_policy(project / "policy.yaml")), project / "answers"
    gate = shared_answer(evaluation, "pgd[2/255]", selected=["pgd[2/255]"], folder=folder).gate
    assert (gate.id, gate.verdict) == ("pgd[2/255]", "error")
    assert gate.error == (
        f"workers cannot share results in {folder}: {said}; name a folder on a local disk with --robustcheck-output, "
        "or run without -n"
    )
    monkeypatch.undo()
    answered = shared_answer(evaluation, "pgd[2/255]", selected=["pgd[2/255]"], folder=folder)
    assert answered.gate.verdict == "pass"


def _errors(report: AuditReport) -> str:
    assert report.verdict == "error"
    assert all(gate.verdict == "error" for gate in report.gates)
    (message,) = {gate.error for gate in report.gates}
    return message


def test_weights_that_are_lost_make_every_gate_an_error(project):
    (project / "brightness.safetensors").write_bytes(b"not weights")
    assert "brightness.safetensors is not a complete safetensors file" in _errors(_report(project, LADDER))


def test_data_that_cannot_be_read_make_every_gate_an_error(project):
    (project / "flat.npz").write_bytes(b"PK\x03\x04 not really")
    assert "flat.npz" in _errors(_report(project, LADDER))


def test_code_of_the_user_that_fails_makes_gates_errors_and_not_a_crash(project):
    (project / "brightness.py").write_text(
        "import torch\nclass Brightness(torch.nn.Module):\n"
        "    def __init__(self):\n        raise ZeroDivisionError('here')\n"
    )
    assert "ZeroDivisionError: here" in _errors(_report(project, LADDER))


@pytest.mark.parametrize("where", ["__init__", "forward"])
def test_code_of_the_user_that_exits_is_no_way_to_be_green(project, where):
    source = (project / "brightness.py").read_text()
    line = f"    def {where}("
    at = source.index("\n", source.index(line)) + 1
    (project / "brightness.py").write_text(source[:at] + "        raise SystemExit(0)\n" + source[at:])
    assert "SystemExit" in _errors(_report(project, LADDER))


HIDDEN = """
import torch

class Brightness(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, image):
        rounded = (image * 16).round() / 16  # its gradient is zero: the attack is blind
        excess = (rounded.flatten(1).mean(dim=1) - self.threshold) * 20
        return torch.stack([-excess, excess], dim=1)
"""


def test_a_candidate_that_hides_its_gradients_does_not_pass(project):
    (project / "brightness.py").write_text(HIDDEN)
    gates = (
        "  - {id: pgd, attack: {name: pgd, steps: 5, random_start: false}, epsilon: 8/255, require: {accuracy: 0.5}}"
    )
    (gate,) = _report(project, gates).gates
    assert gate.verdict == "error"
    assert "nothing to follow on" in gate.error
    assert [finding.code for finding in gate.findings] == ["no-usable-gradient", "loss-rises"]


SMOOTHED = """
import torch

class Brightness(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, image):
        excess = (image.flatten(1).mean(dim=1) - self.threshold) * 20000
        return torch.stack([-excess, excess], dim=1).softmax(dim=1)END
"""


@pytest.mark.parametrize(("end", "told"), [(" * 0.98 + 0.01", True), ("", False)])
def test_probabilities_that_do_not_end_in_a_softmax_are_told_what_to_end_in(project, end, told):
    (project / "brightness.py").write_text(SMOOTHED.replace("END", end))
    gates = "  - {id: pgd, attack: {name: pgd, steps: 5}, epsilon: 8/255, require: {accuracy: 0.5}}"
    (gate,) = _report(project, gates).gates
    messages = [finding.message for finding in gate.findings if finding.code == "no-usable-gradient"]
    advice = "should end in the softmax or sigmoid that makes them, or give logits"
    assert any(advice in message for message in messages) is told


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_who_ends_in_a_softmax_that_is_not_left_off_is_told_to_give_logits(project):
    (project / "brightness.py").write_text(SMOOTHED.replace("END", ""))
    torch.jit.script(import_callable("brightness:Brightness", folder=project)()).save(project / "brightness.ts")
    gates = "  - {id: pgd, attack: {name: pgd, steps: 5}, epsilon: 8/255, require: {accuracy: 0.5}}"
    policy = brightness_policy(gates).replace("brightness.safetensors", "brightness.ts")
    (project / "policy.yaml").write_text(policy.replace("  architecture: brightness:Brightness\n", ""))
    (gate,) = run(load_policy(project / "policy.yaml")).gates
    (message,) = [finding.message for finding in gate.findings if finding.code == "no-usable-gradient"]
    assert message.endswith("; a candidate that gives logits hides less than one that gives probabilities")


def test_a_gate_that_fails_anyway_fails_and_says_that_it_was_blind(project):
    (project / "brightness.py").write_text(HIDDEN)
    gates = "  - {id: pgd, attack: {name: pgd, steps: 5}, epsilon: 8/255, require: {accuracy: '<= 0.1'}}"
    (gate,) = _report(project, gates).gates
    assert gate.verdict == "fail"
    assert gate.findings


def test_a_budget_below_one_level_of_these_images_is_an_error_of_its_gate(project):
    # Files say their depth only when they are read, so a policy alone cannot show this mistake.
    gates = "  - {id: fgsm, attack: fgsm, epsilon: 0.5/255, require: {accuracy: 0}}"
    (gate,) = _report(project, gates).gates
    assert gate.verdict == "error"
    assert "0.5/255 is 0.5 of a grey level" in gate.error


def test_onnx_is_judged_by_onnx_runtime_and_searched_through_its_twin(project):
    class Brightness(torch.nn.Module):
        def forward(self, image):
            excess = (image.flatten(1).mean(dim=1) - 0.5) * 20
            return torch.stack([-excess, excess], dim=1)

    torch.onnx.export(
        Brightness().eval(), (torch.rand(2, 1, 8, 8),), project / "brightness.onnx", dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False,
    )  # fmt: skip
    text = brightness_policy(LADDER).replace("brightness.safetensors", "brightness.onnx")
    text = "\n".join(line for line in text.splitlines() if "architecture" not in line)
    (project / "policy.yaml").write_text(text)
    report = run(load_policy(project / "policy.yaml"))
    clean, *attacked = report.gates
    assert clean.metrics["accuracy"].value == 1.0
    for gate in attacked:
        assert gate.metrics["accuracy"].value == accuracy_at(gate.threat.epsilon_levels)
    assert any("twin" in note for note in report.model.notes)


NO_ANSWERS = """
import torch

class Brightness(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, image):
        excess = (image.flatten(1).mean(dim=1) - self.threshold) * 20
        broken = (image * 255).round().flatten(1).amax(dim=1) % 2 == 1  # flat images of an odd level have no answer
        excess = torch.where(broken & (image.flatten(1).std(dim=1) > 0), torch.nan, excess)
        return torch.stack([-excess, excess], dim=1)
"""


def test_a_sample_without_an_answer_counts_as_wrong_in_every_metric(project):
    (project / "brightness.py").write_text(NO_ANSWERS)
    report = _report(project, "  - {id: pgd, attack: pgd, epsilon: 1/255, require: {auroc: 0.9, accuracy: 0.9}}")
    (gate,) = report.gates
    silent = [outcome for outcome in gate.samples if outcome.attacked == "(no answer)"]
    assert silent
    assert gate.verdict == "fail"
    assert gate.metrics["auroc"].value < 0.9
    assert AuditReport.from_json(report.to_json()) == report


def test_images_that_are_not_read_are_warned_of(tmp_path):
    """What is judged may be a part of what is meant."""
    brightness_project(tmp_path)
    for level in (60, 190):
        folder = tmp_path / "scans" / ("dark" if level < 128 else "bright")
        folder.mkdir(parents=True)
        for name in ("a.png", "b.bmp"):
            Image.fromarray(np.full((8, 8), level, np.uint8)).save(folder / name)
    gates = (
        "  - {id: clean, require: {accuracy: 0.5}}\n  - {id: pgd, attack: pgd, epsilon: 1/255, require: {accuracy: 0}}"
    )
    (tmp_path / "policy.yaml").write_text(brightness_policy(gates, data="source: scans"))
    for gate in run(load_policy(tmp_path / "policy.yaml"), folder=tmp_path / "out").gates:
        (finding,) = [finding for finding in gate.findings if finding.code == "images-left-out"]
        assert finding.severity == "warning"
        assert finding.message == (
            "2 entries that are not PNG, JPEG, TIFF or DICOM were left out: bright/b.bmp, dark/b.bmp; if they are "
            "images, store them as files that are read, one a sample, or list all in a .csv"
        )


@pytest.mark.parametrize("attack", ["", "attack: fgsm, epsilon: 1/255, "])
def test_a_label_without_samples_is_no_label_that_is_read_rightly(attack, tmp_path):
    """Who always says `bright` reads all samples rightly of a folder that holds nothing else."""
    brightness_project(tmp_path, threshold=0.0)
    flat_images(tmp_path, [160] * 10, [1] * 10)
    gates = "".join(
        f"  - {{id: {metric}, {attack}require: {{{metric}: 0.9}}}}\n" for metric in ("balanced_accuracy", "accuracy")
    )
    balanced, plain = brightness_gates(tmp_path, gates)
    assert (balanced.verdict, plain.verdict) == ("error", "pass")
    assert balanced.error == ("balanced_accuracy cannot be measured on these samples: it needs samples of every label")
    for gate in (balanced, plain):
        (finding,) = [finding for finding in gate.findings if finding.code == "label-without-samples"]
        assert finding.message == (
            "no sample has the label dark: how the candidate reads it is not measured, and balanced_accuracy is "
            "undefined; add such samples, or take it out of model.labels if the candidate does not know it"
        )
