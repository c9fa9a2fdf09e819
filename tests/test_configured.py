"""Every entry of params.yaml can be trained, and clips of any length by all but `yac`."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from stages.ensemble import Ensemble
from tagging.batches import Clips
from tagging.dataset import read_split
from tagging.errors import UserError
from tagging.labels import Label
from tagging.models import Model, Shape, Student, build, score
from tagging.parameters import parse
from tagging.progress import Progress
from tagging.training import Train, train
from tests.project import Project

PARAMS = yaml.safe_load(Path("params.yaml").read_text())
MODELS = PARAMS["models"]
LABELS = [Label(k, f"/m/{k}", f"label {k}") for k in range(4)]
FRAMES = [10, 9, 4, 1, 10, 7, 2, 10]


def clips(any_length: bool) -> Clips:
    rng = np.random.default_rng(0)
    embeddings = torch.from_numpy(rng.integers(0, 256, (8, 10, 128), np.uint8))
    labels = torch.from_numpy((rng.random((8, 4)) < 0.4).astype(np.float32))
    labels[:, 0] = 1
    if not any_length:
        return Clips(embeddings, labels)
    frames = torch.tensor(FRAMES)
    embeddings[torch.arange(10) >= frames[:, None]] = 0
    return Clips(embeddings, labels, frames)


def trained(name: str, folder: Path, any_length: bool) -> torch.nn.Module:
    entry = MODELS[name]
    model = parse(Model, entry, f"models.{name}")
    small = {"epochs": 2, "batch_size": 4, "checkpoints": 0}
    settings = parse(Train, {**PARAMS["train"], **model.train, **small}, "train")
    torch.manual_seed(0)
    network = build(model, Shape(10, LABELS, any_length), name)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    of = clips(any_length)
    with Progress("train", None, "step", "none") as progress:
        outcome = train(network, settings, of, of, folder / "state", progress, lambda epoch: None)
    assert any(not torch.equal(before[key], outcome.weights[key]) for key in before)
    network.load_state_dict(outcome.weights)
    return network


@pytest.mark.parametrize("name", MODELS)
def test_an_entry_can_be_trained(name: str, tmp_path: Path) -> None:
    trained(name, tmp_path, any_length=False)


@pytest.mark.parametrize("name", [n for n in MODELS if MODELS[n]["architecture"] != "yac"])
def test_an_entry_takes_clips_of_any_length(name: str, tmp_path: Path) -> None:
    """What a batch is padded to changes nothing, in evaluation, after training on such clips."""
    network = trained(name, tmp_path, any_length=True)
    of = clips(any_length=True)
    together = score(network, of.embeddings, of.frames)
    for clip, frames in enumerate(FRAMES):
        alone = score(network, of.embeddings[clip : clip + 1, :frames], torch.tensor([frames]))
        assert torch.allclose(together[clip], alone[0], atol=1e-4)


def test_yac_refuses_clips_of_any_length() -> None:
    with pytest.raises(UserError, match=r"models\.yac: yac takes clips of one length only"):
        build(parse(Model, MODELS["yac"], "models.yac"), Shape(10, LABELS, True), "yac")


def test_clips_of_any_length_through_dvc(project: Project) -> None:
    params = project.params()
    params["prepare"]["seconds"] = "any"
    project.write_params(params)
    printed = project.fails("dvc", "repro", "train@yac")
    assert "set prepare.seconds to 10, or remove the model" in printed
    assert project.repro("evaluate@attention") == {"train@attention", "evaluate@attention"}
    split = read_split(project.root / "data/prepared/train.safetensors")
    assert split.frames.min() < 10 == split.frames.max()


@pytest.mark.parametrize("name", PARAMS["ensembles"])
def test_an_ensembles_members_are_there(name: str) -> None:
    ensemble = parse(Ensemble, PARAMS["ensembles"][name], f"ensembles.{name}")
    for member in ensemble.members:
        model, _, epoch = member.partition("@")
        own = PARAMS["train"] | MODELS[model].get("train", {})
        if epoch:
            assert own["epochs"] - own["checkpoints"] < int(epoch) <= own["epochs"]


@pytest.mark.parametrize("name", PARAMS["students"])
def test_a_students_teacher_is_there(name: str) -> None:
    student = parse(Student, PARAMS["students"][name], f"students.{name}")
    assert student.teacher in PARAMS["ensembles"]
    build(student, Shape(10, LABELS), name)
