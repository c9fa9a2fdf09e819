"""Networks of published weights, and states under the names that their files have."""

import pytest
import torch

from tagging.data.spec import InputSpec
from tagging.networks import ast, mobilenet, musicnn
from tagging.sources.weights import Published

NETWORKS = {"mobilenet": mobilenet, "musicnn": musicnn, "ast": ast}
SIZES = {"audioset": 527}
PUBLIC_SPEC = InputSpec(1, 96, 56)  # 9 x 5 patches


def built(published: Published) -> torch.nn.Module:
    """Return the network of published weights, untrained."""
    module = NETWORKS[published.architecture]
    labels = published.labels
    return module.Network(
        module.Settings(**published.network),
        InputSpec(1, published.frames or 187, 96 if published.preset == "musicnn" else 128),
        SIZES[labels] if isinstance(labels, str) else len(labels),
    )


def as_efficientat(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the network's state under the names, and with the kernels, of EfficientAT's files."""
    state = {}
    for key, tensor in network.state_dict().items():
        for ours, theirs in (
            (".layers.", ".block."), (".conv.", ".0."), (".norm.", ".1."),
            ("hidden.0", "classifier.2"), ("classify", "classifier.5"),
            ("squeeze", "conc_se_layers.0.fc1"), ("excite", "conc_se_layers.0.fc2"),
        ):  # fmt: skip
            key = key.replace(ours, theirs)
        state[key] = tensor.transpose(2, 3) if tensor.dim() == 4 else tensor
    return state


def transformers_ast(labels: int = 6, spec: InputSpec = PUBLIC_SPEC):
    """Return transformers' AST, small and with random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(2)
    config = transformers.ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_length=spec.frames,
        num_mel_bins=spec.bins,
        num_labels=labels,
    )
    model = transformers.ASTForAudioClassification(config).eval()
    # Some are initialized with zeros, which would hide a mistake.
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    return model


def as_transformers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights under the names of the published file."""
    renamed = {}
    for name, tensor in weights.items():
        for new, old in (
            ("transformer.layers.", "transformer.encoder.layer."),
            ("attention.q_proj", "attention.attention.query"),
            ("attention.k_proj", "attention.attention.key"),
            ("attention.v_proj", "attention.attention.value"),
            ("attention.o_proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):
            name = name.replace(new, old)
        renamed[name] = tensor.contiguous()
    return renamed
