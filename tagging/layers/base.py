"""The interface of every network in `tagging/networks`."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

# The distance between embeddings.
Distance = Literal["cosine", "euclidean"]
# The function from outputs to probabilities; with a distance, outputs are embeddings.
Activation = Literal["sigmoid", "softmax", "none", "cosine", "euclidean"]


class TaggingNetwork(nn.Module):
    """Maps clips, float32 (batch, channels, frames, bins), to logits (batch, labels).

    A file of `tagging/networks` defines a subclass `Network(settings, spec, labels)` and the
    pydantic section `Settings` that it is built from. A subclass implements `forward` and, if it
    has hidden features, `forward_features`.

    `frames` is the number of frames of each clip, int64 (batch,), 1 or more, or None if no clip is
    padded; `x` is zero after a clip's last frame. In evaluation mode, the result for a clip does
    not depend on the padding or on the other clips.

    Attributes:
        classifier_layers: names of the attributes, in the network or in its parts, that depend on
            the labels. Pretrained weights replace everything else.
        supports_variable_length: whether clips may be shorter than `spec.frames`.
        activation: the function from outputs to probabilities, or None if the loss determines it.
        embeds_by_output: whether the outputs are the embedding, in place of the hidden features.
    """

    classifier_layers: tuple[str, ...] = ("classify",)
    supports_variable_length: bool = True
    activation: Activation | None = None
    embeds_by_output: bool = False
    _is_frozen: bool = False

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits (batch, labels), or probabilities if `activation` is `none`."""
        raise NotImplementedError

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last hidden features of each clip, (batch, width)."""
        raise NotImplementedError

    def is_classifier(self, name: str) -> bool:
        """Return whether a parameter or module of this dotted name belongs to the classifier."""
        return not {*name.split(".")}.isdisjoint(self.classifier_layers)

    def freeze(self) -> None:
        """Exclude all but the classifier layers from training, for good.

        Frozen layers stay in evaluation mode: they use and keep their batch statistics, and have no
        dropout.
        """
        self._is_frozen = True
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.is_classifier(name))

    def train(self, mode: bool = True) -> "TaggingNetwork":
        """Set the mode of all layers that are not frozen."""
        super().train(mode)
        if self._is_frozen:
            for name, module in self.named_modules():
                module.training = mode and self.is_classifier(name)
        return self

    @property
    def has_embedding(self) -> bool:
        """Whether `embed` is available."""
        implemented = type(self).forward_features is not TaggingNetwork.forward_features
        return implemented or self.embeds_by_output

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the embedding of each clip, (batch, width).

        Raises:
            NotImplementedError: if the network has no embedding.
        """
        return self(x, frames) if self.embeds_by_output else self.forward_features(x, frames)

    def adapt_weights(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return pretrained weights under the names and in the shapes of this network.

        Args:
            tensors: a state dict of this architecture, or of another that the network supports.

        Raises:
            UserError: if the layout of the weights is not supported.
        """
        return dict(tensors)
