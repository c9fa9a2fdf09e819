"""Features computed by a trained network from a waveform: its embedding, or its probabilities."""

import importlib
from pathlib import Path
from typing import Any, Literal

import torch

from tagging.base.errors import UserError
from tagging.data.parameters import PARAMS_NAME, parse
from tagging.features.base import WaveformTransform
from tagging.learning.inference import log_odds
from tagging.learning.model_file import load_network

FEATURES = Path(__file__).parents[1] / "features"


def build_transform(
    name: str | None, settings: dict[str, Any], key: str, file: Path | str = PARAMS_NAME
) -> WaveformTransform:
    """Return the transform of waveforms that a file of tagging/features defines.

    Args:
        name: of the file, without .py.
        settings: of the transform.
        key: the dotted key of the feature, for errors.
        file: that has the key, for errors.

    Raises:
        UserError: if there is no such file, or its settings are not valid.
    """
    names = {path.stem for path in FEATURES.glob("*.py")}
    module = importlib.import_module(f"tagging.features.{name}") if name in names else None
    if module is None or not (hasattr(module, "Transform") and hasattr(module, "Settings")):
        raise UserError(
            f"{file}: {key}.transform must be log_mel, mfcc, multi_log_mel, or another file of "
            f"tagging/features with Settings and a Transform, got {name!r}"
        )
    return module.Transform(parse(module.Settings, settings, f"{key}.settings", file))


class Transform(WaveformTransform):
    """Maps a waveform, float32 (1, samples), to (1, 1, 1, width or classes).

    Args:
        path: of a trained network.
        output: embedding (the network's last hidden features) or probabilities (as log odds).
        classes: names of the classes of the output, in this order; None for all.

    Raises:
        UserError: if the input of the network is not sound, or it has no embedding or no such
            class.
    """

    channels = 1

    def __init__(
        self,
        path: Path,
        output: Literal["embedding", "probabilities"],
        classes: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.trained = load_network(path, torch.device("cpu"))
        spec = self.trained.model_spec
        self.architecture = type(self.trained.network).__module__.rpartition(".")[2]
        settings = dict(spec.features)
        if "sample_rate" not in settings and "preset" not in settings:
            raise UserError(
                f"{path} must be a network of sound, but its input is {settings.get('name')}"
            )
        self.frontend = build_transform(settings.pop("name", None), settings, "features", path)
        self.sample_rate = self.frontend.sample_rate
        self.output = output
        if output == "embedding" and not self.trained.network.has_embedding:
            raise UserError(f"{path} has no embedding: output must be probabilities")
        names = [label.name for label in spec.classes]
        for name in classes or []:
            if name not in names:
                raise UserError(f"{path} has no class {name!r}")
        self.columns = [names.index(name) for name in classes or names]
        self.bins = self(torch.zeros(1, self.sample_rate)).shape[3]

    def frames(self, samples: int) -> int:
        """Return 1: the features of a clip are one frame."""
        return 1

    @torch.inference_mode()
    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the embedding, or the log odds, of a waveform."""
        x = self.frontend(waveform)
        if self.output == "embedding":
            return self.trained.network.embed(x)[:, None, None]
        outputs = self.trained.network(x)
        logits = torch.from_numpy(log_odds(outputs, self.trained.model_spec.activation))
        return logits[:, None, None, self.columns]
