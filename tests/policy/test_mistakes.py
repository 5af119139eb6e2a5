"""Every mistake has a golden file: `mistakes/NAME.yaml` and, in `mistakes/NAME.txt`, what is said about it.

`REGENERATE=1 pytest tests/policy/test_mistakes.py` writes the texts anew. Read the difference as the user who gets it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robustcheck import load_policy
from robustcheck.errors import PolicyError

MISTAKES = Path(__file__).with_name("mistakes")
POLICIES = sorted(MISTAKES.glob("*.yaml"))
REGENERATE = os.environ.get("REGENERATE") == "1"


def said_about(path, folder):
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    return caught.value, str(caught.value).replace(str(folder), "/policies") + "\n"


def check(golden, text):
    if REGENERATE:
        golden.write_text(text, encoding="utf-8", newline="\n")
    assert golden.is_file(), f"no {golden.name}; run with REGENERATE=1"
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.stem)
def test_a_mistake_is_said_in_a_sentence(policy, folder, write):
    error, text = said_about(write(policy.read_bytes()), folder)
    check(policy.with_suffix(".txt"), text)

    lines = policy.read_text(encoding="utf-8").splitlines()
    for problem in error.problems:
        assert "\n" not in str(problem)
        assert len(str(problem)) < 700
        assert problem.line is None or 1 <= problem.line <= max(1, len(lines))
        assert "pydantic" not in problem.message
        assert "None" not in problem.message
    places = [(problem.key, problem.line) for problem in error.problems]
    assert len(set(places)) == len(places), "one mistake, one message"
    assert [problem.line or 0 for problem in error.problems] == sorted(problem.line or 0 for problem in error.problems)


def test_every_text_belongs_to_a_policy_and_there_are_many():
    built = {"built-" + name for name in BUILT}
    assert {path.stem for path in MISTAKES.glob("*.txt")} == {path.stem for path in POLICIES} | built
    assert len(POLICIES) > 100


def a_large_file(folder):
    with (folder / "policy.yaml").open("wb") as file:
        file.truncate(100 * 2**20)  # sparse


def bytes_of(content):
    return lambda folder: (folder / "policy.yaml").write_bytes(content)


def a_link_to_itself(folder):
    (folder / "policy.yaml").symlink_to("policy.yaml")


def a_bomb():
    lines = ["bomb:", "  - &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"  - &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10)]
    return "\n".join(lines).encode()


BUILT = {
    "no-such-file": lambda folder: (folder / "polcy.yml").touch(),
    "folder": lambda folder: (folder / "policy.yaml").mkdir(),
    "link-to-itself": a_link_to_itself,
    "large-file": a_large_file,
    "latin-1": bytes_of("robustcheck: 1\nname: Röntgen\n".encode("latin-1")),
    "utf-16": bytes_of("robustcheck: 1\n".encode("utf-16")),
    "nul": bytes_of(b"robustcheck: 1\nname: chest\0xray\n"),
    "png": bytes_of(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"),
    "aliases-that-explode": bytes_of(a_bomb()),
    "alias-in-itself-alone": bytes_of(b"&all [*all, *all]\n"),
    "nesting-of-lists": bytes_of(b"gates: " + b"[" * 5000 + b"]" * 5000),
    "nesting-of-mappings": bytes_of("".join(" " * depth + "a:\n" for depth in range(700)).encode()),
    "nesting-of-aliases": bytes_of(
        ("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [[*a{n - 1}]]\n" for n in range(1, 40))).encode()
    ),
    "many-values": bytes_of(b"gates:\n" + b"- 1\n" * 60_000),
    "many-empty-keys": bytes_of(b"{" + b"'': , " * 30_000 + b"}"),
}


@pytest.mark.parametrize("name", BUILT)
def test_a_file_that_cannot_be_kept(name, folder):
    BUILT[name](folder)
    _, text = said_about("policy.yaml", folder)
    check(MISTAKES / f"built-{name}.txt", text)
