"""Model cards: the README of an exported model, with its results on the task's test clips."""

import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tagging.commands.hub import PREFIX
from tagging.commands.models import path_in_project
from tagging.commands.render import render
from tagging.commands.tagger import Tagger
from tagging.data.parameters import Params
from tagging.data.task_folder import TaskFolder
from tagging.sources.weights import PUBLISHED, Published

DATASETS = {"MTT_musicnn.h5": "MagnaTagATune", "MSD_musicnn.h5": "Million Song Dataset"}
LICENCE = "Apache-2.0"  # of the project, so of the models that it trains


class Result(NamedTuple):
    """A metric on test clips: the mean over runs, its 95% interval and the value of this run."""

    value: float
    ci_low: float | None
    ci_high: float | None
    run_value: float | None


class Evaluation(NamedTuple):
    """Results of a model's task, with None or nothing where they are unknown.

    Attributes:
        source: the name of the data set.
        records: the parts of the data set.
        clips: number of test clips.
        split: the method by which clips were split.
        num_runs: number of runs that the values are means over.
        run: the run of these weights.
        results: by the metrics' names.
    """

    source: str | None
    records: list[str]
    clips: int | None
    split: str | None
    num_runs: int
    run: str
    results: dict[str, Result]


def model_licence(tagger: Tagger) -> str:
    """Return the licence of a model's weights."""
    return tagger.published.licence if tagger.published else LICENCE


def render_card(tagger: Tagger, repository: str | None, library: str, has_picture: bool) -> str:
    """Return the model card: YAML for the hub, then Markdown.

    Args:
        tagger: the model.
        repository: `user/model`, the place on the hub; None if it is not known.
        library: that loads the folder, beside this one.
        has_picture: whether the folder has the chart of `draw_results`.
    """
    evaluation = read_evaluation(tagger.path)
    dataset = _dataset(tagger, evaluation)
    index = _model_index(tagger, evaluation, dataset)
    header: dict[str, Any] = {
        "library_name": library,
        "license": model_licence(tagger).lower(),
        "pipeline_tag": "audio-classification",
        "tags": ["audio-tagging", tagger.metadata["architecture"]],
    }
    if dataset:
        header["datasets"] = [dataset]
    if index:
        header["metrics"] = [metric["type"] for metric in index["metrics"]]
        header["model-index"] = [{"name": tagger.name, "results": [index]}]
    return render(
        "model_card.md.jinja",
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        name=tagger.name,
        architecture=tagger.metadata["architecture"],
        parameters=sum(parameter.numel() for parameter in tagger.network.parameters()),
        num_labels=len(tagger.classes),
        sample_rate=None if tagger.frontend is None else tagger.sample_rate,
        window_seconds=None if tagger.frontend is None else tagger.window_seconds,
        address=(tagger.metadata.get("published") or {}).get("address"),
        location=f"{PREFIX}{repository}" if repository else ".",
        library=library,
        calibrated="calibration" in tagger.metadata,
        published=tagger.published,
        evaluation=evaluation,
        dataset=index["dataset"]["name"] if index else dataset,
        metrics=index["metrics"] if index else [],
        has_picture=has_picture,
        target_precision=tagger.metadata.get("target_precision")
        if "thresholds" in tagger.metadata
        else None,
    )


def draw_results(tagger: Tagger) -> bytes | None:
    """Return a chart of the results as PNG, which the hub shows, unlike SVG.

    Published weights are shown among the others whose published score is the same metric.

    Returns:
        None without results, or if `vl_convert` is not installed.
    """
    if importlib.util.find_spec("vl_convert") is None:
        return None
    import vl_convert

    if evaluation := read_evaluation(tagger.path):
        chart = _chart_evaluation(evaluation)
    elif tagger.published and tagger.published.score:
        chart = _chart_published(tagger.published)
    else:
        return None
    config = {"font": "sans-serif", "view": {"stroke": None}}
    return vl_convert.vegalite_to_png(chart | {"width": 560, "config": config}, scale=2)


def _chart_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Return a chart of each metric with its interval."""
    rows = [{"metric": metric, **row._asdict()} for metric, row in evaluation.results.items()]
    x: dict[str, Any] = {"type": "quantitative", "scale": {"zero": False}, "title": None}
    y = {"field": "metric", "type": "nominal", "sort": None, "title": None}
    value = {**x, "field": "value"}
    interval: dict[str, Any] = {"x": {**x, "field": "ci_low"}, "x2": {"field": "ci_high"}}
    layers: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"type": "rule", "size": 6, "opacity": 0.35}, interval),
        ({"type": "point", "filled": True, "size": 70}, {"x": value}),
        (
            {"type": "text", "dy": -11},
            {"x": value, "text": {"field": "value", "type": "quantitative", "format": ".3f"}},
        ),
    ]
    return {
        "data": {"values": rows},
        "height": {"step": 36},
        "layer": [{"mark": mark, "encoding": {"y": y, **encoding}} for mark, encoding in layers],
    }


def _chart_published(published: Published) -> dict[str, Any]:
    """Return a chart of the published scores by the number of parameters."""
    rows = [
        {"name": name, "value": entry.score, "parameters": entry.parameters,
         "size": 160 if entry == published else 40}
        for name, entry in PUBLISHED.items()
        if entry.score
    ]  # fmt: skip
    x = {"field": "parameters", "type": "quantitative", "scale": {"type": "log"}}
    y = {"field": "value", "type": "quantitative", "scale": {"zero": False}}
    encoding = {
        "x": {**x, "title": "parameters", "axis": {"format": "s"}},
        "y": {**y, "title": "mAP on AudioSet's evaluation set, as published"},
    }
    size = {"field": "size", "type": "quantitative", "scale": None}
    return {
        "data": {"values": rows},
        "height": 260,
        "encoding": encoding,
        "layer": [
            {"mark": {"type": "point", "filled": True}, "encoding": {"size": size}},
            {
                "mark": {"type": "text", "dy": -13},
                "encoding": {"text": {"field": "name", "type": "nominal"}},
            },
        ],
    }


def _dataset(tagger: Tagger, evaluation: Evaluation | None) -> str | None:
    if evaluation and evaluation.source:
        return evaluation.source
    if tagger.published:
        file = tagger.published.address.rpartition("/")[2]
        return DATASETS.get(file, "AudioSet")
    ids = [class_.id for class_ in tagger.model_spec.classes]
    return "AudioSet" if all(id_.startswith(("/m/", "/t/", "/g/")) for id_ in ids) else None


def read_evaluation(path: Path) -> Evaluation | None:
    """Read the results of the task that a model's file belongs to; None if it has none.

    Args:
        path: of the model's file: in the folder `models` of a task, or a copy from DVC.
    """
    run_path = path_in_project(path)
    entry = run_path.parent.name
    folder = TaskFolder(run_path.parent.parent.parent)
    if run_path != folder.model(entry, run_path.stem) or not folder.evaluation(entry).is_file():
        return None
    content = _read_json(folder.evaluation(entry))
    test, runs = content.get("test") or {}, content.get("runs") or {run_path.stem: content}
    run_values = (runs.get(run_path.stem) or {}).get("test") or {}
    results = {
        key: Result(
            value, test.get(f"{key}_ci_low"), test.get(f"{key}_ci_high"), run_values.get(key)
        )
        for key, value in test.items()
        if not key.endswith(("_ci_low", "_ci_high", "_std")) and isinstance(value, float)
    }
    summary = _read_json(folder.summary)
    params = Params.read(folder.params).content if folder.params.is_file() else {}
    return Evaluation(
        source=summary.get("source"),
        records=list(summary.get("records", {})),
        clips=summary.get("split", {}).get("test"),
        split=params.get("split", {}).get("method"),
        num_runs=len(runs),
        run=run_path.stem,
        results=results,
    )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _model_index(
    tagger: Tagger, evaluation: Evaluation | None, dataset_name: str | None
) -> dict[str, Any] | None:
    """Return a model's results in the hub's format; None if there are none."""
    name = dataset_name or "the task's clips"
    dataset: dict[str, Any] = {"name": name, "type": name.lower().replace(" ", "-")}
    if evaluation:
        if evaluation.records:
            dataset["name"] = f"{name} ({', '.join(evaluation.records)})"
        arguments = {"clips": evaluation.clips, "split_method": evaluation.split}
        known = {key: value for key, value in arguments.items() if value}
        dataset |= {"split": "test", "args": known}
        mean = f", mean over {evaluation.num_runs} runs" if evaluation.num_runs > 1 else ""
        metrics = []
        for metric, result in evaluation.results.items():
            interval = (
                ""
                if result.ci_low is None
                else f", 95% CI {result.ci_low:.4f} to {result.ci_high:.4f}"
            )
            metrics.append(
                {"type": metric, "name": f"{metric}{mean}{interval}", "value": result.value}
            )
    elif tagger.published and tagger.published.score:
        dataset["split"] = "eval"
        metrics = [
            {
                "type": "map",
                "name": tagger.published.score_description,
                "value": tagger.published.score,
            }
        ]
    else:
        return None
    return {"task": {"type": "audio-classification"}, "dataset": dataset, "metrics": metrics}
