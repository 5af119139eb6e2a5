"""What holds of the package as a whole: its weight, its names, its schema."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import robustcheck

HEAVY = {"torch", "onnx", "onnxruntime", "numpy", "pydantic", "jinja2", "scipy", "PIL", "rich", "yaml"}


def _modules_after(code: str) -> set[str]:
    program = f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["robustcheck", "robustcheck.plugin", "robustcheck.errors", "robustcheck.cli"])
def test_importing_costs_nothing_heavy(module):
    assert not _modules_after(f"import {module}") & HEAVY


@pytest.mark.parametrize("module", ["robustcheck.policy", "robustcheck.report", "robustcheck.evaluation.assembly"])
def test_policies_and_reports_need_no_torch(module):
    assert not _modules_after(f"import {module}") & {"torch", "onnx", "onnxruntime"}


def test_a_pytest_run_that_does_not_ask_loads_nothing_of_it(tmp_path):
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_nothing_is_loaded():\n"
        "    assert 'robustcheck.plugin' in sys.modules\n"
        "    ours = {name for name in sys.modules if name.startswith('robustcheck')}\n"
        "    assert ours == {'robustcheck', 'robustcheck.plugin'}\n"
        "    assert not {'torch', 'pydantic', 'onnxruntime', 'jinja2'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout


def test_the_public_names():
    assert robustcheck.__all__ == [
        "AuditReport",
        "EvaluationError",
        "GateResult",
        "Policy",
        "PolicyError",
        "ReportError",
        "RobustcheckError",
        "__version__",
        "load_policy",
        "read_report",
        "run",
        "write_reports",
    ]
    assert all(getattr(robustcheck, name) for name in robustcheck.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = robustcheck.nothing


def test_the_version_is_the_package_s():
    document = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert robustcheck.__version__ == document["project"]["version"]


def test_type_checkers_are_told_of_the_public_names_and_no_others(tmp_path):
    (tmp_path / "user.py").write_text(
        "import robustcheck\n"
        + "".join(f"robustcheck.{name}\n" for name in robustcheck.__all__)
        + "robustcheck.write_reprots\n"
    )
    package = tmp_path / "robustcheck"  # alone: all that it imports would take a minute, and mypy takes none installed
    package.mkdir()
    for name in ("__init__.py", "py.typed"):
        shutil.copy(Path(robustcheck.__file__).with_name(name), package)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=skip", "user.py", "robustcheck/__init__.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    line = len(robustcheck.__all__) + 2
    assert f'user.py:{line}: error: Module has no attribute "write_reprots"' in done.stdout
    assert "Found 1 error" in done.stdout


def test_a_public_name_draws_nothing_from_the_users_random_numbers():
    code = "import random, robustcheck\nrandom.seed(0)\nbefore = random.getstate()\n"
    code += "\n".join(f"robustcheck.{name}" for name in robustcheck.__all__)
    code += "\nassert random.getstate() == before"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_folder_says_what_lives_there():
    from robustcheck.policy import ATTACKS

    for init in Path(robustcheck.__file__).parent.rglob("*/__init__.py"):
        folder, said = init.parent, re.findall(r"`(\w+)(?:\.\w+)?`", ast.get_docstring(ast.parse(init.read_text())))
        files, rooms = folder.glob("[!_]*.py"), folder.glob("*/__init__.py")
        there = {*(path.stem for path in files), *(path.parent.name for path in rooms)}
        one_file_each = ATTACKS if folder.name == "attacks" else ()
        assert not there - {*said, *one_file_each}, f"{folder} does not say what they are"


def test_every_attack_of_the_schema_can_be_built_and_no_other():
    from robustcheck.attacks import GradientAttack, build
    from robustcheck.policy import ATTACKS
    from robustcheck.threats import Goal, LinfBall

    needed = {"rp2": {"stickers": [[0, 0, 1, 1]]}}
    for name, spec in ATTACKS.items():
        if name == "patch":  # no point of one image is searched: `evaluation/patches/training.py` trains it
            continue
        ball = LinfBall(levels=2, maximum=255)
        attacks = build(spec.model_validate({"name": name, **needed.get(name, {})}), ball, Goal(labels=2), queries=999)
        assert attacks
        assert all((attack.steps if isinstance(attack, GradientAttack) else attack.queries) >= 1 for attack in attacks)
        assert len({attack.name for attack in attacks}) == len(attacks)


def test_every_dependency_is_written_as_installers_read_it():
    document = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    everything = document["dependencies"] + [
        line for lines in document["optional-dependencies"].values() for line in lines
    ]
    assert all(Requirement(line).name for line in everything)


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (("linux", "x86_64"), "onnxruntime-gpu"),
        (("win32", "AMD64"), "onnxruntime-gpu"),
        (("win32", "ARM64"), "onnxruntime"),
        (("linux", "aarch64"), "onnxruntime"),
        (("darwin", "arm64"), "onnxruntime"),
    ],
)
def test_each_machine_gets_one_onnx_runtime(machine, name):
    document = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    wanted = [
        requirement.name
        for requirement in map(Requirement, document["dependencies"])
        if requirement.name.startswith("onnxruntime")
        and requirement.marker.evaluate({"sys_platform": machine[0], "platform_machine": machine[1]})
    ]
    assert wanted == [name]
