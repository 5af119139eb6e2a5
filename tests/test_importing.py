from __future__ import annotations

import hashlib
import importlib.util
import os
import py_compile
import sys
from pathlib import Path
from types import ModuleType

import pytest

from robustcheck.errors import EvaluationError, UserCodeError
from robustcheck.importing import import_callable, modules_beside
from robustcheck.user_code_files import all_sources, own_sources, written_in


@pytest.fixture
def write(tmp_path):
    """Write a module into a folder under `tmp_path` and return the folder."""

    def save(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return tmp_path / name.partition("/")[0]

    return save


@pytest.fixture(autouse=True)
def _nothing_is_left_behind():
    path, modules = list(sys.path), {name for name in sys.modules if not name.startswith("_robustcheck_beside_")}
    yield
    assert sys.path == path
    left = {name for name in sys.modules if not name.startswith("_robustcheck_beside_")} - modules
    assert not {name for name in left if name.startswith("our_")}


def test_an_installed_module(tmp_path):
    assert import_callable("json.decoder:JSONDecoder.decode", folder=tmp_path) is __import__("json").JSONDecoder.decode


def test_a_module_beside_the_policy_and_its_siblings(write):
    write("a/our_helper.py", "def value():\n    return 7\n")
    folder = write("a/our_nets.py", "import our_helper\n\ndef build():\n    return our_helper.value()\n")
    assert import_callable("our_nets:build", folder=folder)() == 7


def test_two_folders_with_modules_of_one_name(write):
    builds = []
    for name in ("a", "b"):
        write(f"{name}/our_helper.py", f"NAME = {name!r}\n")
        folder = write(f"{name}/our_nets.py", "import our_helper\n\ndef build():\n    return our_helper.NAME\n")
        builds.append(import_callable("our_nets:build", folder=folder))
    assert [build() for build in builds] == ["a", "b"]


def test_a_folder_keeps_one_copy_of_each_module(write):
    write("a/our_helper.py", "class Thing: pass\n")
    write("a/our_data.py", "from our_helper import Thing\n")
    folder = write("a/our_nets.py", "from our_helper import Thing\n")
    first = import_callable("our_nets:Thing", folder=folder)
    assert import_callable("our_data:Thing", folder=folder) is first
    assert import_callable("our_nets:Thing", folder=folder) is first


def test_packages_with_relative_and_absolute_imports(write):
    write("a/our_package/__init__.py", "")
    write("a/our_package/layers.py", "def layer():\n    return 'a'\n")
    folder = write(
        "a/our_package/nets.py",
        "from our_package.layers import layer\nfrom . import layers\n\ndef build():\n  return layers.layer is layer\n",
    )
    assert import_callable("our_package.nets:build", folder=folder)() is True


def test_two_folders_with_packages_of_one_name_and_no_init(write):
    names = []
    for name in ("a", "b"):
        folder = write(f"{name}/our_space/nets.py", f"def build():\n    return {name!r}\n")
        names.append(import_callable("our_space.nets:build", folder=folder)())
    assert names == ["a", "b"]


def test_the_users_own_module_of_that_name_stays(write, monkeypatch):
    elsewhere = write("elsewhere/our_nets.py", "def build():\n    return 'elsewhere'\n")
    folder = write("a/our_nets.py", "def build():\n    return 'a'\n")
    monkeypatch.syspath_prepend(elsewhere)
    import our_nets

    try:
        assert import_callable("our_nets:build", folder=folder)() == "a"
        assert sys.modules["our_nets"] is our_nets
    finally:
        del sys.modules["our_nets"]


def test_a_module_of_the_folder_that_is_already_imported_is_used(write, monkeypatch):
    folder = write("a/our_nets.py", "class Net: pass\n")
    monkeypatch.syspath_prepend(folder)
    import our_nets

    try:
        assert import_callable("our_nets:Net", folder=folder) is our_nets.Net
        assert sys.modules["our_nets"] is our_nets
    finally:
        del sys.modules["our_nets"]


def test_a_standard_module_is_not_imported_anew(write):
    import random

    folder = write("a/random.py", "raise RuntimeError\n")
    assert import_callable("random:Random", folder=folder) is random.Random


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("our_nets", "'our_nets' is not of the form module:callable, such as"),
        (":build", "not of the form"),
        ("our_nets:", "not of the form"),
        ("our-nets:build", "not of the form"),
        ("..our_nets:build", "not of the form"),
        (
            "our_net:build",
            "no module 'our_net' is installed or lies beside the policy; beside it: .*; did you mean 'our_nets'",
        ),
        ("our_nets.deep:build", "no module 'our_nets.deep' is installed|'our_nets' is not a package"),
        ("our_nets:biuld", "our_nets has no 'biuld'; did you mean 'build'"),
        ("our_nets:build.deep.deeper", "our_nets has no 'build.deep.deeper'"),
        ("our_nets:WIDTH", "is not callable: it is of type int"),
        ("our_broken:build", "our_broken cannot be imported: TypeError: of our own"),
        ("our_typo:build", r"our_typo cannot be imported: SyntaxError"),
        ("our_needy:build", "our_needy cannot be imported: ModuleNotFoundError: No module named 'our_missing'"),
        ("our_script:build", "our_script cannot be imported: SystemExit: 3"),
    ],
)
def test_mistakes(write, reference, message):
    write("a/our_nets.py", "WIDTH = 3\n\ndef build(): pass\n")
    write("a/our_broken.py", "raise TypeError('of our own')\n")
    write("a/our_typo.py", "def build(:\n")
    write("a/our_needy.py", "import our_missing\n")
    folder = write("a/our_script.py", "import sys\nsys.exit(3)\n")
    with pytest.raises(UserCodeError, match=message) as caught:
        import_callable(reference, folder=folder)
    assert isinstance(caught.value, EvaluationError)
    assert "\n" not in str(caught.value)


def _own(folder, reference):
    modules = written_in(reference, import_callable(reference, folder=folder))
    return [path.name for path in own_sources(modules, folder=folder)]


def test_the_files_that_a_callable_is_written_in(write):
    write("a/our_sizes.py", "WIDTH = 3\n")
    write("a/our_others.py", "class Other: pass\n")
    write("a/our_package/__init__.py", "")
    write("a/our_package/parts.py", "def part(): pass\n")
    write("a/our_package/layers.py", "from . import parts\nfrom our_sizes import WIDTH\n")
    folder = write(
        "a/our_nets.py", "import json\nfrom our_package.layers import parts\n\ndef build():\n    import our_package\n"
    )
    expected = ["our_nets.py", "__init__.py", "layers.py", "parts.py", "our_sizes.py"]
    assert _own(folder, "our_nets:build") == expected


def test_the_files_that_a_partial_is_written_in(write):
    write("a/our_layers.py", "def build(width): pass\n")
    parts = "from functools import partial\nfrom our_layers import build\n\nwide = partial(build, width=9)\n"
    write("a/our_parts.py", parts)
    folder = write("a/our_nets.py", "import functools\nfrom our_parts import wide\n\nbuild = functools.partial(wide)\n")
    assert _own(folder, "our_nets:build") == ["our_layers.py", "our_nets.py", "our_parts.py"]
    folder = write("a/our_plain.py", "import functools, json\n\nbuild = functools.partial(json.loads, '1')\n")
    assert _own(folder, "our_plain:build") == ["our_plain.py"]


def test_a_module_of_the_folder_that_the_user_has_imported_is_one_of_its_files(write, monkeypatch):
    folder = write("a/our_nets.py", "class Net: pass\n")
    monkeypatch.syspath_prepend(folder)
    import our_nets

    try:
        assert _own(folder, "our_nets:Net") == ["our_nets.py"]
        assert sys.modules["our_nets"] is our_nets
    finally:
        del sys.modules[our_nets.__name__]


# --- what runs is what has the digest ----------------------------------------------------------------------------


def test_a_cache_that_says_it_need_not_be_compared_is_not_run(write, tmp_path):
    folder = write("a/our_nets.py", "def build():\n    return 'source'\n")
    other = write("elsewhere/our_nets.py", "def build():\n    return 'cache'\n") / "our_nets.py"
    cache = importlib.util.cache_from_source(str(folder / "our_nets.py"))
    py_compile.compile(str(other), cfile=cache, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    build = import_callable("our_nets:build", folder=folder)
    assert build() == "source"
    assert list(own_sources(written_in("our_nets:build", build), folder=folder)) == [folder / "our_nets.py"]


def test_a_submodule_is_compiled_from_its_source_too(write):
    write("a/our_package/__init__.py", "from our_package import nets\n")
    folder = write("a/our_package/nets.py", "def build():\n    return 'source'\n")
    other = write("elsewhere/nets.py", "def build():\n    return 'cache'\n") / "nets.py"
    cache = importlib.util.cache_from_source(str(folder / "our_package/nets.py"))
    py_compile.compile(str(other), cfile=cache, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert import_callable("our_package.nets:build", folder=folder)() == "source"


def test_source_comes_before_a_library_of_its_name(write):
    folder = write("a/our_nets.py", "def build():\n    return 'source'\n")
    (folder / "our_nets.abi3.so").write_bytes(b"no library")
    assert import_callable("our_nets:build", folder=folder)() == "source"


def test_a_module_without_its_source_has_a_digest(write, tmp_path):
    other = write("elsewhere/our_nets.py", "def build():\n    return 'compiled'\n") / "our_nets.py"
    (tmp_path / "a").mkdir()
    py_compile.compile(str(other), cfile=str(tmp_path / "a/our_nets.pyc"))
    build = import_callable("our_nets:build", folder=tmp_path / "a")
    assert build() == "compiled"
    assert list(own_sources(written_in("our_nets:build", build), folder=tmp_path / "a")) == [
        tmp_path / "a/our_nets.pyc"
    ]


def test_a_module_without_its_source_has_siblings(write, tmp_path):
    source = "import our_sizes\nfrom our_blocks import block\n\ndef build():\n    return block\n"
    other = write("elsewhere/our_nets.py", source) / "our_nets.py"
    write("a/our_sizes.py", "")
    folder = write("a/our_blocks.py", "def block(): pass\n")
    py_compile.compile(str(other), cfile=str(folder / "our_nets.pyc"))
    assert _own(folder, "our_nets:build") == ["our_blocks.py", "our_nets.pyc", "our_sizes.py"]


def test_a_module_of_no_file_is_passed_over(monkeypatch, tmp_path):
    """Such as one of an archive, which Python imports as well."""
    module = ModuleType("our_archive")
    module.__file__ = str(tmp_path / "our.zip" / "our_archive.py")
    monkeypatch.setitem(sys.modules, "our_archive", module)
    assert all_sources(["our_archive"], folder=tmp_path) == ({}, [])


def test_a_module_that_is_a_link_has_the_digest_of_where_it_leads(write):
    elsewhere = write("elsewhere/real.py", "def build(): pass\n")
    folder = write("a/our_helper.py", "")
    (folder / "our_nets.py").symlink_to(elsewhere / "real.py")
    build = import_callable("our_nets:build", folder=folder)
    assert list(own_sources(written_in("our_nets:build", build), folder=folder)) == [elsewhere / "real.py"]


def test_a_standard_module_is_not_replaced(write, monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    folder = write("a/colorsys.py", "def rgb_to_hsv(*_): return 'replaced'\n")
    assert import_callable("colorsys:rgb_to_hsv", folder=folder)(0, 0, 0) == (0, 0, 0)


@pytest.mark.parametrize("name", ["time", "sys"])
def test_a_folder_of_the_name_of_a_standard_module_does_not_replace_it(name, write):
    """These have no file."""
    module, folder = sys.modules[name], write(f"a/{name}/our_nets.py", "")
    with modules_beside(folder):
        assert sys.modules.get(name) is module


# --- what is edited between two runs of one process --------------------------------------------------------------


def _digests(folder, reference):
    found = own_sources(written_in(reference, import_callable(reference, folder=folder)), folder=folder)
    return {path.name: sha256 for path, sha256 in found.items()}


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["our_nets.py", "our_helper.py"])
def test_code_that_was_edited_is_imported_anew(write, name):
    written = {
        "our_helper.py": "VALUE = 1\n",
        "our_nets.py": "from our_helper import VALUE\n\ndef build(): return VALUE\n",
    }
    for one, text in written.items():
        folder = write(f"a/{one}", text)
    before = import_callable("our_nets:build", folder=folder)
    assert import_callable("our_nets:build", folder=folder) is before
    write(f"a/{name}", written[name].replace("1", "2").replace("return VALUE", "return VALUE + 1"))
    assert (before(), import_callable("our_nets:build", folder=folder)()) == (1, 2)
    assert _digests(folder, "our_nets:build") == {one: _sha256(folder / one) for one in sorted(written, reverse=True)}


def test_a_module_that_was_taken_away_is_not_used_any_more(write):
    folder = write("a/our_nets.py", "def build(): pass\n")
    import_callable("our_nets:build", folder=folder)
    (folder / "our_nets.py").unlink()
    with pytest.raises(UserCodeError, match="no module 'our_nets'"):
        import_callable("our_nets:build", folder=folder)


def test_code_that_is_edited_while_it_is_used_has_not_the_digest_of_what_was_compiled(write):
    folder = write("a/our_nets.py", "def build(): return 1\n")
    build = import_callable("our_nets:build", folder=folder)
    write("a/our_nets.py", "def build(): return 2\n")
    with pytest.raises(UserCodeError, match=r"^our_nets\.py changed since it was imported"):
        own_sources(written_in("our_nets:build", build), folder=folder)


@pytest.fixture
def notebook(write, monkeypatch):
    """What a notebook has imported from the policy's folder itself: `our_nets`, which imports `our_helper`."""
    write("a/our_helper.py", "WIDTH = 1\n\ndef helped(x): return x\n")
    folder = write("a/our_nets.py", "import our_helper\n\nclass Net:\n    def of(self): return our_helper.WIDTH\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    yield importlib.import_module("our_nets")
    for name in ("our_nets", "our_helper"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("met", [True, False])
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("our_nets", "return our_helper.WIDTH", "return -our_helper.WIDTH"),  # a method
        ("our_helper", "return x", "return -x"),  # a function
        ("our_helper", "WIDTH = 1", "WIDTH = 22"),  # what no function shows
    ],
)
def test_what_a_notebook_imported_and_edited_is_refused_until_it_is_reloaded(notebook, write, name, old, new, met):
    path = Path(notebook.__file__).with_name(f"{name}.py")
    if met:  # in a run before
        assert set(_digests(path.parent, "our_nets:Net")) == {"our_nets.py", "our_helper.py"}
    before = path.read_text()
    path.write_text(before.replace(old, new))
    with pytest.raises(UserCodeError) as caught:
        _digests(path.parent, "our_nets:Net")
    assert str(caught.value) == f"{name}.py changed since it was imported; restart the kernel, or reload it"
    importlib.reload(sys.modules[name])
    assert _digests(path.parent, "our_nets:Net")[path.name] == _sha256(path)


def test_what_a_notebook_imported_without_a_cache_shows_by_its_functions(notebook, monkeypatch):
    path = Path(notebook.__file__)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path.write_text(path.read_text().replace("return", "return 2 *"))
    with pytest.raises(UserCodeError, match="changed since it was imported"):
        _digests(path.parent, "our_nets:Net")


def test_what_a_notebook_imported_and_only_touched_is_used(notebook):
    path = Path(notebook.__file__)
    path.write_text(path.read_text())
    os.utime(path, (1, 1))
    assert import_callable("our_nets:Net", folder=path.parent) is notebook.Net
    assert _digests(path.parent, "our_nets:Net")["our_nets.py"] == _sha256(path)


def test_what_is_imported_from_a_module_that_a_notebook_reloaded_is_imported_anew(notebook, write):
    folder = write("a/our_data.py", "from our_helper import WIDTH\n\ndef load(): return WIDTH\n")
    assert import_callable("our_data:load", folder=folder)() == 1
    write("a/our_helper.py", "WIDTH = 22\n")
    importlib.reload(sys.modules["our_helper"])
    assert import_callable("our_data:load", folder=folder)() == 22


def test_what_a_notebook_imports_after_a_run_is_used_from_then_on(write, monkeypatch):
    folder = write("a/our_nets.py", "class Net:\n    def of(self): return 1\n")
    import_callable("our_nets:Net", folder=folder)
    write("a/our_nets.py", "class Net:\n    def of(self): return 22\n")
    monkeypatch.syspath_prepend(folder)
    own = importlib.import_module("our_nets")
    try:
        write("a/our_nets.py", "class Net:\n    def of(self): return 1\n")  # as it is on the shelf
        assert import_callable("our_nets:Net", folder=folder) is own.Net
        with pytest.raises(UserCodeError, match="changed since it was imported"):
            _digests(folder, "our_nets:Net")
    finally:
        del sys.modules["our_nets"]
