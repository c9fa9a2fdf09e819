"""`tagging export --onnx`: a model as an ONNX file, compared with PyTorch before it is kept."""

import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tagging.base.errors import UserError
from tagging.base.files import atomic_write
from tagging.commands.model_card import model_licence
from tagging.commands.models import find_model
from tagging.commands.output_paths import check_output_file
from tagging.commands.tagger import Tagger, to_probabilities

PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # the optional extra `export`
OPSET = 20
MIN_SECONDS = 0.1  # of a waveform
TOLERANCE = 1e-4  # of a probability, between ONNX Runtime's and PyTorch's
ONNX_MAGIC = b"\x08"  # the tag of the first field, the version


class _Pipeline(nn.Module):
    """From waveforms, (batch, samples), or features to probabilities, (batch, classes)."""

    def __init__(self, tagger: Tagger) -> None:
        super().__init__()
        self.frontend, self.network = tagger.frontend, tagger.network
        self.activation = tagger.model_spec.activation
        self.calibration = tagger.clips.calibration

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the probabilities."""
        features = x if self.frontend is None else self.frontend(x)
        return to_probabilities(self.network(features), self.activation, self.calibration)


def export_onnx(name: str, path: Path) -> None:
    """Write a model as ONNX: `waveform` (batch, samples), or `features`, to `probabilities`.

    Batches have any size; waveforms and features have any length if the network supports it. The
    file's metadata has labels, features and thresholds. Probabilities are calibrated, as those of
    `tagging tag`. A recording is one window: the caller cuts longer ones.

    Raises:
        UserError: if the model does not exist, ONNX cannot express it, or ONNX Runtime computes
            other probabilities.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"{', '.join(missing)} is not installed; run pip install {' '.join(PACKAGES)}"
        )
    check_output_file("--onnx", path, ONNX_MAGIC, "an ONNX file")
    tagger = Tagger(find_model(name))
    if path.exists() and path.samefile(tagger.path):
        raise UserError(f"--onnx: {path} is the model itself; choose a new name")
    pipeline = _Pipeline(tagger).eval()
    any_length = tagger.supports_variable_length
    try:
        program = _convert(tagger, pipeline, any_length)
    except torch.onnx.errors.OnnxExporterError as error:
        # torch.export converts some networks only for one length.
        if not any_length:
            raise _conversion_error(tagger, error) from None
        any_length = False
        try:
            program = _convert(tagger, pipeline, any_length)
        except torch.onnx.errors.OnnxExporterError as error:
            raise _conversion_error(tagger, error) from None
    for key, value in _metadata(tagger).items():
        program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    with atomic_write(path) as partial:
        program.save(str(partial))
        _compare(tagger, pipeline, partial, any_length)


def _conversion_error(tagger: Tagger, error: Exception) -> UserError:
    first_line = str(error).strip().splitlines()[0]
    return UserError(f"{tagger.path} cannot be expressed in ONNX ({first_line})")


def _example(tagger: Tagger, batch: int, relative_length: float = 1.0) -> torch.Tensor:
    """Return a random input: `batch` clips, their length relative to that of training clips."""
    generator = torch.Generator().manual_seed(0)
    if tagger.frontend is not None:
        samples = round(relative_length * tagger.window_seconds * tagger.sample_rate)
        return torch.randn(batch, samples, generator=generator) * 0.1
    spec = tagger.model_spec.spec
    frames = max(1, round(relative_length * spec.frames))
    return torch.rand(batch, spec.channels, frames, spec.bins, generator=generator)


def _convert(tagger: Tagger, pipeline: nn.Module, any_length: bool) -> torch.onnx.ONNXProgram:
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch")}
    if any_length and tagger.frontend is not None:
        shortest = max(2, round(MIN_SECONDS * tagger.sample_rate))
        dynamic[1] = torch.export.Dim("samples", min=shortest)
    elif any_length:
        dynamic[2] = torch.export.Dim("frames")
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about packages that are not needed
            program = torch.onnx.export(
                pipeline,
                (_example(tagger, 2),),
                dynamo=True,
                dynamic_shapes=(dynamic,),
                input_names=["features" if tagger.frontend is None else "waveform"],
                output_names=["probabilities"],
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None  # without a file, the program is returned
            return program
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@torch.inference_mode()
def _compare(tagger: Tagger, pipeline: nn.Module, path: Path, any_length: bool) -> None:
    """Refuse a file with which ONNX Runtime computes other probabilities than PyTorch.

    Raises:
        UserError: with the largest difference.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    for batch, relative_length in ((1, 1.0), (3, 0.7 if any_length else 1.0)):
        x = _example(tagger, batch, relative_length)
        (probabilities,) = session.run(None, {entry.name: x.numpy()})
        difference = float(np.abs(probabilities - pipeline(x).numpy()).max())
        if not difference <= TOLERANCE:
            raise UserError(
                f"{tagger.path}: ONNX Runtime's probabilities must be within {TOLERANCE:g} of "
                f"PyTorch's, they differ by {difference:.2g}"
            )


def _metadata(tagger: Tagger) -> dict[str, Any]:
    """Return what a program needs to use the model."""
    metadata: dict[str, Any] = {
        "labels": tagger.classes,
        "label_ids": [class_.id for class_ in tagger.model_spec.classes],
        "features": tagger.model_spec.features,
        "input": tagger.model_spec.spec._asdict(),
        "licence": model_licence(tagger),
    }
    if tagger.frontend is not None:
        metadata |= {"sample_rate": tagger.sample_rate, "window_seconds": tagger.window_seconds}
    for key in ("published", "target_precision", "thresholds"):
        if key in tagger.metadata:
            metadata[key] = tagger.metadata[key]
    return metadata
