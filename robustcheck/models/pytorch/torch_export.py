"""`torch.export` programs (.pt2).

`torch.export.load` unpickles some parts of an archive and makes Python source of others. So it is given not the file
but a copy that holds a checked graph (`torch_export_graph`) and plain tensors, with nothing in it that is pickled.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass

from robustcheck.errors import CandidateError
from robustcheck.models.artefact import check_archive, checked_copy
from robustcheck.models.network import Network, dtype_of, first_line, freeze, in_batches, in_dtype
from robustcheck.models.output_selection import scores_in
from robustcheck.models.pytorch.checkpoint_pickle import check_checkpoint
from robustcheck.models.pytorch.torch_export_graph import ON_CPU, UnsafeGraphError, cleaned
from robustcheck.words import printable, shown

_MAX_JSON_BYTES = 256 * 1024 * 1024
_PLAIN = re.compile(
    r"data/(weights/weight_\d+|constants/tensor_\d+)|archive_format|archive_version|byteorder|\.data/.*"
)
_CONFIG = re.compile(r"data/(weights|constants)/model_\1_config\.json")
_TOLD_TO_TRAIN = {"dropout": 2, "batch_norm": 5}  # which of their arguments says so
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"


def load_exported(path: Path, device: torch.device, output: str | None = None) -> Network:
    """Load an exported program.

    Args:
        path: the archive.
        device: where it is to work.
        output: which of several has the scores.

    Raises:
        CandidateError: it is not one, cannot be loaded, or holds what could run code.
    """
    names = check_archive(path)
    if not any(name.endswith("archive_format") for name in names):
        raise CandidateError(
            f"{path.name} is not a complete torch.export archive of torch 2.9 or newer; export and save it again"
        )
    copy = checked_copy(path, partial(_checked_member, path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(copy)
            if device.type != "cpu":
                program = move_to_device_pass(program, device)
            # Guards are compiled; without them the shapes are checked all the same, by a hook.
            module = program.module(check_guards=False)
    except Exception as error:  # noqa: BLE001 (the deserialiser raises whatever a broken archive makes it raise)
        raise CandidateError(f"{path.name} cannot be loaded as a torch.export program: {first_line(error)}") from None
    module.to(device)
    freeze(module)
    image, least, most = _input(program, path)
    taken = program.call_spec.in_spec  # its one input may be named, or stand in a dictionary

    def ask(inputs: torch.Tensor) -> torch.Tensor:
        arguments, named = taken.unflatten([inputs])
        # Not `module` itself: its class prints a traceback whenever a call fails, such as when memory runs out.
        scores: torch.Tensor = scores_in(torch.nn.Module.__call__(module, *arguments, **named), output)
        return scores

    forward = in_dtype(ask, image.dtype)
    notes: tuple[str, ...] = ()
    in_parts = least > 1 or most is not None
    if in_parts:
        forward = in_batches(forward, least=least, most=most)
        notes = (f"it takes {least} to {most or 'any number of'} images at once: they are split or padded",)
    if least == most:
        notes = (f"its batch size is fixed at {least}: images are padded to it",)
    takes = tuple(size if isinstance(size, int) else None for size in image.shape)
    in_training = _in_training(program)
    return Network(
        forward=forward,
        device=device,
        convolves_as_laid_out=image.dtype == torch.float32 and not in_parts,  # torch.cat joins parts in its own layout
        precision=dtype_of(module),
        takes=takes,
        notes=notes,
        in_training=lambda: in_training,
    )


def _in_training(program: torch.export.ExportedProgram) -> str | None:
    """A node that drops features, or normalises by the batch, as in training mode."""
    for node in program.graph.nodes:
        place = next((place for name, place in _TOLD_TO_TRAIN.items() if name in str(node.target)), None)
        if place is not None and len(node.args) > place and node.args[place] is True:
            return str(node.name)
    return None


def _checked_member(path: Path, name: str, content: bytes) -> bytes | None:
    inner = name.partition("/")[2]
    if _PLAIN.fullmatch(inner):
        return content
    if inner == _SAMPLE_INPUTS:
        _check_sample_inputs(path, content)
        return b""  # torch would unpickle them, and they are not needed
    if inner.startswith("data/extra/"):
        return None  # the user's own files, which nothing reads
    if "aotinductor" in name or name.endswith((".so", ".o")):
        raise CandidateError(f"{path.name} holds compiled code ({shown(name)}); export the program, not a package")
    if inner != "models/model.json" and not _CONFIG.fullmatch(inner):
        raise CandidateError(f"{path.name} is not loaded: it holds {shown(name)}, which no exported network needs")
    if len(content) > _MAX_JSON_BYTES:
        raise CandidateError(f"{path.name} holds {shown(name)}, larger than any network's graph; it is not loaded")
    try:
        if inner == "models/model.json":
            return cleaned(content)
        return _cleaned_payloads(json.loads(content.decode("utf-8")))
    except UnsafeGraphError as error:
        raise CandidateError(f"{path.name} is not loaded: {error}") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise CandidateError(f"{path.name} is broken: {printable(name)}: {first_line(error)}") from None


def _check_sample_inputs(path: Path, content: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_checkpoint(io.BytesIO(content))
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 (as above)
        raise CandidateError(
            f"{path.name} is not loaded: its sample inputs are pickled objects, not tensors, and could run code"
        ) from None


def _cleaned_payloads(document: dict[str, dict[str, Any]]) -> bytes:
    """Weights and constants may be tensors, which are put on the CPU; anything else torch would unpickle."""
    for name, entry in document["config"].items():
        if entry["use_pickle"] is not False or not str(entry["path_name"]).startswith(("weight_", "tensor_")):
            raise UnsafeGraphError(f"{name[:80]!r} is a pickled object ({entry['path_name']}), which could run code")
        entry["tensor_meta"]["device"] = ON_CPU
    return json.dumps(document).encode()


def _input(program: torch.export.ExportedProgram, path: Path) -> tuple[torch.Tensor, int, int | None]:
    """What stands for its one input, and the fewest and the most images that it takes at once."""
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise CandidateError(
            f"{path.name} has {len(names)} inputs ({', '.join(map(str, names))}); one image is needed: export a "
            "wrapper that takes the image alone"
        )
    image = next(node.meta["val"] for node in program.graph.nodes if node.name == names[0])
    if not isinstance(image, torch.Tensor) or not image.is_floating_point() or image.ndim == 0:
        raise CandidateError(f"{path.name} takes {getattr(image, 'dtype', image)}; one image of floats is needed")
    if isinstance(image.shape[0], int):
        return image, image.shape[0], image.shape[0]
    bounds = program.range_constraints.get(image.shape[0].node.expr)
    if bounds is None:
        return image, 1, None
    # torch writes 2 where it has not tried 0 and 1, and takes them.
    least = int(bounds.lower) if bounds.lower > 2 else 1
    return image, least, int(bounds.upper) if bounds.upper.is_Integer else None
