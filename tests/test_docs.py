"""What the documentation shows can be typed, and says what it says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from building import accuracy_at, brightness_policy, brightness_project
from PIL import Image
from safetensors.torch import save_file

from robustcheck import load_policy, run
from robustcheck.errors import PolicyError
from robustcheck.evaluation.findings import CODES
from robustcheck.evaluation.health.checks import MEANINGS
from robustcheck.report.schema import schema_text

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEAD = """robustcheck: 1
model:
  path: candidate.onnx
  task: multiclass
  labels: [normal, pneumonia]
  positive: pneumonia
data: {source: images.npz}
gates:
"""


def _blocks(file: str, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall((ROOT / file).read_text(encoding="utf-8")) if kind == language]


def test_every_key_of_a_report_is_described():
    keys = set(_keys(json.loads(schema_text())))
    assert {"found_by", "health_forward", "distance_levels"} <= keys
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    assert keys == {key for key in keys if re.search(rf"`([a-z]+\.)?{key}`", page)}


def _keys(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _keys(part)


def test_every_finding_is_described():
    (table,) = re.findall(
        r"^## Findings\n(.*?)^## ", (ROOT / "docs" / "report.md").read_text(encoding="utf-8"), re.M | re.S
    )
    described = set(re.findall(r"`([a-z-]+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.M))))
    assert CODES - set(MEANINGS) <= described
    health = (ROOT / "docs" / "health.md").read_text(encoding="utf-8")
    assert {name for name in MEANINGS if f"| `{name}` |" in health} == set(MEANINGS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with all files that the examples name."""
    monkeypatch.chdir(tmp_path)
    for name in ("candidate.onnx", "candidate.safetensors", "theirs.safetensors", "ours-of-last-year.onnx", "nets.py"):
        (tmp_path / name).touch()
    shutil.copy(ROOT / "policies" / "networks.py", tmp_path)
    images = {f"{split}_images": np.zeros((4, 28, 28), np.uint8) for split in ("train", "test")}
    np.savez("images.npz", **images, **{f"{split}_labels": np.array([[0], [1]] * 2) for split in ("train", "test")})
    return tmp_path


@pytest.mark.parametrize(
    ("file", "least"),
    [("README.md", 1), ("docs/policy.md", 2), ("docs/patches.md", 3), ("docs/first-weeks.md", 1)],
    ids=lambda value: str(value),
)
def test_every_gate_that_is_shown_can_be_used(file, least, folder):
    policies = [
        text if text.startswith("robustcheck: 1") else HEAD + text.removeprefix("gates:\n")
        for text in _blocks(file, "yaml")
        if "  - id: " in text
    ]
    assert len(policies) >= least
    for text in policies:
        (folder / "policy.yaml").write_text(text, encoding="utf-8")
        assert load_policy(folder / "policy.yaml").gates


def test_the_mistakes_that_the_readme_shows_are_told_so(folder):
    (shown,) = re.findall(r"^```\n(policy\.yaml:.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (text,) = (text for text in _blocks("README.md", "yaml") if text.startswith("robustcheck: 1"))
    gate = "  - id: pgd\n    attack: pdg\n    epsilon: 8\n    require: {acuracy: 0.6}\n"
    lines = text[: text.index("  - id: pgd")] + gate
    (folder / "policy.yaml").write_text(lines, encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        load_policy(Path("policy.yaml"))
    told = [re.sub(r":\d+:", ":", line) for line in str(caught.value).splitlines()]
    assert told == [re.sub(r":\d+:", ":", line) for line in shown.splitlines()]


def test_the_program_that_runs_a_policy_writes_its_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    brightness_project(tmp_path)
    (program,) = (text for text in _blocks("docs/report.md", "python") if "load_policy" in text)
    (tmp_path / "policy.yaml").write_text("robustcheck: 1\nname: nothing\n")
    with pytest.raises(SystemExit, match=r"policy\.yaml"):
        exec(program, {})
    gate = "\n  - {id: pgd, attack: {name: pgd, steps: 5}, epsilon: 4/255, require: {accuracy: 0}}\n"
    (tmp_path / "policy.yaml").write_text(brightness_policy(gate))
    exec(program, {})
    assert capsys.readouterr().out == f"pgd pass {accuracy_at(4)}\n"
    written = {path.name for path in (tmp_path / "robustcheck-report").iterdir()}
    assert written == {"report.json", "junit.xml", "report.html", "counterexamples"}


def test_the_program_that_checks_a_report_without_robustcheck_tells_what_was_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    brightness_project(tmp_path)
    gate = "\n  - {id: pgd, attack: {name: pgd, steps: 5}, epsilon: 4/255, require: {accuracy: 0}}\n"
    (tmp_path / "robustcheck-report").mkdir()
    (tmp_path / "policy.yaml").write_text(brightness_policy(gate))
    report = run(load_policy(tmp_path / "policy.yaml"), folder=tmp_path / "robustcheck-report")
    (tmp_path / "robustcheck-report" / "report.json").write_text(report.to_json())
    (program,) = (text for text in _blocks("docs/report.md", "python") if "distance_levels" in text)
    exec(program, {})
    broken = next(outcome for outcome in report.gates[0].samples if outcome.status == "broken")
    file = tmp_path / "robustcheck-report" / broken.counterexample
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(file)
    with pytest.raises(AssertionError):
        exec(program, {})


def test_the_policy_about_several_findings_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (text,) = (text for text in _blocks("docs/first-weeks.md", "yaml") if "multilabel" in text)
    Path("policy.yaml").write_text(text, encoding="utf-8")
    net = "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(81, 3))"
    Path("networks.py").write_text(f"import torch\n\ndef of_findings():\n    return {net}\n")
    weights = torch.eye(3).repeat_interleave(27, dim=1)  # each finding has a third of the image
    save_file({"1.weight": weights, "1.bias": -weights.sum(dim=1) / 2}, "candidate.safetensors")
    present = np.arange(8)[:, None] >> np.arange(3) & 1  # each finding with each other, and without
    images = np.repeat(np.where(present, [125, 160, 160], 60).astype(np.uint8), 27, axis=1).reshape(8, 9, 9)
    np.savez("images.npz", test_images=images, test_labels=present ^ [0, 1, 0])  # no sample is right as a whole
    clean, effusion, nodule, alarm = run(load_policy(Path("policy.yaml"))).gates
    assert {gate.verdict for gate in (clean, effusion, nodule, alarm)} == {"pass"}
    assert (effusion.metrics["sensitivity"].value, alarm.metrics["specificity"].value) == (0.0, 1.0)
    assert nodule.metrics["sensitivity"].value == 1.0  # 160 of 255 is well above its threshold


def test_the_program_that_compares_two_reports_says_what_has_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    brightness_project(tmp_path)
    (program,) = _blocks("docs/first-weeks.md", "python")
    for number, level in ((1, 4), (2, 2)):
        gates = f"\n  - {{id: pgd, attack: pgd, epsilon: {level}/255, require: {{accuracy: 0}}}}\n"
        (tmp_path / "policy.yaml").write_text(brightness_policy(gates))
        (tmp_path / f"{number}.json").write_text(run(load_policy(tmp_path / "policy.yaml")).to_json())
    monkeypatch.setattr("sys.argv", ["compare.py", "1.json", "2.json"])
    exec(program, {})
    assert f"pgd accuracy {accuracy_at(4)} -> {accuracy_at(2)} interval 0." in capsys.readouterr().out
