"""Training losses: one class each, named as in params.yaml, with its own parameters.

A loss is called with `outputs` float (batch, classes) and `labels` float (batch, classes), 0 to 1,
and returns the mean loss as a scalar. `activation` is what turns outputs that were trained with it
into probabilities: sigmoid (each class on its own) or softmax (classes share 1).
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.parameters import Float, Section, parse


class Loss(Section):
    """What all losses are; each subclass is known by its `name`."""

    activation: ClassVar[Literal["sigmoid", "softmax"]] = "sigmoid"

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        raise NotImplementedError


class Msml(Loss):
    """PyTorch's multi-label soft margin loss: binary cross-entropy a label, averaged."""

    name: Literal["msml"] = Field("msml", description="msml")

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        return functional.multilabel_soft_margin_loss(outputs, labels)


class Bce(Loss):
    """Binary cross-entropy of logits, each label on its own; the same number as `msml`."""

    name: Literal["bce"] = Field("bce", description="bce")

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        return functional.binary_cross_entropy_with_logits(outputs, labels)


class Ce(Loss):
    """Cross-entropy; with several labels a clip, the published study's.

    Every pair of a clip and one of its labels counts once: the clip's outputs, divided by its
    number of labels, go into a cross-entropy against that label; the loss is the mean over pairs.
    """

    name: Literal["ce"] = Field("ce", description="ce")
    activation: ClassVar[Literal["sigmoid", "softmax"]] = "softmax"

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        number = labels.sum(1, keepdim=True)
        log_p = functional.log_softmax(outputs / number.clamp_min(1), 1)
        # Not divided by 0 where no clip of a batch has a label.
        return -(labels * log_p).sum() / number.sum().clamp_min(torch.finfo(number.dtype).tiny)


class Focal(Loss):
    """Focal loss of logits (Lin et al., 2017, arXiv 1708.02002), each label on its own.

    Labels between 0 and 1 mix the two cases.
    """

    name: Literal["focal"] = Field("focal", description="focal")
    gamma: Float = Field(
        2.0, description="a number of 0 or more: how much less a right answer counts", ge=0
    )
    alpha: Float = Field(
        0.25, description="a number from 0 to 1: what labels that are there weigh", ge=0, le=1
    )

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        cross_entropy = functional.binary_cross_entropy_with_logits(
            outputs, labels, reduction="none"
        )
        p = outputs.sigmoid()
        wrong = labels * (1 - p) + (1 - labels) * p
        # Never 0 below a power under 1: its gradient there is infinite.
        wrong = wrong.clamp_min(torch.finfo(wrong.dtype).tiny)
        weight = labels * self.alpha + (1 - labels) * (1 - self.alpha)
        return (weight * wrong**self.gamma * cross_entropy).mean()


LOSSES: dict[str, type[Loss]] = {
    kind.model_fields["name"].default: kind for kind in Loss.__subclasses__()
}


def parse_loss(value: object, key: str) -> Loss:
    """Return the loss that a name, or a mapping of the name and its parameters, stands for.

    Raises:
        UserError: naming what is wrong under the dotted `key`.
    """
    given = value if isinstance(value, dict) else {"name": value}
    name = given.get("name")
    if not isinstance(name, str) or name not in LOSSES:
        raise UserError(
            f"params.yaml: {key} is {value!r}; it takes {', '.join(LOSSES)}, or a mapping of such "
            "a name and the loss's own parameters"
        )
    return parse(LOSSES[name], given, key)
