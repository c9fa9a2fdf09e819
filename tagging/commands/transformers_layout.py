"""The layout of the library `transformers`, for networks that it has: AST.

A folder in this layout loads there by `AutoModelForAudioClassification`. `convert_layout` reads the
weights back, equal to the last bit.
"""

from typing import Any

import numpy as np
import torch

from tagging.data.spec import InputSpec
from tagging.features import log_mel
from tagging.networks import ast
from tagging.sources.weights import convert_ast

LAYOUT = "transformers"  # in the metadata of a file of weights
_PREFIX = "audio_spectrogram_transformer."
_PROJECTIONS = ("query", "key", "value")  # one tensor in PyTorch's attention
_LAYER_PARTS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "self_attn.out_proj": "attention.output.dense",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
}
_PARTS = {
    "norm": f"{_PREFIX}layernorm",
    "classify.0": "classifier.layernorm",
    "classify.1": "classifier.dense",
}


def describe_config(description: dict[str, Any]) -> dict[str, Any] | None:
    """Return a network as an `ASTConfig`, or None if transformers cannot express it.

    Args:
        description: of the trained network, from its file.
    """
    if description["architecture"] != "ast":
        return None
    settings, spec = ast.Settings(**description["network"]), InputSpec(**description["input"])
    if not (
        settings.distillation
        and settings.class_token == "first"
        and settings.norm == "fixed"
        and (settings.mean, settings.spread) == (0, ast.SPREAD)
        and settings.patch[0] == settings.patch[1]
        and (spec.channels, spec.scale, spec.offset) == (1, 1, 0)
    ):
        return None
    return {
        "model_type": "audio-spectrogram-transformer",
        "architectures": ["ASTForAudioClassification"],
        "hidden_size": settings.width,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "intermediate_size": 4 * settings.width,
        "hidden_dropout_prob": settings.dropout,
        "attention_probs_dropout_prob": settings.dropout,
        "patch_size": settings.patch[0],
        "time_stride": settings.stride[0],
        "frequency_stride": settings.stride[1],
        "max_length": spec.frames,
        "num_mel_bins": spec.bins,
        "layer_norm_eps": ast.EPS,
    }


def describe_features(settings: log_mel.Settings, frames: int) -> dict[str, Any] | None:
    """Return features as an `ASTFeatureExtractor`, or None if it computes others.

    Args:
        settings: of the features.
        frames: of the network's input.
    """
    free = {key: getattr(settings, key) for key in ("bins", "mean", "std")}
    expected = log_mel.Settings(preset="ast", **free)
    if settings.model_dump(exclude={"preset"}) != expected.model_dump(exclude={"preset"}):
        return None
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "sampling_rate": settings.sample_rate,
        "num_mel_bins": settings.bins,
        "max_length": frames,
        "do_normalize": True,
        "mean": settings.mean,
        "std": settings.std / 2,  # it divides by twice this number
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def to_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of AST under the names of `ASTForAudioClassification`.

    Tokens are sums with their positions here, so their positions there are zeros.
    """
    tokens, positions = state["tokens"], state["positions"]  # (2, width), (rows, columns, width)
    grid = positions.transpose(0, 1).flatten(0, 1)
    embeddings = f"{_PREFIX}embeddings."
    renamed = {
        f"{embeddings}cls_token": tokens[None, :1],
        f"{embeddings}distillation_token": tokens[None, 1:],
        f"{embeddings}position_embeddings": torch.cat([torch.zeros_like(tokens), grid])[None],
        f"{embeddings}patch_embeddings.projection.weight": state["project.weight"].transpose(2, 3),
        f"{embeddings}patch_embeddings.projection.bias": state["project.bias"],
    }
    for name, tensor in state.items():
        part, _, kind = name.rpartition(".")
        if part in _PARTS:
            renamed[f"{_PARTS[part]}.{kind}"] = tensor
        elif part.startswith("layers."):
            _, number, part = part.split(".", 2)
            layer = f"{_PREFIX}encoder.layer.{number}."
            if part in _LAYER_PARTS:
                renamed[f"{layer}{_LAYER_PARTS[part]}.{kind}"] = tensor
            else:  # self_attn, with in_proj_weight and in_proj_bias
                for projection, rows in zip(_PROJECTIONS, tensor.chunk(3), strict=True):
                    key = f"{layer}attention.attention.{projection}.{kind.removeprefix('in_proj_')}"
                    renamed[key] = rows
    return {name: tensor.contiguous().clone() for name, tensor in renamed.items()}


def convert_layout(
    description: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the network's state dict from the tensors of a file, by its description."""
    if description.get("layout") != LAYOUT:
        return tensors
    settings = ast.Settings(**description["network"])
    columns = (description["input"]["bins"] - settings.patch[1]) // settings.stride[1] + 1
    arrays = convert_ast({name: tensor.numpy() for name, tensor in tensors.items()}, columns)
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
