"""The `robustcheck` command; whole runs are in `evaluation`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from building import brightness_policy, brightness_project
from click.testing import CliRunner

from robustcheck.cli import main
from robustcheck.errors import EvaluationError
from robustcheck.policy import ATTACKS

POLICY = """robustcheck: 1
name: Röntgen
model: {path: candidate.onnx, task: multiclass, labels: [normal, pneumonia]}
data: {source: phantom:nodule}
gates:
  - {id: clean, require: {accuracy: 0.8, balanced_accuracy: ">= 0.75"}}
  - {id: pgd, attack: pgd, epsilon: [1/255, 2/255], require: {accuracy: [0.7, 0.6]}}
"""
PLANNED = """
  - {id: clean, require: {accuracy: 0.7}}
  - {id: pgd, attack: {name: pgd, steps: 5}, epsilon: 1/255, require: {accuracy: 0.7}}
"""
MISTAKEN = POLICY.replace("0.8,", "80,").replace("attack: pgd", "attack: pdg")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a candidate that nothing looks into."""
    (tmp_path / "candidate.onnx").touch()
    (tmp_path / "policy.yaml").write_text(POLICY, encoding="utf-8")
    (tmp_path / "mistaken.yaml").write_text(MISTAKEN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments):
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def process(*arguments, **environment):
    program = "from robustcheck.cli import main; main(prog_name='robustcheck')"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, env=os.environ | environment, check=False
    )


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_says_how_to_begin(flag):
    done = command(flag)
    assert done.exit_code == 0
    assert done.stderr == ""
    for name, about in main.commands.items():
        assert f"  {name}" in done.stdout
        assert command(name, flag).exit_code == 0
        assert about.help
    assert "..." not in done.stdout.split("Commands:")[1], "a summary is cut off"
    assert "pytest --robustcheck policy.yaml" in done.stdout


def test_help_of_run_lists_the_exit_codes():
    text = command("run", "--help").stdout
    for code in (
        "0  every gate passed",
        "1  a gate failed",
        "2  the policy",
        "3  a gate could not",
        "4  only inconclusive",
    ):
        assert code in text
    assert "error > fail > inconclusive > pass" in text


def test_validate_says_what_would_be_run(folder):
    done = command("validate", "policy.yaml")
    assert done.exit_code == 0
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "policy.yaml: 3 gates",
        "  clean: no attack; requires accuracy >= 0.8, balanced_accuracy >= 0.75",
        "  pgd[1/255]: pgd at 1/255; requires accuracy >= 0.7",
        "  pgd[2/255]: pgd at 2/255; requires accuracy >= 0.6",
    ]


@pytest.mark.parametrize("name", ["validate", "plan", "run"])
def test_every_mistake_is_said_on_stderr_as_file_and_line(folder, name):
    done = command(name, "mistaken.yaml")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "mistaken.yaml:6: gates[0].require.accuracy: found 80; accuracy lies between 0 and 1; did you mean 0.8?",
        "mistaken.yaml:7: gates[1].attack: unknown attack 'pdg'; this version has fgsm, pgd, apgd, fmn, ensemble, nes, "
        "square, partial_information, label_only, hopskipjump, rays, noise, transfer, patch, rp2; did you mean 'pgd'?",
    ]
    assert not (folder / "robustcheck-report").exists()


@pytest.mark.parametrize("name", ["validate", "plan", "run"])
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("polcy.yaml", "polcy.yaml: there is no such file; did you mean 'policy.yaml'?"),
        ("candidate.onnx", "candidate.onnx: is empty; `robustcheck: 1`, model, data and gates are needed"),
        (".", ".: is a folder; name the policy file in it"),
    ],
)
def test_what_is_no_policy(folder, name, policy, message):
    done = command(name, policy)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"{message}\n")


def test_an_absolute_path_is_shown_as_typed(folder):
    done = command("validate", str(folder / "mistaken.yaml"))
    assert done.stderr.startswith(f"{folder / 'mistaken.yaml'}:6: ")


def test_a_mistake_costs_no_torch(folder):
    program = (
        "import sys\n"
        "from robustcheck.cli import main\n"
        "try:\n"
        "    main(['run', 'mistaken.yaml'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 2\n"
        "assert not {'torch', 'onnxruntime', 'numpy', 'scipy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_output_folder_that_cannot_be(folder):
    (folder / "reports").write_text("a file")
    done = command("run", "policy.yaml", "-o", "reports/here")
    assert done.exit_code == 2
    assert done.stderr.startswith("cannot write reports to reports/here: ")


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("run", "policy.yaml"), "robustcheck.evaluation.run.run"),
        (("run", "policy.yaml"), "robustcheck.policy.load_policy"),
        (("plan", "policy.yaml"), "robustcheck.policy.load_policy"),
        (("plan", "policy.yaml"), "robustcheck.evaluation.planning.planning.plan"),
        (("validate", "policy.yaml"), "robustcheck.policy.load_policy"),
        (("qualify",), "robustcheck.qualification.qualify"),
        (("qualify",), "robustcheck.report.qualification.qualification_table"),
    ],
)
def test_an_interrupt_is_no_failed_gate(folder, monkeypatch, arguments, where):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("robustcheck.qualification.qualify", lambda **_: SimpleNamespace(qualified=True))
    monkeypatch.setattr("robustcheck.report.qualification.write_qualification", lambda *_: [])
    monkeypatch.setattr(where, interrupted)
    done = command(*arguments)
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "")


def test_a_plan_is_a_table_and_a_line_and_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    brightness_project(tmp_path)
    (tmp_path / "policy.yaml").write_text(brightness_policy(PLANNED))
    before = set(tmp_path.iterdir())
    done = command("plan", "policy.yaml")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "clean: no attack" in done.stdout
    assert "pgd: pgd at 1/255, 10 samples attacked, at most about " in done.stdout
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"PLAN: at most about \S+ s, of which \S+ s to load; too few samples for clean, pgd", last)
    assert "\x1b" not in done.stdout
    assert {path for path in tmp_path.iterdir() if path.name != "__pycache__"} == before


def test_a_plan_for_programs(tmp_path):
    brightness_project(tmp_path)
    (tmp_path / "policy.yaml").write_text(brightness_policy(PLANNED))
    done = command("plan", str(tmp_path / "policy.yaml"), "--json", "--margin", "0.1", "--power", "0.8")
    assert (done.exit_code, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert plan["schema"] == "robustcheck/plan/1"
    assert (plan["margin"], plan["power"], plan["too_few"]) == (0.1, 0.8, ["clean", "pgd"])
    assert set(plan) == {
        "schema", "name", "margin", "power", "rule", "confidence", "interval", "samples", "groups", "device", "loading",
        "gates", "order", "steps", "seconds", "too_few",
    }  # fmt: skip
    clean, pgd = plan["gates"]
    assert set(pgd) == {
        "id", "attack", "budget", "attacked", "requirements", "forward", "gradient", "seconds", "notes", "error"
    }  # fmt: skip
    assert (clean["attack"], clean["forward"], clean["seconds"]) == (None, 0, 0)
    assert (pgd["attack"], pgd["budget"], pgd["attacked"], pgd["gradient"]) == ("pgd", "1/255", 10, 50)
    (required,) = pgd["requirements"]
    assert set(required) == {
        "metric", "bound", "supposed", "needed", "about", "never", "samples", "groups", "worth", "slice", "among",
        "enough", "power", "low", "high", "clean", "notes",
    }  # fmt: skip
    assert (required["bound"], required["samples"], required["enough"]) == (">= 0.7", 10, False)
    assert required["supposed"] == pytest.approx(0.8)
    assert plan["seconds"] == pytest.approx(plan["loading"] + pgd["seconds"])
    assert {step["kind"] for step in plan["steps"]} == {"forward", "pgd gradient"}


@pytest.mark.parametrize(
    "arguments", [["--margin", "0"], ["--margin", "0.6"], ["--margin", "nan"], ["--power", "1"], ["--power", "wide"]]
)
def test_a_margin_or_a_power_that_cannot_be(folder, arguments):
    done = command("plan", "policy.yaml", *arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert f"Invalid value for '{arguments[0]}'" in done.stderr


def test_a_plan_of_what_cannot_be_loaded_is_a_sentence(tmp_path):
    brightness_project(tmp_path)
    (tmp_path / "policy.yaml").write_text(brightness_policy(PLANNED))
    (tmp_path / "brightness.safetensors").write_bytes(b"no weights")
    for flags in ([], ["--json"]):
        done = command("plan", str(tmp_path / "policy.yaml"), *flags)
        assert done.exit_code == 3
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert "brightness.safetensors" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_of_files_begin_no_line_and_command_no_terminal(tmp_path):
    brightness_project(tmp_path)
    (tmp_path / "policy.yaml").write_text(brightness_policy(PLANNED, data="source: scans"))
    for name in ("bright", "dark", "dusk\n::error::all gates passed\x1b[2J"):
        (tmp_path / "scans" / name).mkdir(parents=True)
    done = command("plan", str(tmp_path / "policy.yaml"))
    assert done.exit_code == 3
    assert r"its subfolders are bright, dark, dusk\n::error::all gates passed\x1b[2J, and" in done.stderr


def test_messages_begin_no_line_and_command_no_terminal(folder, monkeypatch):
    def fail(*_, **__):
        raise EvaluationError("it says\n::error::all gates passed\x1b[2J")

    monkeypatch.setattr("robustcheck.evaluation.planning.planning.plan", fail)
    done = command("plan", "policy.yaml")
    assert (done.exit_code, done.stderr) == (3, "it says\n| ::error::all gates passed\\x1b[2J\n")


def test_the_schema_of_a_policy():
    done = command("schema")
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {"robustcheck", "model", "data", "gates"} == set(schema["required"])


def test_the_schema_of_a_report():
    done = command("schema", "--report")
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["const"] == "robustcheck/report/1"


def test_the_attacks_with_what_they_take_and_cite():
    done = command("attacks")
    assert done.exit_code == 0
    blocks = dict(block.split("\n", 1) for block in re.split(r"\n(?=\w)", done.stdout))
    assert list(blocks) == list(ATTACKS)
    for name, spec in ATTACKS.items():
        assert f"  source  {spec.source}" in blocks[name]
        for parameter in spec.model_fields.keys() - {"name"}:
            assert f"  takes   {parameter}: " in blocks[name]


@pytest.mark.parametrize(
    ("attack", "takes"),
    [
        ("pgd", "steps: gradient steps per restart; 1 to 100,000 (default: 40)"),
        ("pgd", "step_size: size of a step (default: 2.5 * epsilon / steps); 2/255, 0.01 or '3 levels'"),
        ("pgd", "random_start: start at a random point of the ball, not at the image (default: true)"),
        ("fgsm", "loss: the loss to maximise: cross_entropy, margin, or dlr (the margin, independent of the"),
        ("hopskipjump", "momentum: share of the earlier estimates that is kept (in the paper none); at least 0, less"),
        ("patch", 'shape: its outline; circle, square (default: "circle")'),
        ("rp2", "size_weight: weight of the mean absolute change (λ); at least 0 (default: 0.4)"),
        (
            "rp2",
            "distances: distances of the grid that it is judged on; at 1 the image fills the view; more than 0, at",
        ),
    ],
)
def test_the_attacks_with_what_each_value_may_be(attack, takes):
    blocks = dict(block.split("\n", 1) for block in re.split(r"\n(?=\w)", command("attacks").stdout))
    assert f"  takes   {takes}" in blocks[attack]


@pytest.mark.parametrize(
    "arguments", [["atacks"], ["validate"], ["validate", "a", "b"], ["schema", "--polcy"], ["run"]]
)
def test_what_is_no_command(arguments):
    done = command(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Usage: ")


def test_nothing_at_all_is_a_question_for_help():
    assert "Commands:" in command().output


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "none.json: there is no such file"),
        ("report.json", b"", "report.json: not a robustcheck report: "),
        ("report.json", b"\xff\xfe", "report.json: not a robustcheck report: "),
        ("report.json", b'{"schema": "robustcheck/report/9"}', "report.json: not a robustcheck report: "),
        (".", None, ".: is not a file"),
    ],
)
def test_render_of_what_is_no_report(folder, name, content, message):
    if content is not None:
        (folder / name).write_bytes(content)
    before = set(folder.iterdir())
    done = command("render", name)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert set(folder.iterdir()) == before


def test_render_writes_the_reports_again(folder):
    report = {
        "verdict": "error",
        "policy": {"path": "policy.yaml", "name": "Röntgen", "sha256": "0" * 64},
        "model": None,
        "data": None,
    }
    (folder / "old.json").write_text(json.dumps(report))
    done = command("render", "old.json", "-o", "again")
    assert (done.exit_code, done.stderr) == (0, "")
    files = [Path(line) for line in done.stdout.splitlines()]
    assert {file.name for file in files} == {"junit.xml", "report.html"}
    assert all(file.parent == Path("again") and file.stat().st_size for file in files)
    assert sorted(path.name for path in Path("again").iterdir()) == ["junit.xml", "report.html"]
    assert json.loads((folder / "old.json").read_text()) == report


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_console_that_has_not_every_letter(folder, encoding):
    (folder / "röntgen-ε.yaml").write_text(POLICY, encoding="utf-8")
    for arguments in (["attacks"], ["validate", "röntgen-ε.yaml"]):
        done = process(*arguments, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        assert b"Traceback" not in done.stderr


def test_the_version():
    done = command("--version")
    assert done.exit_code == 0
    assert done.stdout.startswith("robustcheck, version ")
