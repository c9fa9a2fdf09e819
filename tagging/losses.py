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


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "msml": msml,
    "ce": ce,
}
