"""The section `train` of params.yaml: how a network is trained."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo

from tagging.base.errors import UserError
from tagging.data.parameters import PARAMS_NAME, Float, Int, Params, Section, parse
from tagging.learning.losses import CLASSIFICATION_LOSSES, Loss
from tagging.learning.metric_losses import METRIC_LOSSES
from tagging.learning.model import Model
from tagging.learning.sampling import Sampling
from tagging.learning.spectral_augmentation import Augment

LOSSES: dict[str, type[Loss]] = CLASSIFICATION_LOSSES | METRIC_LOSSES


def parse_loss(value: object, key: str) -> Loss:
    """Return the loss that a name, or a mapping of the name and its parameters, describes.

    Raises:
        UserError: naming what is wrong under the dotted `key`.
    """
    settings = value if isinstance(value, dict) else {"name": value}
    name = settings.get("name")
    if not isinstance(name, str) or name not in LOSSES:
        raise UserError(
            f"{PARAMS_NAME}: {key} must be one of {', '.join(LOSSES)}, or a mapping of such a name "
            f"and the loss's parameters, got {value!r}"
        )
    return parse(LOSSES[name], settings, key)


def _loss(value: object, info: ValidationInfo) -> Loss:
    return (
        value if isinstance(value, Loss) else parse_loss(value, f"{info.context or 'train'}.loss")
    )


class FirstPhase(Section):
    """The section `train.first_phase`: first epochs at a constant rate of their own."""

    epochs: Int = Field(ge=1)
    lr: Float = Field(gt=0)


class Train(Section):
    """The section `train`; an entry's own `train` overrides keys of it."""

    loss: SerializeAsAny[Annotated[Loss, BeforeValidator(_loss)]]
    lr: Float = Field(gt=0)  # the highest of the schedule
    epochs: Int = Field(ge=1)
    batch_size: Int = Field(ge=2)
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: Float = Field(0.0, ge=0)

    # one_cycle rises for 30% of the steps, cosine for the fraction `warmup`; both then fall to 0.
    # exponential multiplies by `decay` after each epoch, from the epoch `decay_after` on.
    schedule: Literal["constant", "one_cycle", "cosine", "exponential"] = "one_cycle"
    warmup: Float = Field(0.05, ge=0, lt=1)
    decay: Float = Field(0.85, gt=0, le=1)
    decay_after: Int = Field(5, ge=0)
    # Replaces the schedule's rates of the first epochs, such as five in AST's training; not with
    # one_cycle, whose rates and momenta belong together.
    first_phase: FirstPhase | None = None

    sampling: Sampling = (
        "uniform"  # each clip once; or balanced, inverse_frequency: rare labels more
    )
    mixup_prob: Float = Field(0.0, ge=0, le=1)  # of a clip
    mixup_alpha: Float = Field(1.0, gt=0)
    augment: Augment = Augment()

    # ema: a moving average over all steps; swa: the mean over the last `swa_epochs` epochs.
    weight_averaging: Literal["none", "ema", "swa"] = "none"
    ema_decay: Float = Field(0.999, gt=0, lt=1)
    swa_epochs: Int = Field(3, ge=1)

    restore: Literal["best", "last"] = (
        "best"  # the epoch whose weights are kept; best on validation
    )
    # Their weights are kept as well: averages with ema, and not averaged with swa.
    save_last_epochs: Int = Field(0, ge=0)
    # bfloat16 rounds multiplications (autocast): faster, but results depend on the processor.
    precision: Literal["float32", "bfloat16"] = "float32"
    target_precision: Float = Field(0.8, gt=0, lt=1)  # of the confidence thresholds


def read_train_settings(params: Params, model: Model, name: str) -> Train:
    """Return the section `train` with an entry's own `train` on top.

    Raises:
        UserError: naming the first wrong key.
    """
    shared = params.section(Train, "train")
    if not model.train:
        return shared
    key = f"{model.section}.{name}.train"
    return params.parse(Train, {**params.content["train"], **model.train}, key)
