"""Losses of classifiers: one class each, with the name and parameters that params.yaml has.

A new loss is a class and an entry of `CLASSIFICATION_LOSSES`.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.nn import functional

from tagging.data.parameters import Float, Section
from tagging.layers.base import Activation


class Loss(Section):
    """Base class of all losses; subclasses declare `name` as a `Literal`.

    Attributes:
        activation: what turns outputs trained with the loss into probabilities: sigmoid (each class
            on its own) or softmax (probabilities sum to 1).
        compares_embeddings: whether the loss compares embeddings instead of outputs of classes.
    """

    activation: ClassVar[Literal["sigmoid", "softmax"]] = "sigmoid"
    compares_embeddings: ClassVar[bool] = False
    name: str

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar.

        Args:
            outputs: float (batch, classes), or embeddings (batch, width).
            labels: float (batch, classes), 0 to 1.
        """
        raise NotImplementedError

    def training_activation(self, activation: Activation) -> Activation:
        """Return what the loss is computed from: outputs of classes (`none`) or embeddings.

        Args:
            activation: that of validation, a distance where embeddings are wanted.
        """
        return activation if self.compares_embeddings else "none"


class Msml(Loss):
    """PyTorch's multi-label soft margin loss: binary cross-entropy of each label, averaged."""

    name: Literal["msml"] = "msml"

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        return functional.multilabel_soft_margin_loss(outputs, labels)


class Bce(Loss):
    """Binary cross-entropy of logits, each label on its own; the same value as `msml`."""

    name: Literal["bce"] = "bce"

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        return functional.binary_cross_entropy_with_logits(outputs, labels)


class Ce(Loss):
    """Cross-entropy; with several labels per clip, in the form of the published study.

    Every pair of a clip and one of its labels counts once: the outputs of the clip, divided by its
    number of labels, go into a cross-entropy against the label; the loss is the mean over pairs.
    """

    name: Literal["ce"] = "ce"
    activation: ClassVar[Literal["sigmoid", "softmax"]] = "softmax"

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        number = labels.sum(1, keepdim=True)
        log_p = functional.log_softmax(outputs / number.clamp_min(1), 1)
        # Clamped, as no clip of a batch may have a label.
        return -(labels * log_p).sum() / number.sum().clamp_min(torch.finfo(number.dtype).tiny)


class Focal(Loss):
    """Focal loss of logits (Lin et al., 2017, arXiv 1708.02002), each label on its own.

    Targets between 0 and 1 interpolate between the two cases.
    """

    name: Literal["focal"] = "focal"
    gamma: Float = Field(2.0, ge=0)  # how much less a correct prediction counts
    alpha: Float = Field(0.25, ge=0, le=1)  # weight of positive labels

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        cross_entropy = functional.binary_cross_entropy_with_logits(
            outputs, labels, reduction="none"
        )
        p = outputs.sigmoid()
        wrong = labels * (1 - p) + (1 - labels) * p
        # Above 0, as the gradient of a power below 1 is infinite at 0.
        wrong = wrong.clamp_min(torch.finfo(wrong.dtype).tiny)
        weight = labels * self.alpha + (1 - labels) * (1 - self.alpha)
        return (weight * wrong**self.gamma * cross_entropy).mean()


CLASSIFICATION_LOSSES: dict[str, type[Loss]] = {
    "msml": Msml, "bce": Bce, "ce": Ce, "focal": Focal,
}  # fmt: skip
