"""How a policy file is found and read: once, in bounded time, and named as the user named it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from policy_example import EXAMPLE

from robustcheck import load_policy
from robustcheck.errors import PolicyError
from robustcheck.policy import yamltext, yamltree

MISTAKE = EXAMPLE.replace("seed: 7", "seed: -7").lstrip()
MISTAKE_LINE = MISTAKE.splitlines().index("seed: -7") + 1


def said_about(path, **keywords):
    with pytest.raises(PolicyError) as caught:
        load_policy(path, **keywords)
    return str(caught.value)


class CountingFile:
    """Counts what is read of a file."""

    def __init__(self, file, counts):
        self._file, self._counts = file, counts

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def read(self, size):
        content = self._file.read(size)
        self._counts.append(len(content))
        return content


@pytest.fixture
def counts(monkeypatch):
    """The bytes of every read of a file that `Path.open` opened for it."""
    counts, plain_open = [], Path.open

    def counting_open(self, mode="r", *arguments, **keywords):
        file = plain_open(self, mode, *arguments, **keywords)
        return CountingFile(file, counts) if mode == "rb" else file

    monkeypatch.setattr(Path, "open", counting_open)
    return counts


def test_a_file_is_read_once_and_its_digest_is_of_those_bytes(write, counts):
    content = EXAMPLE.encode()
    policy = load_policy(write(content))
    assert policy.sha256 == hashlib.sha256(content).hexdigest()
    assert counts == [len(content)]


def test_a_file_of_a_hundred_megabytes_is_not_read(folder, counts):
    with (folder / "policy.yaml").open("wb") as file:
        file.truncate(100 * 2**20)
    assert "larger than 256 KiB" in said_about("policy.yaml")
    assert counts == [yamltree.MAX_BYTES + 1]


def test_the_largest_file_there_may_be(write):
    filling = "#" * (yamltree.MAX_BYTES - len(EXAMPLE.encode()) - 1) + "\n"
    assert load_policy(write(filling + EXAMPLE)).gates
    assert "larger than" in said_about(write(filling + EXAMPLE + "\n"))


@pytest.fixture
def built(monkeypatch):
    """How many nodes are turned into data."""
    built, build = [], yamltree._Builder.build

    def counted(self, node, path):
        built.append(path)
        return build(self, node, path)

    monkeypatch.setattr(yamltree._Builder, "build", counted)
    return built


def test_aliases_are_expanded_no_further_than_a_policy_may_grow(write, built):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 20)]
    assert "aliases are expanded" in said_about(write("\n".join(lines)))
    assert len(built) == yamltext.MAX_VALUES + 1


def test_a_long_list_is_not_read_to_its_end(write, monkeypatch, built):
    composed, compose = [], yamltext.CoreLoader.compose_node

    def counted(self, parent, index):
        composed.append(index)
        return compose(self, parent, index)

    monkeypatch.setattr(yamltext.CoreLoader, "compose_node", counted)
    assert "more than 10000 values" in said_about(write("gates:\n" + "- 1\n" * 60_000))
    assert len(composed) == 2 * yamltext.MAX_VALUES + 1
    assert not built


def test_the_deepest_policy_there_may_be(write):
    def nested(depth):
        inside = "[" * depth + "]" * depth
        return EXAMPLE.replace("path: candidate.onnx", "path: candidate.safetensors").replace(
            "task:", f"architecture: a:b\n  architecture_args: {{x: {inside}}}\n  task:", 1
        )

    deepest = yamltext.MAX_DEPTH - 3  # model, architecture_args, x
    assert load_policy(write(nested(deepest + 1))).gates
    assert "nested deeper" in said_about(write(nested(deepest + 2)))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\N{ZERO WIDTH NO-BREAK SPACE}"])
def test_line_ends_and_byte_order_marks_of_every_system(write, ending, mark):
    policy = load_policy(write((mark + EXAMPLE.replace("\n", ending)).encode()))
    assert [gate.id for gate in policy.gates] == [gate.id for gate in load_policy(write(EXAMPLE)).gates]
    path = write((mark + MISTAKE.replace("\n", ending)).encode())
    limits = "it has to be at least 0 and at most 9223372036854775807"
    assert said_about(path) == f"policy.yaml:{MISTAKE_LINE}: seed: found -7; {limits}"


def test_a_path_is_shown_as_it_was_typed(write, folder, monkeypatch):
    name = write(MISTAKE)
    assert said_about(name).startswith(f"policy.yaml:{MISTAKE_LINE}: ")
    assert said_about(Path(name)).startswith(f"policy.yaml:{MISTAKE_LINE}: ")
    assert said_about(folder / name).startswith(f"{folder}/policy.yaml:{MISTAKE_LINE}: ")
    assert said_about(name, shown="gates/policy").startswith(f"gates/policy:{MISTAKE_LINE}: ")
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert said_about("../policy.yaml").startswith(f"../policy.yaml:{MISTAKE_LINE}: ")


def test_paths_in_a_policy_start_at_its_folder(write, folder, monkeypatch):
    write(EXAMPLE)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    policy = load_policy("../policy.yaml")
    assert policy.folder == folder.resolve()
    assert policy.shown_path == "../policy.yaml"


def test_paths_in_a_linked_policy_start_where_the_file_lies(write, folder):
    write(EXAMPLE)
    (folder / "elsewhere").mkdir()
    link = folder / "elsewhere" / "link.yaml"
    link.symlink_to(folder / "policy.yaml")
    policy = load_policy(link)
    assert policy.folder == folder.resolve()
    assert policy.shown_path == str(link)


def test_a_link_that_leads_nowhere(folder):
    (folder / "link.yaml").symlink_to("gone.yaml")
    assert said_about("link.yaml") == (
        "link.yaml: there is no such file; it is a link to 'gone.yaml', which is not there"
    )


def test_absolute_paths_in_a_policy(write, folder):
    (folder / "elsewhere").mkdir()
    policy = EXAMPLE.replace("candidate.onnx", str(folder / "candidate.onnx")).replace(
        "samples.npz", str(folder / "samples.npz")
    )
    assert load_policy(write(policy, "elsewhere/policy.yaml")).gates


@pytest.mark.parametrize("name", ["~/policy.yaml", "policy\0.yaml", "p" * 5000, "policy.yaml/policy.yaml", "", "."])
def test_names_that_name_no_policy(write, name):
    write()
    assert "\n" not in said_about(name)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_source_that_is_longer_than_any_name_is_a_sentence(write, task):
    said = said_about(write(EXAMPLE.replace("samples.npz", "x" * 300).replace("multiclass", task)))
    assert f"data.source: '{'x' * 60}…' cannot be read: " in said


def test_a_home_is_not_filled_in(folder):
    assert said_about("~/policy.yaml").endswith("~ is not expanded here, write the whole path")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_policy_from_a_pipe(folder):
    read, write = os.pipe()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(EXAMPLE.replace("candidate.onnx", str(folder / "candidate.onnx")).encode())
    name = f"/dev/fd/{read}"
    if not Path(name).exists():
        pytest.skip("this system names no open files")
    # Its folder is none, so that the mistakes are that nothing lies beside it; but it was read.
    assert "data.source: there is no file or folder 'samples.npz'" in said_about(name)
    os.close(read)


def test_no_permission(write):
    path = Path(write())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert said_about("policy.yaml") == "policy.yaml: cannot be read: Permission denied"
