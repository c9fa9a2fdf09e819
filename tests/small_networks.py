"""Small settings of every network, and inputs that it supports."""

from pathlib import Path

import yaml

import tagging.networks
from tagging.data.spec import InputSpec
from tests.project import ROOT, TASKS

# Small settings of each network; dropout is 0 by default.
AST = {"patch": [4, 16], "stride": [2, 8], "width": 24, "heads": 4, "layers": 2}
TABLE: dict[str, list[dict]] = {
    "ast": [AST, AST | {"class_token": "last"}],
    "attention": [
        {"hidden": 24, "layers": 2, "pooling": "decision"},
        {"hidden": 24, "layers": 2, "pooling": "decision", "heads": 4},
        {"hidden": 24, "layers": 2, "pooling": "feature"},
        {"hidden": 24, "layers": 2, "pooling": "mean"},
        {"hidden": 24, "layers": 2, "pooling": "max"},
        {"hidden": 24, "layers": 3, "pooling": "decision", "levels": 2},
    ],
    "cnn": [{"channels": [4, 6], "strides": [[1, 2], [1, 2]], "decoder": [8]}],
    "crnn": [{"channels": [4, 6], "strides": [[1, 2], [1, 2]], "hidden": 12, "layers": 2}],
    "linear": [{}],
    "lstm": [{"hidden": 12, "layers": 2}],
    "mobilenet": [{"width": 0.1}],
    "musicnn": [{"filters": 3, "middle": 8, "hidden": 24}],
    "projection": [{"width": 12}, {}],
    "psla": [
        {"width": 0.25, "depth": 0.3, "drop_blocks": 0.0},
        {"width": 0.25, "depth": 0.3, "drop_blocks": 0.0, "pooling": "mean_max", "norm": "batch"},
    ],
    "resnet": [{"stem": [[4, 3, 3]], "channels": [4, 8], "stride": [1, 2]}],
    "yac": [{"head": "logits"}, {"head": "softmax"}],
}
SPECS = [InputSpec(1, 10, 128), InputSpec(3, 24, 40), InputSpec(1, 61, 64)]
# For networks that do not support these.
SPECIAL_SPECS = {"yac": [InputSpec(1, 10, 128), InputSpec(3, 24, 80), InputSpec(1, 61, 72)]}


def small_settings(name: str) -> list[dict]:
    """Return the settings of the table or, without any, of the first model of a task."""
    models = (
        model
        for folder in (Path(), *TASKS)
        for model in yaml.safe_load((ROOT / folder / "params.yaml").read_text())["models"].values()
    )
    configured = (model.get("network", {}) for model in models if model["architecture"] == name)
    return TABLE.get(name) or [next(configured, {})]


ARCHITECTURES = {
    file.stem
    for folder in tagging.networks.__path__
    for file in Path(folder).glob("*.py")
    if file.stem not in ("__init__", "identity")  # identity, without parameters, has a test below
}
