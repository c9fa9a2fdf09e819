"""What a trained network says of a waveform, as a feature: its embedding, or its log odds."""

import importlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tagging.base.errors import UserError
from tagging.learning.model import load_network, log_odds
from tagging.parameters import parse

FEATURES = Path(__file__).parents[1] / "features"


def build_transform(name: str, settings: dict[str, Any], key: str) -> nn.Module:
    """Return the transform of waveforms that a file of tagging/features defines.

    Args:
        name: of the file.
        settings: of the transform.
        key: the dotted key of params.yaml that they stand under, for errors.

    Raises:
        UserError: if there is no such file, or it does not take the settings.
    """
    there = {file.stem for file in FEATURES.glob("*.py")}
    module = importlib.import_module(f"tagging.features.{name}") if name in there else None
    if not hasattr(module, "Transform"):
        raise UserError(
            f"params.yaml: {key} is {name!r}; it takes log_mel, mfcc, multi_log_mel, or another "
            "file of tagging/features with a Transform"
        )
    return module.Transform(parse(module.Settings, settings, f"{key}.settings"))


class Transform(nn.Module):
    """Waveforms, float32 (1, samples), to what a network says: (1, 1, 1, width or classes).

    Args:
        path: the file of a trained network.
        gives: embedding (what its last layers classify) or scores (its log odds).
        classes: names of the classes whose scores are given, in this order; None for all.

    Raises:
        UserError: if the network does not take sound, has no embedding, or no such class.
    """

    channels = 1

    def __init__(
        self,
        path: Path,
        gives: Literal["embedding", "scores"],
        classes: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.trained = load_network(path, torch.device("cpu"))
        self.architecture = type(self.trained.network).__module__.rpartition(".")[2]
        about = dict(self.trained.shape.features)
        if "sample_rate" not in about and "preset" not in about:
            raise UserError(f"{path} is of a network that takes {about.get('name')}, not sound")
        self.front = build_transform(about.pop("name", None), about, str(path))
        self.sample_rate = self.front.sample_rate
        self.gives = gives
        if gives == "embedding" and not hasattr(self.trained.network, "embed"):
            raise UserError(f"{path} is of a network without an embedding; it gives scores")
        names = [of.name for of in self.trained.shape.classes]
        for name in classes or []:
            if name not in names:
                raise UserError(f"{path} is of a network without the class {name!r}")
        self.places = [names.index(name) for name in classes or names]
        self.bins = self(torch.zeros(1, self.sample_rate)).shape[3]

    def frames(self, samples: int) -> int:
        """Return 1: a clip has one embedding."""
        return 1

    @torch.inference_mode()
    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the embedding, or the log odds, of one waveform."""
        x = self.front(waveform)
        if self.gives == "embedding":
            return self.trained.network.embed(x)[:, None, None]
        outputs = self.trained.network(x)
        scores = torch.from_numpy(log_odds(outputs, self.trained.shape.activation))
        return scores[:, None, None, self.places]
