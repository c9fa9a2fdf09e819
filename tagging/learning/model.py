"""The entries of params.yaml that are trained, and the description of a trained network."""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from tagging.base.errors import UserError
from tagging.data.classes import Class
from tagging.data.parameters import Float, Int, Params, Section
from tagging.data.spec import InputSpec
from tagging.layers.base import Activation, Distance

SAVED_EPOCH = "epoch "  # in files, weights of a saved epoch are named `epoch 9/<name>`


def _refuse_duplicates(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("must not repeat a number")
    return values


Number = Annotated[Int, Field(ge=0)]
Numbers = Annotated[list[Number], AfterValidator(_refuse_duplicates)]


class Model(Section):
    """An entry of `models`: an architecture, trained from scratch."""

    section: ClassVar[str] = "models"
    scores_section: ClassVar[str] = "models"  # of the folder data/scores

    architecture: str  # a file of tagging/networks, without .py
    network: dict[str, Any] = Field({})  # the architecture's settings
    features: str | None = None  # if not task.features
    seeds: Numbers = Field([0], min_length=1)
    folds: Numbers | None = Field(None, min_length=1)  # that are trained; null for all
    train: dict[str, Any] = Field({})  # overrides keys of the section train
    score_train: bool = Field(False, strict=True)  # also score training clips: for students, search
    distance: Distance = "cosine"  # that compares embeddings, if task.type is similarity
    # Width of a last layer that is the embedding, in place of the classes. Without it the embedding
    # is the network's last hidden layer.
    embedding_size: Int | None = Field(None, ge=1)


class FinetunedModel(Model):
    """An entry of `finetuned`: it starts from the weights of another model, without its head.

    With `finetune: none` it starts from random weights, and the other model only predicts tags: it
    may be of another architecture.
    """

    section: ClassVar[str] = "finetuned"

    # A file, or the folder of a model trained before (of the same run), in the task's folder.
    weights: str
    finetune: Literal["all", "head", "none"] = "all"  # head: all other layers stay frozen
    # Weight of the labels in the targets, beside the probabilities of the other model.
    hard_label_weight: Float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _require_use_of_weights(self) -> "FinetunedModel":
        if self.finetune == "none" and self.hard_label_weight is None:
            raise ValueError("must have hard_label_weight, or finetune all or head")
        return self


class Student(Model):
    """An entry of `students`: it learns from the scores of a teacher, trained before."""

    section: ClassVar[str] = "students"
    scores_section: ClassVar[str] = "students"

    teacher: str  # an entry of ensembles
    # Weight of the labels in the targets, beside the teacher's probabilities.
    hard_label_weight: Float | None = Field(None, ge=0, le=1)
    # Or: labels that the ontology says may be missing are added where the teacher's score is above
    # the mean, or a percentile, of its scores of the clips with the label.
    relabel_threshold: Literal["mean"] | Annotated[Float, Field(ge=0, le=100)] | None = None
    ontology: str | None = None  # path of AudioSet's ontology, for relabel_threshold

    @model_validator(mode="after")
    def _require_targets(self) -> "Student":
        if (self.hard_label_weight is None) == (self.relabel_threshold is None):
            raise ValueError("must have either hard_label_weight or relabel_threshold")
        if self.relabel_threshold is not None and self.ontology is None:
            raise ValueError("must have ontology, the path of AudioSet's ontology")
        return self


ENTRY_TYPES: tuple[type[Model], ...] = (Model, FinetunedModel, Student)


class ModelSpec(NamedTuple):
    """The input, the classes and the outputs of a trained network.

    `activation` turns outputs into probabilities (`none`: they are probabilities; a distance: they
    are embeddings); `features` are the settings of the transform of waveforms to the input.
    """

    spec: InputSpec
    classes: list[Class]
    activation: Activation
    features: dict[str, Any]


def read_model(params: Params, name: str) -> Model:
    """Return the entry `name` of `models`, `finetuned` or `students`.

    Raises:
        UserError: if there is none, or it is not valid.
    """
    params.models()
    names = []
    for entry_type in ENTRY_TYPES:
        entries = params.entries(entry_type.section)
        if name in entries:
            return params.parse(entry_type, entries[name], f"{entry_type.section}.{name}")
        names += list(entries)
    raise UserError(f"{params.path}: models.{name} is missing; the models are {', '.join(names)}")
