"""Metric losses: they learn embeddings of which near ones share labels. As losses.py, else.

Such a loss is called with `outputs`, the embeddings, float (batch, width), of length 1 where the
cosine is to compare them, and `labels` float (batch, classes). Distances and losses of triplets and
pairs are pytorch-metric-learning's (Musgrave, Belongie, Lim, 2020, arXiv 2008.09164). Its miners
take one label a clip: here clips are alike that share a label, and what was chosen is handed on.
"""

from typing import Literal

import torch
from pydantic import Field

from tagging.learning.losses import LOSSES, Loss
from tagging.parameters import Float, Int

Triplets = tuple[
    torch.Tensor, torch.Tensor, torch.Tensor
]  # places of anchors, positives, negatives


class MetricLoss(Loss):
    """What all metric losses are; each subclass is known by its `name`."""


def sharing(labels: torch.Tensor) -> torch.Tensor:
    """Return which pairs of clips share a label: bool (batch, batch), False for a clip and itself.

    Args:
        labels: 0 or 1, or blended with a teacher's probabilities (0.5 or more is a label).
    """
    has = (labels >= 0.5).float()
    return (has @ has.T > 0).fill_diagonal_(False)


def draw(anchors: torch.Tensor, alike: torch.Tensor, unlike: torch.Tensor, each: int) -> Triplets:
    """Return `each` random triplets of each anchor that has a positive and a negative.

    Args:
        anchors: places that may be anchors, int64.
        alike: the positives of each clip, bool (batch, batch).
        unlike: its negatives, likewise.
        each: how many an anchor.
    """
    anchors = anchors[(alike.any(1) & unlike.any(1))[anchors]]
    if not len(anchors):
        return anchors, anchors, anchors
    positives, negatives = (
        torch.multinomial(mask[anchors].float(), each, replacement=True).flatten()
        for mask in (alike, unlike)
    )
    return anchors.repeat_interleave(each), positives, negatives


class TripletLoss(MetricLoss):
    """What losses of triplets share: how many, and their margin."""

    margin: Float = Field(
        0.2, description="a number above 0: by which a negative is to be farther", gt=0
    )
    each: Int = Field(8, description="a whole number of triplets an anchor, 1 or more", ge=1)

    def triplets(self, outputs: torch.Tensor, labels: torch.Tensor) -> Triplets:
        """Return places of anchors, positives and negatives in the batch, int64 (triplets,)."""
        raise NotImplementedError

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean over the triplets that are not as they should be, a scalar."""
        # Here, as it takes a second.
        from pytorch_metric_learning.losses import TripletMarginLoss

        loss = TripletMarginLoss(self.margin, distance=_euclidean())
        return loss(outputs, indices_tuple=self.triplets(outputs.detach(), labels))


def _euclidean():
    from pytorch_metric_learning.distances import LpDistance

    return LpDistance(normalize_embeddings=False)


class Triplet(TripletLoss):
    """Triplets by labels: a positive shares one with the anchor, a negative shares none.

    Schroff, Kalenichenko, Philbin (2015), FaceNet, arXiv 1503.03832; a semi-hard negative is the
    nearest of those that are farther than the positive, a hard one the nearest of all.
    """

    name: Literal["triplet"] = Field("triplet", description="triplet")
    negatives: Literal["random", "semi_hard", "hard"] = Field(
        "random", description="random, semi_hard or hard"
    )

    def triplets(self, outputs: torch.Tensor, labels: torch.Tensor) -> Triplets:
        """Return places of anchors, positives and negatives in the batch, int64 (triplets,)."""
        alike = sharing(labels)
        unlike = ~alike.clone().fill_diagonal_(True)
        places = torch.arange(len(labels), device=labels.device)
        anchors, positives, negatives = draw(places, alike, unlike, self.each)
        if self.negatives == "random":
            return anchors, positives, negatives
        distances = torch.cdist(outputs, outputs).masked_fill(~unlike, torch.inf)[anchors]
        if self.negatives == "semi_hard":
            nearer = distances <= (outputs[anchors] - outputs[positives]).norm(dim=1, keepdim=True)
            # Where all are nearer than the positive, the one drawn stays.
            none = (nearer | distances.isinf()).all(1)
            nearest = distances.masked_fill(nearer, torch.inf).argmin(1)
            return anchors, positives, torch.where(none, negatives, nearest)
        return anchors, positives, distances.argmin(1)


class TeacherTriplet(TripletLoss):
    """Triplets by what a tagger says of the anchor (a student's teacher, with label_weight 0.5).

    probable: the positive has the anchor's most probable tag, the negative its least probable one
    of those that clips of the batch have. errors: the positive has a label of the anchor that is
    not among the tagger's first `top` (a false negative); the negative has none of the anchor's,
    but one of these that the anchor has not (a false positive).
    """

    name: Literal["teacher_triplet"] = Field("teacher_triplet", description="teacher_triplet")
    choose: Literal["probable", "errors"] = Field("probable", description="probable or errors")
    top: Int = Field(3, description="a whole number of tags of 1 or more (of errors)", ge=1)

    def triplets(self, outputs: torch.Tensor, labels: torch.Tensor) -> Triplets:
        """Return places of anchors, positives and negatives in the batch, int64 (triplets,)."""
        has = (labels >= 0.5).float()
        probabilities = 2 * labels - has
        if self.choose == "probable":
            there = has.any(0)
            most = probabilities.argmax(1)
            least = probabilities.masked_fill(~there, torch.inf).argmin(1)
            alike, unlike = has[:, most].T > 0, has[:, least].T > 0
            unlike = unlike & ~alike
        else:
            first = torch.zeros_like(has)
            first.scatter_(1, probabilities.topk(self.top, 1).indices, 1)
            alike = (has * (1 - first)) @ has.T > 0
            unlike = (first * (1 - has)) @ has.T > 0
            unlike = unlike & ~sharing(labels)
        return draw(
            torch.arange(len(labels), device=labels.device),
            alike.fill_diagonal_(False), unlike.fill_diagonal_(False), self.each,
        )  # fmt: skip


class Pairs(MetricLoss):
    """Pairs that share a label are to be near, others farther than the margin.

    Hadsell, Chopra, LeCun (2006), "Dimensionality reduction by learning an invariant mapping".
    """

    name: Literal["pairs"] = Field("pairs", description="pairs")
    margin: Float = Field(1.0, description="a number above 0: how far others are to be", gt=0)

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        from pytorch_metric_learning.losses import ContrastiveLoss

        alike = sharing(labels)
        unlike = ~alike.clone().fill_diagonal_(True)
        chosen = (*alike.nonzero(as_tuple=True), *unlike.nonzero(as_tuple=True))
        loss = ContrastiveLoss(neg_margin=self.margin, distance=_euclidean())
        return loss(outputs, indices_tuple=chosen)


class SoftContrastive(MetricLoss):
    """Cross-entropy of each clip's neighbours against the share of labels that they have with it.

    A clip's neighbours are a softmax of the negated squared distances to all others of the batch,
    as in neighbourhood component analysis (Goldberger, Hinton, Roweis, Salakhutdinov, 2004); they
    are to be in proportion to the labels that two clips share among those that either has.
    """

    name: Literal["soft_contrastive"] = Field("soft_contrastive", description="soft_contrastive")
    temperature: Float = Field(0.1, description="a number above 0", gt=0)

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss over the clips that share a label with another, a scalar."""
        has = (labels >= 0.5).float()
        both, number = has @ has.T, has.sum(1)
        wanted = (both / (number[:, None] + number - both).clamp_min(1)).fill_diagonal_(0)
        total = wanted.sum(1)
        squares = outputs.square().sum(1)
        near = (outputs @ outputs.T - (squares[:, None] + squares) / 2) / self.temperature
        itself = torch.eye(len(outputs), dtype=torch.bool, device=outputs.device)
        log_p = near.masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0)
        loss = -(wanted * log_p).sum(1) / total.clamp_min(torch.finfo(total.dtype).tiny)
        return loss.sum() / (total > 0).sum().clamp_min(1)


LOSSES |= {
    kind.model_fields["name"].default: kind
    for kind in (Triplet, TeacherTriplet, Pairs, SoftContrastive)
}
