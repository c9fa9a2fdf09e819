"""`tagging export`: a model for other programs, as ONNX or as a folder for the Hugging Face hub."""

import importlib.util
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from tagging.base.errors import UserError
from tagging.base.files import atomic_write, write_text
from tagging.commands import models
from tagging.commands.outputs import check_above, check_file
from tagging.commands.tagger import Tagger, activate
from tagging.data.clips import write_json
from tagging.scoring.tables import to_markdown

NEEDS = ("onnx", "onnxscript", "onnxruntime")  # the optional extra `export`
OPSET = 20
SHORTEST_SECONDS = 0.1  # of a waveform
TOLERANCE = 1e-4  # of a probability, between ONNX Runtime's and PyTorch's
DATASETS = {"MTT_musicnn.h5": "MagnaTagATune", "MSD_musicnn.h5": "Million Song Dataset"}
ONNX_HEAD = b"\x08"  # of the field that its files begin with, the version
HUB_FILES = ("model.safetensors", "config.json", "preprocessor_config.json", "README.md")
OURS = "tagging-"  # how the type of an exported model begins
LICENCE = "Apache-2.0"  # of the project, so of what it trained


class _Measured(NamedTuple):
    """What a model's task measured on its test clips; None, or empty, where nothing tells.

    `records` are the source's parts, `protocol` how clips were split, `run` the one that the
    weights are of. `values` has of each metric the mean over runs, its interval's ends, and the
    value of `run`.
    """

    source: str | None
    records: list[str]
    clips: int | None
    protocol: str | None
    runs: int
    run: str
    values: dict[str, tuple[float, float | None, float | None, float | None]]


class _Answering(nn.Module):
    """From what the exported model takes to probabilities, (batch, classes)."""

    def __init__(self, tagger: Tagger) -> None:
        super().__init__()
        self.front, self.network = tagger.front, tagger.network
        self.activation = tagger.shape.activation

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return probabilities of waveforms, (batch, samples), or of features."""
        x = given if self.front is None else self.front(given)
        return activate(self.network(x), self.activation)


def to_onnx(name: str, path: Path) -> None:
    """Write a model as ONNX: `waveform` (batch, samples), or `features`, to `probabilities`.

    Batches are of any size, and waveforms and features of any length where the network takes any.
    What it takes to use the model is in the file's metadata. A recording is one window here: longer
    ones are cut by who calls.

    Raises:
        UserError: if there is no such model, ONNX cannot express it, or ONNX Runtime answers
            otherwise.
    """
    if missing := [module for module in NEEDS if importlib.util.find_spec(module) is None]:
        raise UserError(f"{', '.join(missing)} is missing; run pip install {' '.join(NEEDS)}")
    check_file("--onnx", path, ONNX_HEAD, "an ONNX file")
    tagger = Tagger(models.find(name))
    if path.exists() and path.samefile(tagger.path):
        raise UserError(f"--onnx is {path}, the model itself; it takes a new name")
    whole = _Answering(tagger).eval()
    any_length = tagger.any_length
    try:
        program = _exported(tagger, whole, any_length)
    except torch.onnx.errors.OnnxExporterError as error:
        # torch.export takes some networks at one length alone.
        if not any_length:
            raise _inexpressible(tagger, error) from None
        any_length = False
        try:
            program = _exported(tagger, whole, any_length)
        except torch.onnx.errors.OnnxExporterError as error:
            raise _inexpressible(tagger, error) from None
    for key, value in _about(tagger).items():
        program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    with atomic_write(path) as partial:
        program.save(str(partial))
        _compare(tagger, whole, partial, any_length)


def _inexpressible(tagger: Tagger, error: Exception) -> UserError:
    first = str(error).strip().splitlines()[0]
    return UserError(f"{tagger.path} cannot be expressed in ONNX ({first})")


def _example(tagger: Tagger, batch: int, share: float = 1.0) -> torch.Tensor:
    """Return an input of so many clips, of a share of the length that the model was trained on."""
    generator = torch.Generator().manual_seed(0)
    if tagger.front is not None:
        samples = round(share * tagger.window * tagger.rate)
        return torch.randn(batch, samples, generator=generator) * 0.1
    spec = tagger.shape.spec
    frames = max(1, round(share * spec.frames))
    return torch.rand(batch, spec.channels, frames, spec.bins, generator=generator)


def _exported(tagger: Tagger, whole: nn.Module, any_length: bool) -> torch.onnx.ONNXProgram:
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch")}
    if any_length and tagger.front is not None:
        shortest = max(2, round(SHORTEST_SECONDS * tagger.rate))
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
            return torch.onnx.export(
                whole,
                (_example(tagger, 2),),
                dynamo=True,
                dynamic_shapes=(dynamic,),
                input_names=["features" if tagger.front is None else "waveform"],
                output_names=["probabilities"],
                opset_version=OPSET,
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@torch.inference_mode()
def _compare(tagger: Tagger, whole: nn.Module, path: Path, any_length: bool) -> None:
    """Refuse a file with which ONNX Runtime answers otherwise than PyTorch.

    Raises:
        UserError: saying by how much.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    for batch, share in ((1, 1.0), (3, 0.7 if any_length else 1.0)):
        given = _example(tagger, batch, share)
        (found,) = session.run(None, {entry.name: given.numpy()})
        away = float(np.abs(found - whole(given).numpy()).max())
        if not away <= TOLERANCE:
            raise UserError(
                f"{tagger.path}: ONNX Runtime's probabilities differ from PyTorch's by {away:.2g}; "
                f"it takes {TOLERANCE:g} or less"
            )


def _about(tagger: Tagger) -> dict[str, Any]:
    """Return what it takes to use an exported model."""
    about: dict[str, Any] = {
        "labels": tagger.classes,
        "label_ids": [of.id for of in tagger.shape.classes],
        "features": tagger.shape.features,
        "input": tagger.shape.spec._asdict(),
        "licence": _licence(tagger),
    }
    if tagger.front is not None:
        about |= {"sample_rate": tagger.rate, "window_seconds": tagger.window}
    for key in ("published", "promised", "thresholds"):
        if key in tagger.about:
            about[key] = tagger.about[key]
    return about


def _licence(tagger: Tagger) -> str:
    return tagger.published.licence if tagger.published else LICENCE


def to_hub(name: str, folder: Path) -> None:
    """Write a model as the hub has them: weights, two files of settings and a README.

    Raises:
        UserError: if there is no such model.
        OSError: if the disk does not take it.
    """
    _check_hub(folder)
    tagger = Tagger(models.find(name))
    with atomic_write(folder / "model.safetensors") as partial:
        described = {**tagger.about, "checkpoints": []}
        weights = {key: value.contiguous() for key, value in tagger.network.state_dict().items()}
        save_file(weights, partial, {"model": json.dumps(described)})
    config = {
        "model_type": f"{OURS}{tagger.about['architecture']}",
        "architectures": [tagger.about["architecture"]],
        "network": tagger.about["network"],
        "input": tagger.shape.spec._asdict(),
        "num_labels": len(tagger.classes),
        "id2label": {str(place): label for place, label in enumerate(tagger.classes)},
        "label2id": {label: place for place, label in enumerate(tagger.classes)},
        "problem_type": "single_label_classification"
        if tagger.shape.activation == "softmax"
        else "multi_label_classification",
        "activation": tagger.shape.activation,
    }
    if "thresholds" in tagger.about:
        config |= {key: tagger.about[key] for key in ("promised", "thresholds")}
    write_json(folder / "config.json", config)
    features = dict(tagger.shape.features)
    settings = getattr(tagger.front, "settings", None)
    write_json(
        folder / "preprocessor_config.json",
        {
            "feature_extractor_type": features.pop("name"),
            **({"sampling_rate": tagger.rate} if tagger.front is not None else {}),
            # With a preset's numbers written out.
            **(features if settings is None else settings.model_dump()),
        },
    )
    write_text(folder / "README.md", _card(tagger))


def _check_hub(folder: Path) -> None:
    """Refuse a folder whose files, by those names, are not an export's: they would be lost.

    Raises:
        UserError: saying what is accepted instead.
    """
    check_above("--hub", folder / HUB_FILES[0])
    try:
        ours = json.loads((folder / "config.json").read_bytes())["model_type"].startswith(OURS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        ours = False
    there = [name for name in HUB_FILES if os.path.lexists(folder / name)]
    if there and not ours:
        raise UserError(
            f"--hub is {folder}, which holds {', '.join(there)} that no export wrote; it takes a "
            "new folder, or one that an export wrote"
        )


def _card(tagger: Tagger) -> str:
    measured = _measured(tagger.path)
    dataset = (measured and measured.source) or _dataset(tagger)
    index = _model_index(tagger, measured, dataset)
    header: dict[str, Any] = {
        "license": _licence(tagger).lower(),
        "pipeline_tag": "audio-classification",
        "tags": ["audio-tagging", tagger.about["architecture"]],
    }
    if dataset:
        header["datasets"] = [dataset]
    if index:
        header["metrics"] = [of["type"] for of in index["metrics"]]
        header["model-index"] = [{"name": tagger.name, "results": [index]}]
    said = (
        [f"published: {tagger.published.score} {tagger.published.score_of}"]
        if (tagger.published and tagger.published.score)
        else []
    )
    takes = (
        f"sound at {tagger.rate:,} Hz, in windows of {tagger.window:g} s"
        if tagger.front is not None
        else "AudioSet's embeddings (VGGish after PCA, 8 bits), 128 numbers a second"
    )
    call = "(waveform, rate)" if tagger.front is not None else "(embedding)"
    sure = (
        "`config.json` has a threshold for some labels, from which on they are sure: chosen for a "
        f"precision of {tagger.about['promised']:g}, on validation clips."
        if "thresholds" in tagger.about
        else "There are no thresholds: a probability does not tell how far one may rely on it."
    )
    source = tagger.about.get("published")
    lines = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        "",
        f"# {tagger.name}",
        "",
        f"Tells {len(tagger.classes)} labels, with a probability each. It takes {takes}.",
        *([f"The weights are from {source['address']}."] if source else []),
        "",
        "```python\nimport tagging\n",
        f"tagging.load('model.safetensors'){call}['labels']\n```",
        *(["", *said] if said else []),
        *(_table(measured) if measured else []),
        "",
        "## Limits",
        "",
        f"- It knows its {len(tagger.classes)} labels alone, and answers whatever it is given.",
        "- Recordings unlike those that it was trained on get less reliable answers.",
        f"- {sure}",
        "",
    ]
    return "\n".join(lines)


def _dataset(tagger: Tagger) -> str | None:
    if tagger.published:
        file = tagger.published.address.rpartition("/")[2]
        return DATASETS.get(file, "AudioSet")
    known = all(of.id.startswith(("/m/", "/t/", "/g/")) for of in tagger.shape.classes)
    return "AudioSet" if known else None


def _measured(path: Path) -> _Measured | None:
    """Return what `metrics/` beside `models/` says of a model; None where it says nothing."""
    run = models.origin(path)
    folder = run.parent.parent.parent
    metrics = folder / "metrics" / f"{run.parent.name}.json"
    if run.parent.parent.name != "models" or not metrics.is_file():
        return None
    scores = json.loads(metrics.read_text(encoding="utf-8"))
    test, runs = scores.get("test") or {}, scores.get("runs") or {run.stem: scores}
    own = (runs.get(run.stem) or {}).get("test") or {}
    values = {
        name: (value, test.get(f"{name}_low"), test.get(f"{name}_high"), own.get(name))
        for name, value in test.items()
        if not name.endswith(("_low", "_high", "_std")) and isinstance(value, float)
    }
    data = folder / "metrics/data.json"
    about = json.loads(data.read_text(encoding="utf-8")) if data.is_file() else {}
    params = folder / "params.yaml"
    settings = yaml.safe_load(params.read_text(encoding="utf-8")) if params.is_file() else {}
    return _Measured(
        about.get("source"),
        list(about.get("records", {})),
        about.get("split", {}).get("test"),
        settings.get("protocol", {}).get("split"),
        len(runs),
        run.stem,
        values,
    )


def _model_index(
    tagger: Tagger, measured: _Measured | None, dataset: str | None
) -> dict[str, Any] | None:
    """Return a model's results as the hub reads them; None where there are none."""
    name = dataset or "its task's clips"
    about: dict[str, Any] = {"name": name, "type": name.lower().replace(" ", "-")}
    if measured:
        if measured.records:
            about["name"] = f"{name} ({', '.join(measured.records)})"
        of_test = {"clips": measured.clips, "protocol": measured.protocol}
        about |= {"split": "test", "args": {key: it for key, it in of_test.items() if it}}
        mean = f", mean over {measured.runs} runs" if measured.runs > 1 else ""
        metrics = []
        for metric, (value, low, high, _) in measured.values.items():
            interval = "" if low is None else f", 95% interval {low:.4f} to {high:.4f}"
            metrics.append({"type": metric, "name": f"{metric}{mean}{interval}", "value": value})
    elif tagger.published and tagger.published.score:
        about["split"] = "eval"
        metrics = [
            {
                "type": "mean_average_precision",
                "name": tagger.published.score_of,
                "value": tagger.published.score,
            }
        ]
    else:
        return None
    return {"task": {"type": "audio-classification"}, "dataset": about, "metrics": metrics}


def _table(measured: _Measured) -> list[str]:
    """Return lines on what was measured, and on what."""
    on = f"{measured.clips:,} test clips" if measured.clips else "test clips"
    of = f" of {measured.source} ({', '.join(measured.records)})" if measured.source else ""
    split = f", split: {measured.protocol}" if measured.protocol else ""
    several = measured.runs > 1
    means = (
        f" Values are means over {measured.runs} runs, each tested on clips that it was not "
        f"trained on; these weights are one of them, {measured.run}, whose own values stand in the "
        "last column."
        if several
        else ""
    )
    header = ["metric", "value", "95% interval", *(["these weights"] if several else [])]
    rows = []
    for metric, (value, low, high, own) in measured.values.items():
        interval = "" if low is None else f"{low:.4f} to {high:.4f}"
        alone = ["" if own is None else f"{own:.4f}"] if several else []
        rows.append([metric, f"{value:.4f}", interval, *alone])
    table = to_markdown(header, rows, right=len(header)).rstrip("\n")
    return ["", f"Measured on {on}{of}{split}.{means}", "", table]
