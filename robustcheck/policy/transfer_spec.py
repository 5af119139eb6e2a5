"""The attack that follows another model: which one, or how to train one, and what carries over."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StrictInt, StrictStr, WithJsonSchema

from robustcheck.policy.attack_entry import LOSS, AttackEntry, LossField
from robustcheck.policy.fields import (
    PATH_SCHEMA,
    Label,
    Number,
    OneOrMany,
    OutputField,
    PlacesField,
    QuantityField,
    QueriesField,
    RestartsField,
    Section,
    ShareField,
    StepsField,
    plain_schema,
)
from robustcheck.policy.model_spec import PreprocessSpec

_PREPROCESS = "steps that differ from the candidate's (resize and crop go together)"


class SurrogateSpec(Section):
    """A model that the adversary has. What is left out is as for the candidate."""

    path: StrictStr = Field(min_length=1, description="the model's file, of any format that a candidate may have")
    architecture: StrictStr | None = Field(
        None, description="'module:callable' that builds the network, for state dicts"
    )
    architecture_args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the architecture")
    weights: StrictStr | None = Field(
        None, min_length=1, description="for a checkpoint that holds several state dicts: the key of the one to follow"
    )
    task: Literal["multiclass", "binary", "multilabel"] | None = Field(None, description="default: the candidate's")
    output: Literal["auto", "logits", "probabilities"] = Field("auto", description="what its scores are")
    labels: tuple[Label, ...] | None = Field(
        None, description="names of its labels, in the order of its scores: the candidate's, which is the default"
    )
    scores: PlacesField | None = Field(
        None, description="which of its scores belong to the labels, as places from 0 (default: all)"
    )
    preprocess: PreprocessSpec | None = Field(None, description=_PREPROCESS)
    output_name: OutputField | None = Field(None, description="which of several outputs has the scores")
    operators: tuple[StrictStr, ...] = Field((), description=".onnx: libraries of custom operators; their code is run")
    trust: Literal["pickle"] | None = Field(None, description="pickle: the file may run code when it is loaded")


class TrainSpec(Section):
    """A surrogate that is trained on the data's train split."""

    architecture: StrictStr = Field(
        min_length=1, description="'module:callable' that builds the network, such as torchvision.models:resnet18"
    )
    architecture_args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the architecture")
    task: Literal["multiclass", "binary", "multilabel"] | None = Field(None, description="default: the candidate's")
    preprocess: PreprocessSpec | None = Field(None, description=_PREPROCESS)
    labels: Literal["data", "candidate"] = Field(
        "data",
        description="what it learns: the data's labels, or what the candidate answers (a stolen-label surrogate)",
    )
    queries: QueriesField | None = Field(
        None, description="with labels: candidate, how many images of the train split it may be asked about for it"
    )
    epochs: Annotated[StrictInt, Field(ge=1, le=10_000)] = Field(10, description="passes over the train split")
    batch_size: Annotated[StrictInt, Field(ge=2, le=65536)] = Field(64, description="images per training step")
    learning_rate: Annotated[Number, Field(gt=0, le=10)] = Field(0.001, description="highest learning rate of AdamW")
    seed: Annotated[StrictInt, Field(ge=0, le=2**63 - 1)] = Field(0, description="seed of its weights and batches")


def _with_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


SurrogateField = Annotated[
    SurrogateSpec,
    BeforeValidator(_with_path),
    WithJsonSchema({"anyOf": [PATH_SCHEMA, plain_schema(SurrogateSpec)]}),
]


class SurrogatesEntry(AttackEntry):
    """An attack that may follow models of the adversary's own."""

    surrogate: OneOrMany[SurrogateField] = Field(
        (), max_length=16, description="a model's file, {path, …} with a candidate's keys, or a list"
    )
    train: OneOrMany[TrainSpec] = Field(
        (), max_length=16, description="{architecture, epochs, …}, to train a surrogate once, or a list"
    )

    def beside(self, candidate: PreprocessSpec) -> Self:
        """The same, with the steps of preprocessing that its models leave out as the candidate has them."""
        return self.model_copy(
            update={
                key: tuple(
                    one.model_copy(update={"preprocess": one.preprocess and one.preprocess.beside(candidate)})
                    for one in models
                )
                for key, models in (("surrogate", self.surrogate), ("train", self.train))
            }
        )


class TransferSpec(SurrogatesEntry):
    """Search on models of the adversary's own, and carry what was found over to the candidate."""

    summary = "PGD with momentum and input diversity on surrogates; the candidate is asked only about where it ends"
    needs = "surrogate (a model) or train (an architecture), epsilon"
    source = "Dong et al. 2018, arXiv 1710.06081, algorithm 1; Xie et al. 2019, arXiv 1803.06978, section 3.3"
    knowledge = "transfer"

    name: Literal["transfer"]
    steps: StepsField = Field(40, description="gradient steps per restart")
    step_size: QuantityField | None = Field(None, description="size of a step (default: 2.5 * epsilon / steps)")
    momentum: Annotated[Number, Field(ge=0, le=1)] = Field(
        1.0, description="share of the sum of earlier gradients that is kept"
    )
    diversity: Annotated[Number, Field(ge=0, le=1)] = Field(
        0.5, description="probability that a step sees the image shrunk and shifted at random"
    )
    smallest: ShareField = Field(0.9, description="smallest share of its sides that an image is shrunk to")
    restarts: RestartsField = Field(1, description="independent starts; the candidate judges the end of each")
    loss: LossField = Field("cross_entropy", description=LOSS)
