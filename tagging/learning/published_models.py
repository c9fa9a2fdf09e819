"""Published weights: downloaded, converted, and written as a trained model's file."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from tagging.base.progress import ProgressStyle
from tagging.data.classes import Class
from tagging.data.parameters import parse
from tagging.data.spec import InputSpec
from tagging.features import log_mel
from tagging.learning.model import Model, ModelSpec
from tagging.learning.model_file import save_network
from tagging.sources.audioset.labels import PACKAGED, read_labels
from tagging.sources.transfer import fetch_checked, file_sha256
from tagging.sources.weights import (
    Published,
    convert_weights,
    find_published,
    require_verified,
)

CLIP_SECONDS = 10  # of AudioSet's clips


def published_model_spec(published: Published) -> ModelSpec:
    """Return the input, the classes and the features of published weights."""
    features = {"preset": published.preset, **(published.features or {})}
    transform = log_mel.Transform(parse(log_mel.Settings, features, "weights"))
    frames = published.window or published.frames
    frames = frames or transform.frames(CLIP_SECONDS * transform.sample_rate)
    spec = InputSpec(transform.channels, frames, transform.bins, any_length=True)
    if published.labels == "audioset":
        classes = read_labels(PACKAGED)
    else:
        classes = [Class(name, name) for name in published.labels]
    return ModelSpec(spec, classes, published.activation, {"name": "log_mel", **features})


def fetch_published(name: str, folder: Path, style: ProgressStyle) -> Path:
    """Download and convert weights; return the converted file, the only one left in `folder`.

    Raises:
        UserError: if the name is unknown, the weights cannot be checked, the download fails or its
            SHA-256 is another.
    """
    require_verified(name)
    published = find_published(name)
    path = folder / unquote(urlsplit(published.address).path).rpartition("/")[2]
    fetch_checked(published.address, path, published.sha256, style)
    try:
        origin = {
            "address": published.address,
            "sha256": file_sha256(path),
            "licence": published.licence,
        }
        model = Model.model_validate(
            {"architecture": published.architecture, "network": published.network}
        )
        converted = folder / f"{name}.safetensors"
        spec = published_model_spec(published)
        save_network(converted, convert_weights(name, path), model, spec, origin=origin)
    finally:
        path.unlink()
    return converted
