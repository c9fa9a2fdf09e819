"""Training losses: functions of a network's outputs and the clips' labels, named as in params.yaml.

Each takes `outputs` float (batch, labels) and `labels` float (batch, labels), 0 to 1, and returns
the mean loss as a scalar.
"""

from collections.abc import Callable

import torch
from torch.nn import functional


def msml(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """PyTorch's multi-label soft margin loss: binary cross-entropy a label, averaged."""
    return functional.multilabel_soft_margin_loss(outputs, labels)


def ce(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The published study's multi-label cross-entropy.

    Every pair of a clip and one of its labels counts once: the clip's outputs, divided by its
    number of labels, go into a cross-entropy against that label; the loss is the mean over pairs.
    """
    number = labels.sum(1, keepdim=True)
    log_p = functional.log_softmax(outputs / number.clamp_min(1), 1)
    return -(labels * log_p).sum() / number.sum()


def bce(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of logits, each label on its own; the same number as `msml`."""
    return functional.binary_cross_entropy_with_logits(outputs, labels)


def focal(
    outputs: torch.Tensor, labels: torch.Tensor, gamma: float = 2.0, alpha: float = 0.25
) -> torch.Tensor:
    """Focal loss of logits (Lin et al., 2017, arXiv 1708.02002), each label on its own.

    Args:
        outputs: logits.
        labels: between 0 and 1 they mix the two cases.
        gamma: how much an answer that is right already counts less; 0 or more.
        alpha: the weight of a label that is there, 1 - alpha that of one that is not.
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
    p = outputs.sigmoid()
    right = labels * p + (1 - labels) * (1 - p)
    weight = labels * alpha + (1 - labels) * (1 - alpha)
    return (weight * (1 - right) ** gamma * cross_entropy).mean()


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "msml": msml,
    "ce": ce,
    "bce": bce,
    "focal": focal,
}
