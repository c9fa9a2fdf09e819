"""Small models with random weights, and what they predict for: noise and embeddings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tagging.data.classes import Class
from tagging.data.spec import InputSpec
from tagging.learning.factory import build_network
from tagging.learning.model import Model, ModelSpec
from tagging.learning.model_file import save_network

RATE = 8000
SOUND = Model(
    architecture="cnn",
    network={"channels": [4, 8], "strides": [[2, 2], [2, 2]], "dropout": 0.1},
)
NET = {"channels": [4], "dropout": 0.0}
MEL = {"name": "log_mel", "sample_rate": RATE, "window": 256, "hop": 128, "bins": 16, "floor": 1e-5}


def classes(number: int) -> list[Class]:
    return [Class(f"/m/{k}", f"label {k}, a name") for k in range(number)]


def save(path: Path, model: Model, shape: ModelSpec, thresholds: dict | None = None) -> Path:
    torch.manual_seed(1)
    network = build_network(model, shape.spec, len(shape.classes), "test").eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    save_network(path, network.state_dict(), model, shape)
    if thresholds:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["model"])
            about |= {"target_precision": 0.8, "thresholds": thresholds}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        save_file(tensors, path, {"model": json.dumps(about)})
    return path


def sound_model(path: Path, thresholds: dict | None = None) -> Path:
    """Save a network whose clips last a second."""
    spec = InputSpec(1, 1 + RATE // 128, 16)
    return save(path, SOUND, ModelSpec(spec, classes(6), "sigmoid", MEL), thresholds)


def yac_model(path: Path) -> Path:
    spec = InputSpec(1, 10, 128, scale=1 / 256)
    model = Model(architecture="yac", network={"head": "logits"})
    return save(path, model, ModelSpec(spec, classes(10), "sigmoid", {"name": "vggish"}))


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Noise whose loudness rises and falls."""
    n = round(seconds * rate)
    swell = 0.3 + 0.2 * np.sin(np.arange(n) / rate * 2)
    return (np.random.default_rng(seed).standard_normal(n) * swell * 0.3).astype(np.float32)


def embedding(frames: int = 10, seed: int = 0) -> np.ndarray:
    """Return uint8 (frames, 128) with AudioSet's statistics: all frames share a component."""
    rng = np.random.default_rng(seed)
    values = 126 + 75 * (0.7 * rng.standard_normal(128) + 0.7 * rng.standard_normal((frames, 128)))
    return values.clip(0, 255).astype(np.uint8)


def write_net(path: Path, names: list[str], **features: Any) -> None:
    """Write a small untrained network of log-mel spectrograms."""
    torch.manual_seed(0)
    spec = InputSpec(1, 100, MEL["bins"], any_length=True)
    model = Model(architecture="cnn", network=NET)
    network = build_network(model, spec, len(names), "net")
    about = {key: value for key, value in MEL.items() if key != "floor"} | features
    model_spec = ModelSpec(spec, [Class(name, name) for name in names], "sigmoid", about)
    save_network(path, network.state_dict(), model, model_spec)
