"""Losses of embeddings: clips that share labels are to be near each other.

Distances and the losses of triplets and pairs are pytorch-metric-learning's (Musgrave, Belongie,
Lim, 2020, arXiv 2008.09164). Its miners refuse multi-hot labels: triplets and pairs are therefore
selected here. A new loss is a class and an entry of `METRIC_LOSSES`.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from tagging.data.parameters import Float, Int
from tagging.learning.losses import Loss

if TYPE_CHECKING:  # importing it costs a second, which other losses save
    from pytorch_metric_learning.distances import LpDistance

# Rows of anchors, positives and negatives in a batch, int64 (triplets,) each.
Triplets = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class MetricLoss(Loss):
    """Base class of the losses of embeddings.

    `outputs` are embeddings, float (batch, width), of length 1 where the distance is the cosine.
    """

    compares_embeddings: ClassVar[bool] = True


def share_label(labels: torch.Tensor) -> torch.Tensor:
    """Return which pairs of clips share a label: bool (batch, batch), False on the diagonal.

    Args:
        labels: 0 or 1, or blended with a teacher's probabilities (0.5 or more is a label).
    """
    has = (labels >= 0.5).float()
    return (has @ has.T > 0).fill_diagonal_(False)


def draw_triplets(
    anchors: torch.Tensor, similar: torch.Tensor, dissimilar: torch.Tensor, per_anchor: int
) -> Triplets:
    """Return random triplets of each anchor that has a positive and a negative.

    Args:
        anchors: rows of possible anchors, int64.
        similar: the positives of each clip, bool (batch, batch).
        dissimilar: the negatives of each clip, bool (batch, batch).
        per_anchor: the number of triplets of an anchor.
    """
    anchors = anchors[(similar.any(1) & dissimilar.any(1))[anchors]]
    if not len(anchors):
        return anchors, anchors, anchors
    positives, negatives = (
        torch.multinomial(mask[anchors].float(), per_anchor, replacement=True).flatten()
        for mask in (similar, dissimilar)
    )
    return anchors.repeat_interleave(per_anchor), positives, negatives


def available_tags(has: torch.Tensor) -> torch.Tensor:
    """Return which tags another clip of the batch has: bool (batch, tags).

    Args:
        has: the tags of each clip, bool (batch, tags).
    """
    return has.sum(0) - has.int() > 0


def draw_tag_triplets(
    positive_tags: torch.Tensor, negative_tags: torch.Tensor, has: torch.Tensor, per_anchor: int
) -> Triplets:
    """Return random triplets by tag, of each anchor that has a tag of both kinds.

    For each positive and each negative a tag is drawn first, each with the same probability, and
    then a random clip with this tag, which is not the anchor.

    Args:
        positive_tags: that the positives of each anchor may be drawn by, bool (batch, tags).
        negative_tags: that the negatives of each anchor may be drawn by, bool (batch, tags).
        has: the tags of each clip, bool (batch, tags).
        per_anchor: the number of triplets of an anchor.
    """
    rows = (positive_tags.any(1) & negative_tags.any(1)).nonzero().flatten()
    if not len(rows):
        return rows, rows, rows
    anchors = rows.repeat_interleave(per_anchor)
    tags = [
        torch.multinomial(choices[rows].float(), per_anchor, replacement=True).flatten()
        for choices in (positive_tags, negative_tags)
    ]
    positives, negatives = _draw_clips(torch.cat(tags), anchors.repeat(2), has).chunk(2)
    return anchors, positives, negatives


def _draw_clips(tags: torch.Tensor, anchors: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    """Return a random clip with each tag, other than its anchor: int64 (triplets,)."""
    counts = has.sum(0)
    has_tag = has[anchors, tags]
    choices = counts[tags] - has_tag.long()
    numbers = (torch.rand(len(tags), device=has.device) * choices).long()
    # The clips of a tag are numbered without the anchor: numbers from its own on are one higher.
    own = has.cumsum(0)[anchors, tags] - 1
    numbers += (has_tag & (numbers >= own)).long()
    clips_by_tag = has.T.nonzero()[:, 1]
    return clips_by_tag[(counts.cumsum(0) - counts)[tags] + numbers]


class TripletLoss(MetricLoss):
    """Base class of the losses of triplets: max(0, d(anchor, positive) - d(.., negative) + margin).

    `reducer` averages it as pytorch-metric-learning's reducers of these names: `avg_non_zero` over
    the triplets that violate the margin, `mean` over all of them.
    """

    margin: Float = Field(0.2, gt=0)  # by which the negative must be farther than the positive
    triplets_per_anchor: Int = Field(8, ge=1)
    reducer: Literal["avg_non_zero", "mean"] = "avg_non_zero"

    def triplets(self, outputs: torch.Tensor, labels: torch.Tensor) -> Triplets:
        """Select triplets of a batch."""
        raise NotImplementedError

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        from pytorch_metric_learning.losses import TripletMarginLoss
        from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer

        reducer = MeanReducer() if self.reducer == "mean" else AvgNonZeroReducer()
        loss = TripletMarginLoss(self.margin, distance=_euclidean(), reducer=reducer)
        return loss(outputs, indices_tuple=self.triplets(outputs.detach(), labels))


def _euclidean() -> "LpDistance":
    from pytorch_metric_learning.distances import LpDistance

    return LpDistance(normalize_embeddings=False)


class Triplet(TripletLoss):
    """Triplets by labels: a positive shares one with the anchor.

    `draw` decides how a random positive and a random negative are drawn. clip: any clip that shares
    a label with the anchor, and any that shares none. tag: first a tag that the anchor has, and one
    that it lacks, each tag with the same probability, then a clip with it. So a negative may share
    other tags with the anchor.

    Schroff, Kalenichenko, Philbin (2015), FaceNet, arXiv 1503.03832: of the clips that share no
    label, a semi-hard negative is the nearest farther than the positive, a hard one the nearest
    (with `draw: clip` alone).
    """

    name: Literal["triplet"] = "triplet"
    draw: Literal["clip", "tag"] = "clip"
    negatives: Literal["random", "semi_hard", "hard"] = "random"

    @model_validator(mode="after")
    def _require_random_negatives(self) -> "Triplet":
        if self.draw == "tag" and self.negatives != "random":
            raise ValueError(f"must have negatives random with draw tag, got {self.negatives}")
        return self

    def triplets(self, outputs: torch.Tensor, labels: torch.Tensor) -> Triplets:
        """Select triplets of a batch."""
        if self.draw == "tag":
            has = labels >= 0.5
            available = available_tags(has)
            return draw_tag_triplets(
                has & available, ~has & available, has, self.triplets_per_anchor
            )
        similar = share_label(labels)
        dissimilar = ~similar.clone().fill_diagonal_(True)
        rows = torch.arange(len(labels), device=labels.device)
        anchors, positives, negatives = draw_triplets(
            rows, similar, dissimilar, self.triplets_per_anchor
        )
        if self.negatives == "random":
            return anchors, positives, negatives
        distances = torch.cdist(outputs, outputs).masked_fill(~dissimilar, torch.inf)[anchors]
        if self.negatives == "semi_hard":
            nearer = distances <= (outputs[anchors] - outputs[positives]).norm(dim=1, keepdim=True)
            # Where all negatives are nearer than the positive, the random one stays.
            none = (nearer | distances.isinf()).all(1)
            nearest = distances.masked_fill(nearer, torch.inf).argmin(1)
            return anchors, positives, torch.where(none, negatives, nearest)
        return anchors, positives, distances.argmin(1)


class TeacherTriplet(TripletLoss):
    """Triplets by a tagger's probabilities of the anchor (a student with `hard_label_weight: 0.5`).

    probable: the positive has the anchor's most probable tag, the negative its least probable one
    among the tags of the batch.

    errors: as `draw: tag` of the loss `triplet`, but the positive's tag is a false negative of the
    tagger, and the negative's a false positive, where the anchor has one that another clip of the
    batch has. A false negative is a tag of the anchor that is not among the tagger's first `top_k`,
    a false positive one of these that the anchor lacks. The negative may share other tags with the
    anchor. Each tag has the same probability.

    strict_errors: the positive is any clip with a false negative, the negative any with a false
    positive that shares no label with the anchor. Anchors without both have no triplets.
    """

    name: Literal["teacher_triplet"] = "teacher_triplet"
    selection: Literal["probable", "errors", "strict_errors"] = "probable"
    top_k: Int = Field(3, ge=1)

    def triplets(self, outputs: torch.Tensor, labels: torch.Tensor) -> Triplets:
        """Select triplets of a batch."""
        has = (labels >= 0.5).float()
        probabilities = 2 * labels - has
        if self.selection == "probable":
            present = has.any(0)
            most = probabilities.argmax(1)
            least = probabilities.masked_fill(~present, torch.inf).argmin(1)
            similar, dissimilar = has[:, most].T > 0, has[:, least].T > 0
            dissimilar = dissimilar & ~similar
        else:
            first = torch.zeros_like(has)
            first.scatter_(1, probabilities.topk(self.top_k, 1).indices, 1)
            if self.selection == "errors":
                return self._replace_by_errors(has > 0, first > 0)
            similar = (has * (1 - first)) @ has.T > 0
            dissimilar = (first * (1 - has)) @ has.T > 0
            dissimilar = dissimilar & ~share_label(labels)
        return draw_triplets(
            torch.arange(len(labels), device=labels.device),
            similar.fill_diagonal_(False),
            dissimilar.fill_diagonal_(False),
            self.triplets_per_anchor,
        )

    def _replace_by_errors(self, has: torch.Tensor, first: torch.Tensor) -> Triplets:
        """Draw triplets by tag, by the tagger's errors where an anchor has any.

        Args:
            has: the tags of each clip, bool (batch, tags).
            first: the tagger's first `top_k`, bool (batch, tags).
        """
        available = available_tags(has)
        false_negatives, false_positives = has & ~first & available, first & ~has & available
        return draw_tag_triplets(
            torch.where(false_negatives.any(1, keepdim=True), false_negatives, has & available),
            torch.where(false_positives.any(1, keepdim=True), false_positives, ~has & available),
            has,
            self.triplets_per_anchor,
        )


class Pairs(MetricLoss):
    """Pairs that share a label are pulled together, others pushed apart up to the margin.

    Hadsell, Chopra, LeCun (2006), "Dimensionality reduction by learning an invariant mapping".
    """

    name: Literal["pairs"] = "pairs"
    margin: Float = Field(1.0, gt=0)

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar."""
        from pytorch_metric_learning.losses import ContrastiveLoss

        similar = share_label(labels)
        dissimilar = ~similar.clone().fill_diagonal_(True)
        pairs = (*similar.nonzero(as_tuple=True), *dissimilar.nonzero(as_tuple=True))
        loss = ContrastiveLoss(neg_margin=self.margin, distance=_euclidean())
        return loss(outputs, indices_tuple=pairs)


class SoftContrastive(MetricLoss):
    """Cross-entropy of each clip's neighbours against the labels that they share with the clip.

    The neighbours of a clip are a softmax of the negated squared distances to all others of the
    batch, as in neighbourhood component analysis (Goldberger, Hinton, Roweis, Salakhutdinov, 2004).
    The targets are proportional to the intersection over union of the labels of two clips.
    """

    name: Literal["soft_contrastive"] = "soft_contrastive"
    temperature: Float = Field(0.1, gt=0)

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss over the clips that share a label with another, a scalar."""
        has = (labels >= 0.5).float()
        both, number = has @ has.T, has.sum(1)
        targets = (both / (number[:, None] + number - both).clamp_min(1)).fill_diagonal_(0)
        total = targets.sum(1)
        squares = outputs.square().sum(1)
        near = (outputs @ outputs.T - (squares[:, None] + squares) / 2) / self.temperature
        itself = torch.eye(len(outputs), dtype=torch.bool, device=outputs.device)
        log_p = near.masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0)
        loss = -(targets * log_p).sum(1) / total.clamp_min(torch.finfo(total.dtype).tiny)
        return loss.sum() / (total > 0).sum().clamp_min(1)


METRIC_LOSSES: dict[str, type[Loss]] = {
    "triplet": Triplet, "teacher_triplet": TeacherTriplet, "pairs": Pairs,
    "soft_contrastive": SoftContrastive,
}  # fmt: skip
