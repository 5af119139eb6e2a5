"""What a checkpoint says its network was built with, compared with what the policy builds it with.

The weights of a network with another scale or temperature fit too, but make another network.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from robustcheck.errors import CandidateError
from robustcheck.words import listed, plural, shown

_KEYS = ("hyper_parameters", "hparams")  # Lightning's `save_hyperparameters`, and what people's own scripts write

_TRAINING = (
    *("lr", "learning_rate", "decay", "momentum", "optimizer", "scheduler", "epochs", "batch_size", "workers", "seed"),
    *("dir", "path", "root", "fold", "gpus", "devices", "patience", "monitor", "verbose", "progress", "pretrained"),
)
"""What names of arguments end in that change no answer: another learning rate is no other network."""

_MOST_VALUES = 10_000  # of one argument
_DEEPEST = 10

if sys.version_info >= (3, 14):
    from annotationlib import Format

    # Annotations are evaluated when they are asked for, and may name what only type checkers import.
    _signature = partial(inspect.signature, annotation_format=Format.STRING)
else:
    _signature = inspect.signature


def compared(
    content: Any, key: str, make: Callable[..., Any], arguments: Mapping[str, Any], *, names: tuple[str, Path]
) -> tuple[str, ...]:
    """What the reader of a report should know of a checkpoint's own arguments.

    A policy may say otherwise, as of `pretrained`; what it leaves to a default has to be what was saved.

    Args:
        content: all of the file.
        key: under which the weights to judge are.
        make: builds the architecture.
        arguments: `model.architecture_args`.
        names: `model.architecture`, and the file.

    Raises:
        CandidateError: a default of the architecture is not what was saved.
    """
    architecture, path = names
    saved, built = _saved(content, key), _defaults(make) | dict(arguments)
    known = {name: value for name, value in saved.items() if name in built and _plain(value) and _plain(built[name])}
    other = {name: value for name, value in known.items() if not _alike(value, built[name])}
    if unsaid := [name for name in other if name not in arguments and not _of_training(name)]:
        raise CandidateError(
            f"{path.name} was saved with {_told(saved, unsaid)}, but {architecture} is built with "
            f"{_told(built, unsaid)}; set in model.architecture_args what to build it with"
        )
    notes = list[str]()
    if said := [name for name in other if name in arguments]:
        notes.append(f"the file was saved with {_told(saved, said)}, but the policy says {_told(built, said)}")
    if of_training := [name for name in other if name not in arguments]:
        notes.append(
            f"the file was saved with {_told(saved, of_training)}, but {architecture} is built with "
            f"{_told(built, of_training)}, which by their names only training needs"
        )
    if unknown := [name for name in saved if name not in known]:
        notes.append(
            f"the file was saved with {plural(len(unknown), 'argument')} not compared with what "
            f"{architecture} is built with: {listed(unknown)}"
        )
    return tuple(notes)


def _saved(content: Any, key: str) -> dict[str, Any]:
    """The arguments beside the weights under this key, or else beside what holds those."""
    if not isinstance(content, Mapping):
        return {}
    holders = [held for name, held in content.items() if key.startswith(f"{name}.") and isinstance(held, Mapping)]
    found = (holder[name] for holder in (*holders, content) for name in _KEYS if isinstance(holder.get(name), Mapping))
    return {str(name): value for name, value in next(found, {}).items()}


def _defaults(make: Callable[..., Any]) -> dict[str, Any]:
    try:
        parameters = _signature(make).parameters.values()
    except (TypeError, ValueError):  # written in C
        return {}
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}


def _of_training(name: str) -> bool:
    """Whether a name is that of something used in training that is no part of the network."""
    return any(name.lower() == word or name.lower().endswith(f"_{word}") for word in _TRAINING)


def _plain(value: Any) -> bool:
    """Whether a value is a number, a text or None, or a list of some of them, no larger than arguments are.

    A list that holds one list twice, which holds another twice, and so on, is small in a file but endless here.
    """
    waiting, left = [(value, 0)], _MOST_VALUES
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, (list, tuple)):
            if len(one) > left or depth > _DEEPEST:
                return False
            waiting.extend((inner, depth + 1) for inner in one)
            left -= len(one)
        elif not (one is None or isinstance(one, (bool, int, float, str))):
            return False
    return True


def _alike(saved: Any, built: Any) -> bool:
    """Whether a plain value is what a network is built with; a list and a tuple of the same are."""
    if isinstance(saved, (list, tuple)) and isinstance(built, (list, tuple)):
        return len(saved) == len(built) and all(map(_alike, saved, built))
    return bool(saved == built) or (saved != saved and built != built)  # NaN is like NaN


def _told(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return listed(f"{name}={_short(values[name])}" for name in names)


def _short(value: Any) -> str:
    """A value as Python writes it."""
    if isinstance(value, (list, tuple)):
        return f"[{listed(map(_short, value))}]"
    return str(value) if value is None or isinstance(value, bool) else shown(value)
