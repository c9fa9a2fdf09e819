"""Stage `weights@<name>`: published weights, checked and converted once, as a trained model's file.

What is written holds, beside the weights, all that scoring a clip takes, and where they are from:
address, SHA-256 and licence.
"""

import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tagging.base.errors import entry_point
from tagging.data.classes import Class
from tagging.data.spec import InputSpec
from tagging.features import log_mel
from tagging.learning.model import Model, ModelSpec, save_network
from tagging.parameters import Machine, load, parse
from tagging.sources.audioset.labels import PACKAGED, read_labels
from tagging.sources.transfer import fetch_checked, file_sha256
from tagging.sources.weights import Published, convert, find

FOLDER = Path("data/weights")
TEN_SECONDS = 10


def shape_of(published: Published) -> ModelSpec:
    """Return what published weights take and answer."""
    about = {"preset": published.preset, **(published.features or {})}
    transform = log_mel.Transform(parse(log_mel.Settings, about, "weights"))
    frames = published.window or published.frames
    frames = frames or transform.frames(TEN_SECONDS * transform.sample_rate)
    spec = InputSpec(transform.channels, frames, transform.bins, any_length=True)
    if published.labels == "audioset":
        classes = read_labels(PACKAGED)
    else:
        classes = [Class(name, name) for name in published.labels]
    return ModelSpec(spec, classes, published.activation, {"name": "log_mel", **about})


def bring(name: str, folder: Path, style: str) -> Path:
    """Fetch and convert weights into `folder`; return the file. Nothing else stays there.

    Raises:
        UserError: if there are none of that name, they cannot be had, or what came is not theirs.
    """
    published = find(name)
    path = folder / unquote(urlsplit(published.address).path).rpartition("/")[2]
    fetch_checked(published.address, path, published.sha256, style)
    try:
        about = {
            "address": published.address,
            "sha256": file_sha256(path),
            "licence": published.licence,
        }
        model = Model(architecture=published.architecture, network=published.network)
        converted = folder / f"{name}.safetensors"
        save_network(converted, convert(name, path), model, shape_of(published), about=about)
    finally:
        path.unlink()
    return converted


@entry_point
def main(name: str) -> None:
    """Run the stage for the published weights `name`."""
    bring(name, FOLDER, load(Machine, "run").progress)


if __name__ == "__main__":
    main(*sys.argv[1:])
