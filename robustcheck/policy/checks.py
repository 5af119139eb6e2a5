"""What no single field of a policy shows.

Each check reads the plain document, looks only at what has the right type (the rest is already a mistake of its own)
and yields what it finds. So one run reports the mistakes of every kind at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from robustcheck.errors import Problem
from robustcheck.policy.bounds import METRICS, NEEDS_ATTACK, NEEDS_POSITIVE, Bound
from robustcheck.policy.mistakes import shown
from robustcheck.policy.quantities import Quantity
from robustcheck.policy.yamltree import KeyPath, Tree
from robustcheck.words import did_you_mean

STATE_DICTS = frozenset({".safetensors", ".pt", ".pth"})
WHOLE_MODELS = frozenset({".onnx", ".pt2", ".ts"})
PHANTOMS = ("nodule",)

Found = Iterator[tuple[KeyPath, str]]


def problems(tree: Tree, folder: Path) -> list[Problem]:
    """All cross-field mistakes of a document; `folder` is the policy's."""
    checks: tuple[Callable[[dict[str, Any], Path], Found], ...] = (_model, _labels, _preprocess, _data, _gates, _ids)
    return [tree.problem(path, message) for check in checks for path, message in check(tree.data, folder)]


def _section(data: dict[str, Any], key: str) -> dict[str, Any]:
    section = data.get(key)
    return section if isinstance(section, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _model(data: dict[str, Any], folder: Path) -> Found:
    model = _section(data, "model")
    path = model.get("path")
    if not isinstance(path, str) or not path:
        return
    suffix = Path(path).suffix.lower()
    if suffix not in STATE_DICTS | WHOLE_MODELS:
        yield (
            ("model", "path"),
            f"found {path!r}; a candidate is .onnx, .pt2 (torch.export), .ts (TorchScript), "
            ".safetensors or .pt (state dict)",
        )
    elif not (folder / path).is_file():
        yield ("model", "path"), f"there is no file {shown(path)} (looked for {_relative(folder / path)})"
    trusted = suffix != ".safetensors" and model.get("trust") == "pickle"
    if suffix in STATE_DICTS and "architecture" not in model and not trusted:
        yield (
            ("model", "path"),
            f"a state dict ({suffix}) needs model.architecture, 'module:callable', to be loaded into",
        )
    if suffix in WHOLE_MODELS and "architecture" in model:
        yield ("model", "architecture"), f"a {suffix} file holds its own architecture; leave this out"
    if isinstance(model.get("architecture"), str) and ":" not in model["architecture"]:
        yield (
            ("model", "architecture"),
            f"found {shown(model['architecture'])}; write 'module:callable', such as torchvision.models:resnet18",
        )


def _labels(data: dict[str, Any], _: Path) -> Found:
    model = _section(data, "model")
    if not isinstance(model.get("labels"), list):
        return
    labels = [str(label) for label in model["labels"] if isinstance(label, (str, int))]
    for index, label in enumerate(labels):
        if label in labels[:index]:
            yield ("model", "labels", index), f"the label {label!r} stands in the list twice"
    if model.get("task") == "binary" and len(labels) > 2:
        yield ("model", "labels"), f"found {len(labels)} labels; a binary task has 2 (one logit, for the second)"
    positive = model.get("positive")
    if isinstance(positive, (str, int)) and str(positive) not in labels:
        yield (
            ("model", "positive"),
            f"found {shown(positive)}; it has to be one of the labels: {', '.join(labels)}"
            + did_you_mean(str(positive), labels),
        )
    if positive is None and "operating_point" in model:
        yield (
            ("model", "operating_point"),
            "needs model.positive: it is a threshold on the positive label's probability",
        )


def _preprocess(data: dict[str, Any], _: Path) -> Found:
    preprocess = _section(_section(data, "model"), "preprocess")
    channels = preprocess.get("channels")
    for key in ("mean", "std"):
        values = preprocess.get(key)
        if isinstance(values, list) and isinstance(channels, int) and len(values) not in (1, channels):
            yield (
                ("model", "preprocess", key),
                f"found {len(values)} numbers for {channels} channels; give one, or one a channel",
            )
    if any(isinstance(value, (int, float)) and value <= 0 for value in _list(preprocess.get("std"))):
        yield ("model", "preprocess", "std"), "has to be more than 0"
    limits = preprocess.get("range")
    if (
        isinstance(limits, list)
        and len(limits) == 2
        and all(isinstance(limit, (int, float)) for limit in limits)
        and limits[0] >= limits[1]
    ):
        yield ("model", "preprocess", "range"), f"found {limits}; the first number has to be less than the second"


def _data(data: dict[str, Any], folder: Path) -> Found:
    section = _section(data, "data")
    source = section.get("source")
    if not isinstance(source, str) or not source:
        return
    kind, colon, name = source.partition(":")
    if kind == "phantom" and colon:
        if name not in PHANTOMS:
            yield (
                ("data", "source"),
                f"unknown phantom {name!r}; there is {', '.join(PHANTOMS)}{did_you_mean(name, PHANTOMS)}",
            )
    elif not colon and not (folder / source).exists():
        yield (
            ("data", "source"),
            f"there is no file or folder {shown(source)} (looked for {_relative(folder / source)})",
        )
    if "root" in section and not source.startswith("medmnist:") and Path(source).suffix.lower() != ".csv":
        yield ("data", "root"), f"is for medmnist:NAME and .csv sources; the source is {shown(source)}"


def known_bits(section: dict[str, Any]) -> int | None:
    """The stored depth, where the policy alone tells it."""
    bits, source = section.get("bits"), section.get("source")
    if isinstance(bits, int) and not isinstance(bits, bool) and 1 <= bits <= 16:
        return bits
    return 8 if isinstance(source, str) and source.startswith(("phantom:", "medmnist:")) else None


def _gates(data: dict[str, Any], _: Path) -> Found:
    gates = data.get("gates")
    for index, gate in enumerate(gates if isinstance(gates, list) else []):
        if isinstance(gate, dict):
            at: KeyPath = ("gates", index)
            yield from _budget(gate, at, known_bits(_section(data, "data")))
            yield from _requirements(gate, at, has_positive=_section(data, "model").get("positive") is not None)


def _budget(gate: dict[str, Any], at: KeyPath, bits: int | None) -> Found:
    attacked, budgeted = gate.get("attack") is not None, gate.get("epsilon") is not None
    if attacked and not budgeted:
        yield (*at, "attack"), "needs epsilon, the budget of the adversary, such as 2/255"
    if budgeted and not attacked:
        yield (*at, "epsilon"), "is the budget of an attack, and this gate names none"
    texts: list[str] = []
    for position, value in enumerate(_list(gate.get("epsilon")) if budgeted else []):
        where: KeyPath = (*at, "epsilon", position) if isinstance(gate["epsilon"], list) else (*at, "epsilon")
        try:
            quantity = Quantity.parse(value)
        except ValueError:
            continue  # a mistake of its own, reported with the schema's
        if bits is not None and quantity.in_levels(bits) < 1:
            yield (
                where,
                f"found {quantity.text}, {float(quantity.in_levels(bits)):.3g} of a grey level: it admits no change to "
                f"an image of {bits} bits (one level is 1/{2**bits - 1})",
            )
        if quantity.text in texts:
            yield where, f"{quantity.text} stands in the list twice"
        texts.append(quantity.text)


def _requirements(gate: dict[str, Any], at: KeyPath, *, has_positive: bool) -> Found:
    require = gate.get("require")
    if not isinstance(require, dict):
        return
    if not require:
        yield (*at, "require"), f"is empty: the gate could never fail; name at least one of {', '.join(METRICS)}"
    budgets = gate.get("epsilon")
    for metric, values in require.items():
        where = (*at, "require", metric)
        if metric not in METRICS:
            yield where, f"unknown metric; there are {', '.join(METRICS)}{did_you_mean(metric, METRICS)}"
            continue
        if metric in NEEDS_POSITIVE and not has_positive:
            yield where, "needs model.positive: which label is disease"
        if metric in NEEDS_ATTACK and gate.get("attack") is None:
            yield where, "needs an attack, and this gate names none"
        yield from _bounds(metric, values, where)
        count = len(budgets) if isinstance(budgets, list) else 1
        if isinstance(values, list) and len(values) != count:
            yield where, f"found a list of {len(values)}, and epsilon has {count}; give one bound, or one an epsilon"


def _bounds(metric: str, values: Any, where: KeyPath) -> Found:
    for position, value in enumerate(_list(values)):
        try:
            Bound.parse(metric, value)
        except ValueError as error:
            yield ((*where, position) if isinstance(values, list) else where), str(error)


def _ids(data: dict[str, Any], _: Path) -> Found:
    first: dict[str, int] = {}
    gates = data.get("gates")
    for index, gate in enumerate(gates if isinstance(gates, list) else []):
        name = gate.get("id") if isinstance(gate, dict) else None
        if isinstance(name, str) and first.setdefault(name, index) != index:
            yield ("gates", index, "id"), f"the id {name!r} is taken by gates[{first[name]}]; ids are unique"


def _relative(path: Path) -> str:
    return str(path.resolve())
