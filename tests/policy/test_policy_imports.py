"""Validating a policy takes milliseconds, in an editor or a commit hook: nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys


def test_loading_a_policy_imports_neither_torch_nor_numpy(write):
    program = (
        "import sys\n"
        "from robustcheck import load_policy\n"
        f"assert load_policy({write()!r}).gates\n"
        "heavy = {'torch', 'torchvision', 'onnx', 'onnxruntime', 'numpy', 'scipy', 'PIL', 'jinja2', 'rich', 'pytest'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
