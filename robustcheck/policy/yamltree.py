"""A YAML file, read once and safely, with the place of every key.

No tag constructs anything. Bytes, nesting and the growth of aliases are bounded before any of it is expanded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unicodedata import category

import yaml

from robustcheck.errors import PolicyError, Problem
from robustcheck.policy.tree import KeyPath, Mistake, Place, Tree
from robustcheck.policy.yamltext import MAX_DEPTH, MAX_VALUES, CoreLoader, kind_of, syntax_line, syntax_message
from robustcheck.words import did_you_mean, shown

MAX_BYTES = 256 * 1024


def read(path: Path, name: str) -> tuple[bytes, Tree]:
    """Read a YAML file; `name` is what messages call it.

    Returns:
        The bytes that were read (digest these, not the file again) and the document.

    Raises:
        PolicyError: it cannot be read, or is not one YAML document.
    """
    content = _read_bytes(path, name)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _failure(name, line, "is not UTF-8 text; a policy is a YAML file, saved as UTF-8") from None
    return content, parse(text, name)


def parse(text: str, name: str) -> Tree:
    """Parse one YAML document. Raises PolicyError as `read` does."""
    root = _compose(text, name)
    if root is None:
        raise _failure(name, None, "is empty; `robustcheck: 1`, model, data and gates are needed")
    builder = _Builder(name)
    data = builder.build(root, ())
    return Tree(file=name, data=data, places=builder.places, mistakes=tuple(builder.mistakes))


def _compose(text: str, name: str) -> yaml.Node | None:
    line = None
    try:
        loader = CoreLoader(text)
        try:
            return loader.get_single_node()
        except (ValueError, OverflowError):  # a number in an escape or a directive that Python cannot hold
            line = loader.line + 1
    except yaml.MarkedYAMLError as error:
        raise _failure(name, syntax_line(error), syntax_message(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _failure(name, line, f"character U+{error.character:04X} is not allowed in YAML") from None
    raise _failure(name, line, "is not valid YAML: no such number or character exists")


class _Builder:
    """Turns YAML nodes into plain data, collecting places and the mistakes that plain data could not show."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[KeyPath, Place] = {}
        self.mistakes: list[Mistake] = []
        self._values = 0
        self._around: set[yaml.Node] = set()

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            self._refuse(node, f"has more than {MAX_VALUES} values once its aliases are expanded")
        if len(path) > MAX_DEPTH:
            self._refuse(node, f"is nested deeper than {MAX_DEPTH} levels once its aliases are expanded")
        if node in self._around:
            self._refuse(node, "an alias (*name) stands inside what it names")
        self.places.setdefault(path, _place(node))
        kind = kind_of(node)
        if kind is None:
            message = f"the tag {_written(node.tag)} is not read here; a policy is plain data"
            self.mistakes.append(Mistake(path=path, message=message, place=_place(node), silences=path))
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, kind, path)
        self._around.add(node)
        if isinstance(node, yaml.MappingNode):
            result: Any = self._mapping(node, path)
        else:
            result = [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        self._around.remove(node)
        return result

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mistake = self._unreadable_key(key_node, path)
            if mistake is not None:
                self.mistakes.append(mistake)
                continue
            key, place = key_node.value, _place(key_node)
            at = (*path, key)
            if key in result:
                message = f"the key is repeated here; the first is on line {self.places[at].line}"
                self.mistakes.append(Mistake(path=at, message=message, place=place))
                continue
            self.places[at] = place
            result[key] = self.build(value_node, at)
        return result

    def _unreadable_key(self, node: yaml.Node, path: KeyPath) -> Mistake | None:
        """Why a key cannot be read; what else its section lacks or holds is then not judged."""
        if not isinstance(node, yaml.ScalarNode):
            message = (
                "a key has to be plain text, and here is one in brackets; is it a template that was not filled in?"
            )
        elif kind_of(node) is None:
            message = f"the tag {_written(node.tag)} is not read here; a policy is plain data"
        elif _unprintable(node.value):
            message = f"a key holds {_unprintable(node.value)}, which no text has"
        elif node.value == "<<" and node.style is None:
            return Mistake(
                path=(*path, "<<"),
                message="merge keys (<<) are not read; write the keys out",
                place=_place(node),
                silences=path,
            )
        else:
            return None
        return Mistake(path=path, message=message, place=_place(node), silences=path)

    def _scalar(self, node: yaml.ScalarNode, kind: str, path: KeyPath) -> Any:
        value: str = node.value
        if kind == "null":
            return None
        if kind == "bool":
            return value.lower() == "true"
        if kind == "int":
            return int(value)
        if kind == "float":
            return float(value.replace(".", "") if value[-1].isalpha() else value)  # .inf and .nan
        if _unprintable(value):
            message = f"holds {_unprintable(value)}, which no text has"
            self.mistakes.append(Mistake(path=path, message=message, place=_place(node), silences=path))
        return value

    def _refuse(self, node: yaml.Node, message: str) -> None:
        raise _failure(self.file, _place(node).line, message)


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _written(tag: str) -> str:
    """A tag as it was typed: `!!python/object` for `tag:yaml.org,2002:python/object`."""
    return repr(tag.replace("tag:yaml.org,2002:", "!!", 1)[:60])


def _unprintable(text: str) -> str:
    """The first control character or lone surrogate of a text, named; a terminal or a report would choke on it."""
    for character in text:
        if character not in "\n\t" and category(character) in ("Cc", "Cs"):
            return f"the character U+{ord(character):04X}"
    return ""


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise _failure(name, None, "is a folder; name the policy file in it")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _failure(name, None, "there is no such file" + _hint(path)) from None
    except OSError as error:
        raise _failure(name, None, f"cannot be read: {error.strerror or error}") from None
    except ValueError:  # a NUL in it
        raise _failure(name, None, "is not a name that a file can have") from None
    if len(content) > MAX_BYTES:
        raise _failure(name, None, f"is larger than {MAX_BYTES // 1024} KiB, the most a policy may be")
    return content


def _hint(path: Path) -> str:
    if path.parts[:1] == ("~",):
        return "; ~ is not expanded here, write the whole path"
    if path.is_symlink():
        return f"; it is a link to {shown(str(path.readlink()))}, which is not there"
    try:
        names = sorted(file.name for file in path.parent.iterdir() if file.suffix in (".yaml", ".yml"))
    except OSError:
        return ""
    return did_you_mean(path.name, names)


def _failure(name: str, line: int | None, message: str) -> PolicyError:
    return PolicyError([Problem(file=name, line=line, key="", message=message)])
