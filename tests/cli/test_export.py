"""The command `tagging export`: ONNX and the hub's folder."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tagging.base.errors import UserError
from tagging.commands import export_onnx as onnx_module
from tagging.commands.export_hub import export_hub
from tagging.commands.export_onnx import export_onnx
from tagging.commands.main import run
from tagging.commands.model_card import read_evaluation
from tagging.commands.models import find_model
from tagging.commands.tagger import Tagger, load_tagger, to_probabilities
from tagging.data.classes import Class
from tagging.data.spec import InputSpec
from tagging.learning.model import Model, ModelSpec
from tests.commands import track_with_dvc
from tests.project import EVALUATED, ROOT
from tests.small_models import MEL, RATE, save

MIRROR = os.environ.get("DOWNLOAD_MIRROR")
CLASSES = [Class(f"/m/{k}", f"label {k}") for k in range(6)]
SOUND = (
    Model(architecture="cnn", network={"channels": [4], "strides": [[2, 2]], "dropout": 0.1}),
    ModelSpec(InputSpec(1, 63, 16), CLASSES, "sigmoid", MEL),
)
RECORDS = ModelSpec(InputSpec(1, 10, 128, scale=1 / 256), CLASSES, "sigmoid", {"name": "vggish"})
YAC = (Model(architecture="yac", network={"head": "logits"}), RECORDS)
ATTENTION = (
    Model(
        architecture="attention",
        network={"hidden": 8, "layers": 1, "dropout": 0.1, "pooling": "decision"},
    ),
    RECORDS,
)
MULTI_LEVEL = (
    Model(
        architecture="attention",
        network={"hidden": 8, "layers": 2, "levels": 2, "dropout": 0.1, "pooling": "decision"},
    ),
    RECORDS,
)


def assert_equal_outputs(model: Path, onnx: Path, *shapes: tuple[int, ...]) -> None:
    """Compare ONNX Runtime's probabilities with PyTorch's, of inputs of these shapes."""
    onnxruntime = pytest.importorskip("onnxruntime")
    tagger = Tagger(model)
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    rng = np.random.default_rng(0)
    for shape in shapes:
        inputs = (rng.random(shape) * 0.5).astype(np.float32)
        with torch.inference_mode():
            x = torch.from_numpy(inputs)
            outputs = tagger.network(x if tagger.frontend is None else tagger.frontend(x))
            activation, calibration = tagger.model_spec.activation, tagger.clips.calibration
            expected = to_probabilities(outputs, activation, calibration).numpy()
        (probabilities,) = session.run(None, {entry.name: inputs})
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-4)


def metadata(path: Path) -> dict[str, str]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map


def test_a_model_of_sound_reads_waveforms_of_any_length(tmp_path: Path):
    model, onnx = save(tmp_path / "ears.safetensors", *SOUND), tmp_path / "ears.onnx"
    assert run(["export", str(model), "--onnx", str(onnx)]) == 0
    assert_equal_outputs(model, onnx, (1, RATE), (4, 3 * RATE), (2, 2345))
    about = metadata(onnx)
    assert json.loads(about["labels"]) == [label.name for label in CLASSES]
    assert json.loads(about["features"]) == MEL
    assert (about["sample_rate"], about["window_seconds"]) == (str(RATE), "1.0")


@pytest.mark.parametrize(
    ("entry", "shapes"),
    [
        (YAC, [(1, 1, 10, 128), (7, 1, 10, 128)]),
        (ATTENTION, [(1, 1, 10, 128), (7, 1, 23, 128)]),
        (MULTI_LEVEL, [(1, 1, 10, 128), (7, 1, 4, 128)]),
    ],
)
def test_models_of_embeddings_read_features(tmp_path: Path, entry, shapes):
    model, onnx = save(tmp_path / "records.safetensors", *entry), tmp_path / "records.onnx"
    export_onnx(str(model), onnx)
    assert_equal_outputs(model, onnx, *shapes)
    assert "sample_rate" not in metadata(onnx)


@pytest.mark.skipif(MIRROR is None, reason="DOWNLOAD_MIRROR is not set")
@pytest.mark.parametrize("folder", EVALUATED, ids=str)
def test_the_best_model_of_each_task_is_exported(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    params = yaml.safe_load((ROOT / folder / "params.yaml").read_text(encoding="utf-8"))
    model = ROOT / folder / params["artifact"]["path"]
    if not model.is_file():
        pytest.skip(f"{model.relative_to(ROOT)} is not checked out")
    if params["task"]["type"] == "similarity":
        with pytest.raises(UserError, match="must be a model of labels, got a model of similarity"):
            export_onnx(str(model), tmp_path / "best.onnx")
        return
    export_onnx(str(model), tmp_path / "best.onnx")
    tagger = Tagger(model)
    spec = tagger.model_spec.spec
    shape = (3, 1, spec.frames, spec.bins) if tagger.frontend is None else (2, tagger.sample_rate)
    assert_equal_outputs(model, tmp_path / "best.onnx", shape)


@pytest.mark.skipif(MIRROR is None, reason="DOWNLOAD_MIRROR is not set")
@pytest.mark.parametrize(
    ("name", "shapes"),
    [("mn04_as", [(2, 50_000), (1, 111_111)]), ("musicnn_mtt", [(1, 48_000), (3, 33_333)])],
)
def test_published_weights_are_exported(name: str, shapes, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    onnx = tmp_path / f"{name}.onnx"
    export_onnx(name, onnx)
    assert_equal_outputs(find_model(name), onnx, *shapes)
    assert metadata(onnx)["licence"] in ("MIT", "ISC")
    assert "sha256" in metadata(onnx)["published"]


def test_different_probabilities_are_refused_and_nothing_is_written(tmp_path: Path, monkeypatch):
    model, onnx = save(tmp_path / "yac.safetensors", *YAC), tmp_path / "yac.onnx"
    monkeypatch.setattr(onnx_module, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"must be within .* they differ by"):
        export_onnx(str(model), onnx)
    assert [path.name for path in tmp_path.iterdir()] == ["yac.safetensors"]


def test_missing_packages_are_named(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(onnx_module, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(UserError, match=r"^no_such_package is not installed; run pip install"):
        export_onnx(str(save(tmp_path / "yac.safetensors", *YAC)), tmp_path / "yac.onnx")


@pytest.mark.parametrize(
    ("option", "where", "sentence"),
    [
        ("--onnx", "notes.txt/x.onnx", "cannot be created, .*notes.txt must be a folder"),
        ("--onnx", "folder", ": folder must be a file, got a folder"),
        ("--onnx", "/dev/null", ": /dev/null must be a file"),
        ("--onnx", "notes.txt", "exists and is not an ONNX file, .* choose a new name"),
        ("--onnx", "yac.safetensors", "exists and is not an ONNX file|is the model itself"),
        ("--hf-dir", "notes.txt", "cannot be created, .*notes.txt must be a folder"),
        ("--hf-dir", "folder", "must be a new folder or an earlier export, it has README.md"),
    ],
)
def test_paths_of_other_files_are_refused(
    tmp_path: Path, monkeypatch, option: str, where: str, sentence: str
):
    monkeypatch.chdir(tmp_path)
    model = save(Path("yac.safetensors"), *YAC)
    Path("folder").mkdir()
    for name in ("notes.txt", "folder/README.md"):
        Path(name).write_text("mine")
    before = model.read_bytes()
    with pytest.raises(UserError, match=sentence):
        run(["export", str(model), option, where])
    assert model.read_bytes() == before and Path("folder/README.md").read_text() == "mine"
    assert sorted(path.name for path in Path("folder").iterdir()) == ["README.md"]


def test_the_hub_s_folder_has_the_model_its_configuration_and_a_card(tmp_path: Path):
    model = save(tmp_path / "models/ears/seed0.safetensors", *SOUND)
    for name in ("evaluation", "data"):
        (tmp_path / name).mkdir()
    test = {"accuracy": 0.75, "accuracy_ci_low": 0.7, "accuracy_ci_high": 0.8, "accuracy_std": 0.02}
    runs = {"seed0": {"test": {"accuracy": 0.77}}, "seed1": {"test": {"accuracy": 0.73}}}
    data = {"source": "noises", "records": {"a.zip": 9000}, "split": {"train": 1, "test": 1234}}
    (tmp_path / "evaluation/ears.json").write_text(json.dumps({"test": test, "runs": runs}))
    (tmp_path / "data/summary.json").write_text(json.dumps(data))
    (tmp_path / "params.yaml").write_text("split: {method: group_k_fold}")
    folder = tmp_path / "hub"
    assert run(["export", str(model), "--hf-dir", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "results.png",
    ]  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {str(k): label.name for k, label in enumerate(CLASSES)}
    assert config["label2id"]["label 3"] == 3
    features = json.loads((folder / "preprocessor_config.json").read_text())
    assert (features["feature_extractor_type"], features["sampling_rate"]) == ("log_mel", RATE)
    assert features["hop"] == 128
    _, header, body = (folder / "README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(header)
    assert about["pipeline_tag"] == "audio-classification"
    assert (about["license"], about["metrics"]) == ("apache-2.0", ["accuracy"])
    (result,) = about["model-index"][0]["results"]
    name = "accuracy, mean over 2 runs, 95% CI 0.7000 to 0.8000"
    assert result["metrics"] == [{"type": "accuracy", "name": name, "value": 0.75}]
    assert result["dataset"] == {
        "name": "noises (a.zip)", "type": "noises", "split": "test",
        "args": {"clips": 1234, "split_method": "group_k_fold"},
    }  # fmt: skip
    assert (
        "On 1,234 test clips of noises (a.zip), split by `group_k_fold`. Intervals are 95% "
        "bootstrap intervals over the clips. Values are means over 2 training runs." in body
    )
    assert "those of the run `seed0`, whose own" in body
    assert "| accuracy | 0.7500 | 0.7000 to 0.8000 | 0.7700 |" in body and "## Limits" in body
    # The exported weights predict the same labels.
    waveform = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    original, exported = (load_tagger(str(path))(waveform, RATE) for path in (model, folder))
    assert original["labels"] == exported["labels"]


def test_a_model_outside_a_task_has_no_results(tmp_path: Path):
    model = save(tmp_path / "elsewhere.safetensors", *YAC)
    for _ in range(2):  # an export replaces an earlier one
        export_hub(str(model), tmp_path / "hub")
    header = (tmp_path / "hub/README.md").read_text().split("---\n")[1]
    assert not {"metrics", "model-index"} & yaml.safe_load(header).keys()
    assert yaml.safe_load(header)["datasets"] == ["AudioSet"]


def test_a_model_near_the_root_of_the_disk_has_no_results():
    for path in ("/near.safetensors", "/tmp/near.safetensors"):
        assert read_evaluation(Path(path)) is None


def test_a_copy_from_dvc_has_the_results_of_its_task(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save(Path("tasks/a/models/yac/seed0.safetensors"), *YAC)
    track_with_dvc("tasks/a/models/yac")
    shutil.rmtree("tasks/a/models/yac")
    Path("tasks/a/evaluation").mkdir()
    Path("tasks/a/evaluation/yac.json").write_text(json.dumps({"test": {"ndcg": 0.5}}))
    run(["export", "yac", "--hf-dir", "hub"])
    assert "| ndcg | 0.5000 | |" in Path("hub/README.md").read_text()


@pytest.mark.skipif(MIRROR is None, reason="DOWNLOAD_MIRROR is not set")
def test_published_weights_have_the_published_result(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    export_hub("mn04_as", tmp_path / "hub")
    header = yaml.safe_load((tmp_path / "hub/README.md").read_text().split("---\n")[1])
    (result,) = header["model-index"][0]["results"]
    assert result["dataset"] == {"name": "AudioSet", "type": "audioset", "split": "eval"}
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("map", 0.432)
