"""The candidate as a policy describes it: the artefact as it would ship, and what its numbers mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, StrictStr

from robustcheck.policy.fields import (
    BatchSizeField,
    HeightWidthField,
    Label,
    Number,
    OneOrMany,
    OpenSharesField,
    OutputField,
    PlacesField,
    Section,
    SideOrSizeField,
    one_label,
    whole,
)

STATE_DICTS = {
    ".safetensors": "safetensors",
    ".pt": "state-dict",
    ".pth": "state-dict",
    ".ckpt": "state-dict",
    ".bin": "state-dict",
    ".tar": "state-dict",  # .pth.tar, as training scripts call what torch.save writes
}
WHOLE_MODELS = {".ts": "torchscript", ".pt2": "torch.export", ".onnx": "onnx"}
FORMATS = STATE_DICTS | WHOLE_MODELS  # how a file's name ends, and what reports call its format


def whole_model(names: Collection[str]) -> tuple[str, str] | None:
    """What kind of whole model the names in an archive show, and the ending that its file needs; None if unknown."""
    if any(name.endswith("/constants.pkl") for name in names):
        return "TorchScript", ".ts"
    if any(name.endswith(("/archive_format", "serialized_exported_program.json")) for name in names):
        return "a torch.export program", ".pt2"
    return None


class PreprocessSpec(Section):
    """How stored pixels become the network's input.

    In turn: window, resize, crop, channels, order, range, mean and std, layout.
    """

    layout: Literal["NCHW", "NHWC"] = Field("NCHW", description="order of the network's input axes")
    channels: Annotated[Literal[1, 3], BeforeValidator(whole)] | None = Field(
        None, description="channels of the network's input; a grey image is repeated to 3 (default: as stored)"
    )
    order: Literal["RGB", "BGR"] = Field("RGB", description="order of the network's channels; stored images are RGB")
    resize: SideOrSizeField | None = Field(
        None, description="[height, width], or one number for the shorter side, which keeps the aspect ratio"
    )
    interpolation: Literal["bilinear", "bicubic", "nearest"] = Field("bilinear", description="of resize")
    antialias: StrictBool = Field(
        True, description="of resize: when shrinking, use every pixel; false: only the pixels next to each point"
    )
    crop: HeightWidthField | None = Field(None, description="[height, width] of the centre that is kept, after resize")
    window: tuple[Number, Number] | None = Field(
        None,
        description="the darkest and the brightest value, in Hounsfield units or stored values; values outside are "
        "clipped (default: all that can be stored)",
    )
    range: tuple[Number, Number] = Field(
        (0.0, 1.0), description="what the darkest and the brightest value are mapped to"
    )
    mean: OneOrMany[Number] = Field((0.0,), max_length=3, description="subtracted, per channel or for all")
    std: OneOrMany[Annotated[Number, Field(gt=0)]] = Field(
        (1.0,), max_length=3, description="divided by, per channel or for all"
    )

    def beside(self, candidate: PreprocessSpec) -> PreprocessSpec:
        """These steps for a surrogate: what they leave out is as for the candidate."""
        written = {key: getattr(self, key) for key in self.model_fields_set}
        every = {key: getattr(candidate, key) for key in type(self).model_fields}
        return PreprocessSpec().model_copy(update=steps_beside(written, every))


_SIZE = ("resize", "interpolation", "antialias", "crop")


def steps_beside(written: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, Any]:
    """A surrogate's preprocessing as written, with the candidate's steps where it says nothing.

    Resize and crop go together: the candidate's crop would be out of place in another size.
    """
    sized = "resize" in written or "crop" in written
    return {key: step for key, step in candidate.items() if not (sized and key in _SIZE)} | dict(written)


MOST_FINDINGS = 62  # a sample's findings are the bits of one int64
NO_FINDING_NAME = "(no finding)"  # what reports call a reading without any
AND = " + "  # between findings in the name of a reading

_BY_TASK: dict[str, Any] = {
    "if": {"properties": {"task": {"const": "multilabel"}}, "required": ["task"]},
    "then": {"properties": {"labels": {"maxItems": MOST_FINDINGS}}},
    "else": {"properties": {"labels": {"minItems": 2}, "operating_point": {"type": "number"}}},
}


class ModelSpec(Section):
    """The candidate: the artefact as it would ship, and what its numbers mean."""

    model_config = ConfigDict(json_schema_extra=_BY_TASK)

    path: StrictStr = Field(
        min_length=1,
        description="the artefact: .onnx, .pt2 (torch.export), .ts (TorchScript), .safetensors or .pt (state dict)",
    )
    architecture: StrictStr | None = Field(
        None,
        description="'module:callable' that builds the network, for state dicts; may lie beside the policy",
    )
    architecture_args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the architecture")
    weights: StrictStr | None = Field(
        None, min_length=1, description="for a checkpoint that holds several state dicts: the key of the one to judge"
    )
    task: Literal["multiclass", "binary", "multilabel"] = Field(
        description="multiclass (one score per label), binary (one logit, for the second label) or multilabel (one "
        "score per label, any of which may be present)"
    )
    output: Literal["auto", "logits", "probabilities"] = Field(
        "auto", description="what the scores are; auto infers it from the samples"
    )
    labels: tuple[Label, ...] = Field(
        min_length=1, max_length=10_000, description="names of the labels, in the order of the scores"
    )
    scores: PlacesField | None = Field(
        None, description="which of the network's scores belong to the labels, as places from 0 (default: all)"
    )
    positive: Annotated[Label | None, BeforeValidator(one_label)] = Field(
        None, description="which label is disease: sensitivity and specificity are about it"
    )
    operating_point: OpenSharesField | None = Field(
        None,
        description="decision threshold on the positive label's probability (default: the highest score); multilabel: "
        "on each label's, one number or a list with one per label (default: 0.5)",
    )
    preprocess: PreprocessSpec = Field(
        default_factory=lambda: PreprocessSpec(), description="how stored pixels become the network's input"
    )
    device: Annotated[StrictStr, Field(pattern=r"^(auto|cpu|cuda|cuda:\d{1,2})$")] = Field(
        "auto", description="auto | cpu | cuda | cuda:N"
    )
    precision: Literal["auto", "full"] = Field(
        "auto",
        description="auto: searches may use a faster form of the network, and oracles use it with layers fused and "
        "images channels last in memory; full: both use it in float32, as it is; verdicts always do",
    )
    batch_size: BatchSizeField = Field("auto", description="images in one pass of the network; changes no verdict")
    output_name: OutputField | None = Field(
        None, description="which of several outputs has the scores: its name, or its place in a tuple, from 0"
    )
    operators: tuple[StrictStr, ...] = Field(
        (), description=".onnx: libraries of custom operators beside the policy; their code is run"
    )
    trust: Literal["pickle"] | None = Field(None, description="pickle: the file may run code when it is loaded")
