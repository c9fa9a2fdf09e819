"""Models of the Hugging Face hub, from a server on loopback, and folders for `transformers`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from huggingface_hub import ModelCard, constants
from safetensors import safe_open
from safetensors.torch import save_file

import tagging
from tagging.base.errors import UserError
from tagging.commands import model_card
from tagging.commands.export_hub import export_hub, push_model
from tagging.commands.main import run
from tagging.commands.transformers_layout import describe_config, to_transformers
from tagging.data.spec import InputSpec
from tagging.learning.model import Model, ModelSpec
from tests.hub_server import Hub, serve_hub
from tests.small_models import RATE, classes, embedding, noise, save, sound_model, yac_model

# The hub's library uploads by a deprecated option of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
FILE = "/{repo_id}/resolve/{revision}/{filename}"
AST = {"distillation": True, "width": 32, "heads": 4, "layers": 2}
AST_SPEC = InputSpec(1, 96, 128, any_length=True)
AST_RATE = 16_000
AST_SAMPLES = 400 + 95 * 160  # 96 frames


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """An empty hub, and an empty cache."""
    with serve_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + FILE)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def ast_model(path: Path, features: dict | None = None, **settings) -> Path:
    model = Model(architecture="ast", network=AST | settings)
    features = {"name": "log_mel", "preset": "ast"} | (features or {})
    return save(path, model, ModelSpec(AST_SPEC, classes(6), "sigmoid", features))


def assert_equal_models(first: "tagging.Tagger", second: "tagging.Tagger", rate: int) -> None:
    ours, theirs = first.network.state_dict(), second.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    waveform = noise(2, rate=rate)
    expected, answer = first(waveform, rate), second(waveform, rate)
    assert expected | {"model": ""} == answer | {"model": ""}


def test_what_is_loaded_equals_what_was_uploaded(hub: Hub, tmp_path: Path, capsys):
    for save_model, rate in ((sound_model, RATE), (ast_model, AST_RATE)):
        name = save_model.__name__
        path = save_model(tmp_path / f"{name}.safetensors")
        assert run(["export", str(path), "--push", f"user/{name}"]) == 0
        (commit,) = hub.commits[f"user/{name}"]
        assert capsys.readouterr().out == f"{hub.address}/user/{name}/commit/{commit}\n"
        loaded = tagging.load(f"hf:user/{name}")
        assert loaded.name == f"user/{name}"
        assert_equal_models(tagging.load(str(path)), loaded, rate)
    # A second load asks for the revision, and downloads nothing.
    hub.requests.clear()
    tagging.load("hf:user/sound_model")
    assert hub.requests and not [line for line in hub.requests if line.startswith("GET")]


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub, tmp_path: Path):
    weights = []
    for seed in range(2):
        path = sound_model(
            tmp_path / "ears.safetensors", {"label 1, a name": {"threshold": seed / 4}}
        )
        push_model(str(path), "user/ears", tmp_path / "folder")
        weights.append(hub.refs["user/ears"]["main"])
    hub.refs["user/ears"]["v1"] = weights[0]
    loaded = [
        tagging.load(f"hf:user/ears{name}").metadata["thresholds"]["label 1, a name"]["threshold"]
        for name in ("", "@v1", f"@{weights[0]}", f"@{weights[1]}")
    ]
    assert loaded == [0.25, 0, 0, 0.25]


def test_the_folder_that_was_written_is_uploaded_alone(hub: Hub, tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "private.txt").write_text("mine")
    push_model(str(sound_model(tmp_path / "ears.safetensors")), "user/ears", folder)
    (files,) = hub.commits["user/ears"].values()
    assert sorted(files) == [
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    assert files == {name: (folder / name).read_bytes() for name in files}
    assert 'tagging.load("hf:user/ears")' in files["README.md"].decode()


def refusal(name: str) -> str:
    with pytest.raises(UserError) as caught:
        tagging.load(name)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_other_networks_are_refused_before_their_weights_are_fetched(hub: Hub, tmp_path: Path):
    save_file({"bert.weight": torch.zeros(2)}, tmp_path / "x", {"format": "pt"})
    weights = (tmp_path / "x").read_bytes()
    config = json.dumps({"model_type": "bert"}).encode()
    hub.commit("user/bert", {"config.json": config, "model.safetensors": weights})
    assert refusal("hf:user/bert") == (
        "hf:user/bert is a model of another program; use a folder that tagging export --hf-dir "
        "wrote"
    )
    # A pickle is never fetched, whatever the configuration says.
    ours = json.dumps({"network": {}, "input": {}, "activation": "sigmoid"}).encode()
    hub.commit("user/pickle", {"config.json": ours, "pytorch_model.bin": b"cos\nsystem\n"})
    assert refusal("hf:user/pickle").startswith("hf:user/pickle has no model.safetensors; use a")
    hub.commit("user/bare", {"pytorch_model.bin": b"cos\nsystem\n"})
    assert refusal("hf:user/bare").startswith("hf:user/bare has no config.json; use a")
    fetched = [line for line in hub.requests if "model.safetensors" in line or ".bin" in line]
    assert fetched == [
        f"HEAD /user/pickle/resolve/{hub.refs['user/pickle']['main']}/model.safetensors"
    ]
    # Weights that are not those of the configuration.
    hub.commit("user/mixed", {"config.json": ours, "model.safetensors": weights})
    assert "must be a trained network" in refusal("hf:user/mixed")


def test_missing_names_and_a_hub_out_of_reach_are_one_sentence(hub: Hub, tmp_path, monkeypatch):
    push_model(str(sound_model(tmp_path / "ears.safetensors")), "user/ears")
    assert "hf:user/nose does not exist at http://127.0.0.1" in refusal("hf:user/nose")
    assert "has no such revision" in refusal("hf:user/ears@v9")
    for name in ("hf:", "hf:ears", "hf:user/ears@", "hf:a/b/c", "hf:../x", "hf:user/ears@v1@v2"):
        assert "must be hf:user/model or hf:user/model@revision, got" in refusal(name)
    with pytest.raises(UserError, match="--push must be user/model, got 'user/ears@v1'"):
        push_model(str(tmp_path / "ears.safetensors"), "user/ears@v1")
    # A private repository needs a token.
    hub.token = "hf_secret"
    assert "set HF_TOKEN" in refusal("hf:user/ears")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert tagging.load("hf:user/ears").name == "user/ears"
    hub.token = "hf_other"
    with pytest.raises(UserError, match=r"^user/ears"):
        push_model(str(tmp_path / "ears.safetensors"), "user/ears")
    # What is in the cache loads without the hub.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert tagging.load("hf:user/ears").name == "user/ears"
    assert refusal("hf:user/nose") == (
        "hf:user/nose is not in the hub's cache, and HF_HUB_OFFLINE is set"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nobody + FILE)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's attempts
    assert tagging.load("hf:user/ears").name == "user/ears"
    assert "is not in the hub's cache, and http://127.0.0.1:9 cannot be" in refusal("hf:user/nose")
    with pytest.raises(UserError, match=r"^user/ears: "):
        push_model(str(tmp_path / "ears.safetensors"), "user/ears")


def test_the_command_reads_the_environment(hub: Hub, tmp_path: Path):
    hub.token = "hf_secret"
    soundfile.write(tmp_path / "song.wav", noise(2), RATE)
    sound_model(tmp_path / "ears.safetensors")
    environment = os.environ | {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": hub.token,
        "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(Path(tagging.__file__).parents[1]),
    }  # fmt: skip

    def command(*arguments: str, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tagging.commands.main", *arguments],
            cwd=tmp_path, env=environment | variables, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert command("export", "ears.safetensors", "--push", "user/ears").startswith(hub.address)
    expected = json.loads(command("tag", "song.wav", "--json", "--model", "ears.safetensors"))
    hub.requests.clear()
    remote = ("tag", "song.wav", "--json", "--model", "hf:user/ears@main")
    answer = json.loads(command(*remote))
    assert hub.requests
    hub.requests.clear()
    assert json.loads(command(*remote, HF_HUB_OFFLINE="1")) == answer
    assert not hub.requests
    assert answer[0]["model"] == "user/ears"
    assert answer[0] | {"model": "ears"} == expected[0]


def test_export_needs_one_target(tmp_path: Path, capsys):
    for options, sentence in (
        ((), "one of --onnx, --hf-dir and --push is required"),
        (("--onnx", "x.onnx", "--push", "user/ears"), "--push uploads a folder for the hub"),
        (("--onnx", "x.onnx", "--hf-dir", "x"), "not allowed with argument --onnx"),
    ):
        with pytest.raises(SystemExit) as caught:
            run(["export", "ears", *options])
        assert caught.value.code == 2 and sentence in capsys.readouterr().err


# The card.


def evaluated_model(folder: Path) -> Path:
    """Save a model in a task's folder with results."""
    model = sound_model(folder / "models/ears/seed0.safetensors")
    for name in ("evaluation", "data"):
        (folder / name).mkdir()
    test = {
        f"{metric}{suffix}": value + add
        for metric, value in (("accuracy", 0.75), ("roc_auc", 0.9))
        for suffix, add in (("", 0), ("_ci_low", -0.05), ("_ci_high", 0.05), ("_std", 0.01))
    }
    (folder / "evaluation/ears.json").write_text(json.dumps({"test": test}))
    data = {"source": "noises", "records": {"a.zip": 9000}, "split": {"train": 1, "test": 1234}}
    (folder / "data/summary.json").write_text(json.dumps(data))
    (folder / "params.yaml").write_text("split: {method: group_k_fold}")
    return model


def test_the_hub_s_library_reads_the_card(tmp_path: Path):
    pytest.importorskip("vl_convert")
    export_hub(str(evaluated_model(tmp_path)), tmp_path / "hub", "user/ears")
    card = ModelCard.load(tmp_path / "hub/README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("tagging", "audio-classification")
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results.keys() == {"accuracy", "roc_auc"}
    assert results["accuracy"].metric_value == 0.75
    assert results["accuracy"].metric_name == "accuracy, 95% CI 0.7000 to 0.8000"
    assert results["accuracy"].dataset_name == "noises (a.zip)"
    for text in (
        "On 1,234 test clips of noises (a.zip), split by `group_k_fold`.",
        "| accuracy | 0.7500 | 0.7000 to 0.8000 |",
        "![Results on the test clips, with 95% intervals](results.png)",
        "## Limits",
    ):
        assert text in card.text
    assert "\n\n\n" not in card.text
    picture = (tmp_path / "hub/results.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5000
    # An export of a model without results leaves no picture of an earlier one.
    export_hub(str(sound_model(tmp_path / "ears.safetensors")), tmp_path / "hub")
    assert not (tmp_path / "hub/results.png").exists()
    text = (tmp_path / "hub/README.md").read_text()
    assert "results.png" not in text and "was not evaluated" in text


def test_a_card_without_the_library_of_charts_has_no_picture(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(model_card.importlib.util, "find_spec", lambda name: None)
    export_hub(str(evaluated_model(tmp_path)), tmp_path / "hub")
    text = (tmp_path / "hub/README.md").read_text()
    assert "## Results" in text and "results.png" not in text


def snippets(folder: Path) -> list[str]:
    return re.findall(r"(?s)```python\n(.*?)```", (folder / "README.md").read_text())


def test_snippets_work_as_printed(hub: Hub, tmp_path: Path, monkeypatch, capsys):
    folder = tmp_path / "hub"
    monkeypatch.chdir(tmp_path)
    soundfile.write("song.mp3", noise(2), RATE)
    expected = tagging.load(str(ast_model(tmp_path / "ears.safetensors")))
    push_model("ears.safetensors", "user/ears", folder)
    capsys.readouterr()
    ours, theirs = snippets(folder)
    exec(ours)
    printed = capsys.readouterr().out.splitlines()
    labels = expected(*soundfile.read("song.mp3"), top=5)["labels"]
    assert printed == [f"{label['label']}: {label['probability']:.3f}" for label in labels]
    names: dict = {}
    exec(theirs, names)
    assert names["network"].num_labels == 6
    # A folder that is not on the hub, and a model of embeddings.
    export_hub(str(yac_model(tmp_path / "yac.safetensors")), folder)
    monkeypatch.chdir(folder)
    np.save("embedding.npy", embedding())
    (snippet,) = snippets(folder)
    exec(snippet)
    assert len(capsys.readouterr().out.splitlines()) == 5


# transformers.


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.filterwarnings("ignore:At least one mel filter")  # of the published extractor
def test_transformers_loads_an_ast(transformers, tmp_path: Path):
    # AudioSet's mean and standard deviation are replaced, as by a training on other recordings.
    path = ast_model(tmp_path / "ears.safetensors", {"mean": -5.0, "std": 7.0})
    assert run(["export", str(path), "--hf-dir", str(tmp_path / "hub")]) == 0
    network = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "hub")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "hub")
    assert isinstance(network, transformers.ASTForAudioClassification)
    tagger = tagging.load(str(path))
    waveform = noise(1, rate=AST_RATE)[:AST_SAMPLES]
    inputs = extractor(waveform, sampling_rate=AST_RATE, return_tensors="pt")
    with torch.inference_mode():
        outputs = network.eval()(**inputs).logits.sigmoid()[0].numpy()
    expected = tagger.predict([waveform]).probabilities[0]
    assert expected.std() > 0.01
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-4)
    assert network.config.id2label[3] == "label 3, a name"
    card = yaml.safe_load((tmp_path / "hub/README.md").read_text().split("---\n")[1])
    assert card["library_name"] == "transformers"
    # The folder loads here as well, and can be exported again.
    loaded = tagging.load(str(tmp_path / "hub"))
    assert_equal_models(tagger, loaded, AST_RATE)
    export_hub(str(tmp_path / "hub"), tmp_path / "again")
    assert_equal_models(tagger, tagging.load(str(tmp_path / "again")), AST_RATE)
    # So does what transformers writes after a fine-tuning of its own, of the same names.
    with safe_open(tmp_path / "hub/model.safetensors", "pt") as file:
        names = set(file.keys())
    assert names == set(to_transformers(tagger.network.state_dict()))


@pytest.mark.parametrize(
    "settings",
    [
        {"distillation": False},
        {"class_token": "last"},
        {"norm": "batch"},
        {"mean": -4.0},
        {"patch": (16, 8), "stride": (10, 8)},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_networks_that_transformers_cannot_express_keep_their_layout(tmp_path: Path, settings):
    path = ast_model(tmp_path / "ears.safetensors", **settings)
    tagger = tagging.load(str(path))
    assert describe_config(tagger.metadata) is None
    export_hub(str(path), tmp_path / "hub")
    config = json.loads((tmp_path / "hub/config.json").read_text())
    assert config["model_type"] == "tagging-ast"
    assert_equal_models(tagger, tagging.load(str(tmp_path / "hub")), AST_RATE)


def test_other_features_are_not_those_of_transformers(tmp_path: Path):
    path = ast_model(tmp_path / "ears.safetensors", {"low": 30.0})
    export_hub(str(path), tmp_path / "hub")
    features = json.loads((tmp_path / "hub/preprocessor_config.json").read_text())
    assert features["feature_extractor_type"] == "log_mel"
