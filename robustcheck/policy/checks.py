"""Mistakes that no single field of a policy shows: of candidate and samples here, of gates in `gate_checks`.

Each check reads the plain document, looks only at what has the right type (the rest is already a mistake of its own)
and yields what it finds. So one run reports the mistakes of every kind at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustcheck.policy import gate_checks, model_checks
from robustcheck.policy.bounds import NEEDS_CONTROLS, NO_ANYTIME_INTERVAL
from robustcheck.policy.fields import as_list
from robustcheck.policy.gate_checks import NO_CT, may_stop
from robustcheck.policy.model_checks import CALLABLE, is_folder, not_there
from robustcheck.policy.model_spec import AND, MOST_FINDINGS, NO_FINDING_NAME, ModelSpec
from robustcheck.policy.sections import Faults, is_name, one_of_labels, placed_entries, section, stands
from robustcheck.policy.tree import KeyPath, Mistake, show
from robustcheck.results.agreed import WORST_FINDING, WORST_SUBGROUP
from robustcheck.words import COLUMNS_FROM, FINDINGS_FROM, listed, plural, shown

PHANTOMS = ("nodule",)
_SAMPLES_THEMSELVES = {".npz": ("images", "labels"), ".csv": ("path", "label")}


def find(data: dict[str, Any], folder: Path) -> list[Mistake]:
    """All cross-field mistakes of a document; `folder` is the policy's."""
    model = section(data, "model")
    threshold = "it is a threshold on the positive label's probability"
    prevalence = "it is how common the positive label is where the candidate will be used"
    found = [
        *model_checks.artefact(model, ("model",), folder, ModelSpec),
        *model_checks.preprocess(model, ("model",)),
        *_labels(model),
        *model_checks.scores(model, ("model",), model),
        *_of_positive(data, "model", "operating_point", threshold, several="thresholds for each label are"),
        *_data(data, folder),
        *_columns(section(data, "data")),
        *_of_positive(data, "data", "prevalence", prevalence, several="a prevalence for each label is"),
        *_decision(data),
        *gate_checks.find(data, folder),
    ]
    return [*_blanks(data), *(Mistake(path=path, message=message) for path, message in found)]


def _blanks(data: Any, path: KeyPath = ()) -> Iterator[Mistake]:
    """Keys with nothing behind them: a blank `attack:` would quietly make a gate that attacks nothing."""
    if path[-1:] == ("architecture_args",):
        return  # None may be what the architecture wants
    if data is None:
        message = "has no value (blank, ~ and null count as none); write one, or leave the key out"
        yield Mistake(path=path, message=message, silences=path)
    elif isinstance(data, (dict, list)):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _blanks(value, (*path, key))


def _labels(model: dict[str, Any]) -> Faults:
    written = model.get("labels")
    if not isinstance(written, list) or not written or not all(map(is_name, written)):
        return
    labels, first = list(map(str, written)), dict[str, int]()
    for index, label in enumerate(labels):
        if first.setdefault(label, index) != index:
            yield ("model", "labels", index), f"found {shown(label)}, which is already labels[{first[label]}]"
    if wrong := _wrong_count(len(labels), model.get("task")):
        yield ("model", "labels"), wrong
    if model.get("task") == "multilabel":
        for index, label in enumerate(labels):
            if wrong := _no_finding(label):
                yield ("model", "labels", index), f"found {shown(label)}, {wrong}"
    yield from one_of_labels(model.get("positive"), ("model", "positive"), model)


def _no_finding(label: str) -> str | None:
    """Why a finding cannot have this name."""
    if label in (WORST_SUBGROUP, WORST_FINDING):
        return "a name that gates use to require metrics; give the finding another name"
    if label == NO_FINDING_NAME:
        return "which is what reports call an image without findings; give the finding another name"
    if AND in f" {label} ":  # at an end it would merge with the one that joins
        return f"but reports join the findings of an image with {AND!r}; give the finding another name"
    return None


def _wrong_count(labels: int, task: Any) -> str | None:
    """Why a task cannot have so many labels."""
    several = task == "multilabel"
    if several and labels > MOST_FINDINGS:
        return f"found {labels} labels; a multilabel task has at most {MOST_FINDINGS}"
    if not several and labels < 2:
        return f"found a list of {labels}; at least 2 are needed: the names of the labels, in the order of the scores"
    if task == "binary" and labels > 2:
        return f"found {labels} labels; a binary task has 2 (one logit, for the second)"
    return None


def _of_positive(data: dict[str, Any], where: str, key: str, what: str, *, several: str) -> Faults:
    """What a number about the positive label, or about each label of a multilabel task, needs beside it."""
    model, holder, at = section(data, "model"), section(data, where), (where, key)
    given, labels = holder.get(key), model.get("labels")
    if model.get("task") == "multilabel":
        if isinstance(given, list) and isinstance(labels, list) and 0 < len(given) != len(labels) > 0:
            numbers, names = plural(len(given), "number"), plural(len(labels), "label")
            yield at, f"found a list of {numbers} for {names}; give one number, or a list with one per label"
    elif isinstance(given, list) and given:
        yield at, f"found a list; {several} only for task: multilabel; give one number"
    elif key in holder and not stands("positive", model, ModelSpec):
        yield at, f"needs model.positive: {what}"


def _decision(data: dict[str, Any]) -> Faults:
    """Deciding early needs a rule that it serves, and metrics with intervals for it."""
    decision, at = section(data, "decision"), ("decision", "stop")
    if decision.get("stop") == "determined" and decision.get("rule") == "confident":
        yield at, "found determined, which is for rule: estimate; with rule: confident give early, or leave it out"
    stop, endless, late = decision.get("stop"), list[str](), list[str]()
    if stop not in ("early", "determined"):
        return
    for index, gate in enumerate(as_list(data.get("gates"))):
        require = gate.get("require") if isinstance(gate, dict) and may_stop(gate) else None
        for metric in map(str, require if isinstance(require, dict) else ()):
            where = f"gates[{index}].require.{metric}"
            if metric in NEEDS_CONTROLS:  # which a gate sees after its last sample
                late.append(where)
            elif stop == "early" and metric.rpartition(".")[2] in NO_ANYTIME_INTERVAL:
                endless.append(where)
    reasons = []
    if endless:
        have = "has" if len(endless) == 1 else "have"
        reasons.append(f"{listed(endless)} {have} no interval that holds at every number of samples")
    if late:
        needs = "needs" if len(late) == 1 else "need"
        reasons.append(f"{listed(late)} {needs} controls, which are seen after the last sample")
    if reasons:
        yield at, f"found {stop}, but {', and '.join(reasons)}; leave out {listed(endless + late)}, or {show(at)}"


def _data(data: dict[str, Any], folder: Path) -> Faults:
    samples = section(data, "data")
    source, root = samples.get("source"), samples.get("root")
    if not isinstance(source, str) or not source:
        return
    kind, suffix = source.partition(":")[0], Path(source).suffix.lower()
    if reason := _source(source, folder) or _one_label_each(data, source, folder) or _no_columns(data, source):
        yield ("data", "source"), reason
    if "hounsfield" in samples and source.startswith(NO_CT):
        yield ("data", "hounsfield"), f"is about CT, but the source is {shown(source)}"
    if "root" in samples and kind != "medmnist" and suffix != ".csv":
        yield ("data", "root"), f"is for medmnist:NAME and .csv sources, but the source is {shown(source)}"
    # medmnist falls back to its own folder, so that one policy serves many machines.
    elif kind != "medmnist" and isinstance(root, str) and root and (reason := not_there(root, folder, {""})):
        yield ("data", "root"), reason


def _columns(samples: dict[str, Any]) -> Faults:
    """No column is named twice, or is the samples themselves."""
    source = samples.get("source")
    named: list[tuple[Any, KeyPath]] = [(samples.get("group"), ("data", "group"))]
    named += placed_entries(samples.get("subgroups"), ("data", "subgroups"))
    taken = _SAMPLES_THEMSELVES.get(Path(source).suffix.lower(), ()) if isinstance(source, str) else ()
    first: dict[str, KeyPath] = {}
    for name, at in named:
        if not isinstance(name, str) or not name:
            continue
        if name in taken:
            yield at, f"found {shown(name)}; {' and '.join(taken)} are the samples themselves, so name another column"
        elif first.setdefault(name, at) != at:
            yield at, f"found {shown(name)}, which is already {show(first[name])}"


def _no_columns(data: dict[str, Any], source: str) -> str | None:
    """Why a source that is there cannot have the columns that are named."""
    named = [f"data.{key}" for key in ("group", "subgroups") if section(data, "data").get(key)]
    kind, suffix = source.partition(":")[0], Path(source).suffix.lower()
    if not named or (
        kind not in ("medmnist", "phantom") and (suffix in (".npz", ".csv") or CALLABLE.fullmatch(source))
    ):
        return None
    return f"found {shown(source)}, which has no columns for {' and '.join(named)}; {COLUMNS_FROM} can have them"


def _one_label_each(data: dict[str, Any], source: str, folder: Path) -> str | None:
    """Why a source that is there holds no findings."""
    if section(data, "model").get("task") != "multilabel":
        return None
    if not source.startswith("phantom:") and (":" in source or not is_folder(folder / source)):
        return None
    return f"found {shown(source)}, which has one label per image; a multilabel task takes {FINDINGS_FROM}"


def _source(source: str, folder: Path) -> str | None:
    """Why a source cannot be read; None if nothing speaks against it yet."""
    kind, colon, name = source.partition(":")
    suffix = Path(source).suffix.lower()
    if kind == "phantom" and (colon or not (folder / source).exists()):
        known = listed(f"phantom:{phantom}" for phantom in PHANTOMS)
        return None if name in PHANTOMS else f"found {shown(source)}; there is {known}"
    if kind in ("http", "https", "s3", "gs") and name.startswith("//"):
        return f"found {shown(source)}; nothing is downloaded: save it beside the policy, and name the file"
    if suffix in (".dcm", ".dicom"):
        return f"found {shown(source)}; give a folder of classes with such files, or a .csv (path,label) of them"
    if (kind == "medmnist" and colon) or (CALLABLE.fullmatch(source) and suffix not in (".npz", ".csv")):
        return None
    reason = not_there(source, folder, {".npz", ".csv", ""})
    if reason is None and suffix not in (".npz", ".csv") and not is_folder(folder / source):
        return f"found {shown(source)}; give a .npz, a .csv (path,label) or a folder of classes"
    return reason
