"""Answers that are kept, ensembles of them, and what students learn from them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.special import expit, logit

from tagging.batches import Clips
from tagging.errors import UserError
from tagging.losses import bce
from tagging.models import Model, Shape, build, load_network, save_network, score
from tagging.ranking import ndcg
from tagging.scores import Scores, blend, mean_answer, read_scores, write_scores
from tests.project import Project
from tests.test_training import clips, run


def test_the_mean_answer_is_the_mean_probability() -> None:
    rng = np.random.default_rng(0)
    outputs = [rng.normal(0, 3, (50, 4)).astype(np.float32) for _ in range(3)]
    p = np.mean([expit(x.astype(float)) for x in outputs], axis=0)
    assert np.allclose(mean_answer(outputs), logit(p), rtol=1e-5, atol=1e-6)
    assert mean_answer(outputs).dtype == np.float32


def test_the_mean_answer_keeps_saturated_answers_apart() -> None:
    sure = np.array([[40.0, 41.0, -40.0, -41.0]], np.float32)
    answer = mean_answer([sure, sure])
    assert np.allclose(answer, sure, rtol=1e-6)


def test_a_blend_by_hand() -> None:
    labels = np.array([[1, 0]])
    teacher = np.array([[0.0, np.log(3)]])  # probabilities 0.5 and 0.75
    assert np.allclose(blend(labels, teacher, 0.2), [[0.2 + 0.8 * 0.5, 0.8 * 0.75]])
    assert np.allclose(blend(labels, teacher, 1), labels)


def test_the_loss_of_a_blend_is_the_blend_of_the_losses() -> None:
    rng = np.random.default_rng(1)
    outputs = torch.from_numpy(rng.normal(size=(8, 3)))
    labels = rng.integers(0, 2, (8, 3))
    teacher = rng.normal(size=(8, 3))
    of_labels = bce(outputs, torch.from_numpy(labels).double())
    of_teacher = bce(outputs, torch.from_numpy(expit(teacher)))
    blended = bce(outputs, torch.from_numpy(blend(labels, teacher, 0.3)).double())
    assert blended.item() == pytest.approx((0.3 * of_labels + 0.7 * of_teacher).item(), rel=1e-6)


def test_scores_come_back_as_written(tmp_path: Path) -> None:
    outputs = {"val": np.ones((2, 3), np.float32), "val@9": np.zeros((2, 3), np.float32)}
    write_scores(tmp_path / "x", Scores(outputs, 7))
    back = read_scores(tmp_path / "x")
    assert back.parameters == 7
    assert {name: array.tolist() for name, array in back.outputs.items()} == {
        name: array.tolist() for name, array in outputs.items()
    }


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "x is missing; run dvc repro"), (b"no", "x cannot be read")]
)
def test_scores_that_are_none(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_scores(tmp_path / "x")


def test_targets_are_learned_in_place_of_the_labels(tmp_path, monkeypatch) -> None:
    """With targets that are the labels reversed, the network learns the reverse."""
    train_clips, changes = clips(30, 1), {"epochs": 20, "keep": "last"}
    plain = run(tmp_path / "a", changes)
    monkeypatch.setattr(
        "tests.test_training.clips",
        lambda number, seed: (
            Clips(*train_clips[:2], None, 1 - train_clips.labels)
            if seed == 1
            else clips(number, seed)
        ),
    )
    reverse = run(tmp_path / "b", changes)
    scores = []
    for outcome in (plain, reverse):
        network = build(
            Model(architecture="yac", network={"head": "logits"}), Shape(10, [None] * 10), "yac"
        )
        network.load_state_dict(outcome.weights)
        scores.append(
            ndcg(train_clips.labels.numpy(), score(network, train_clips.embeddings).numpy())
        )
    assert scores[0].mean() > 0.8 > 0.6 > scores[1].mean()


def test_checkpoints_are_the_last_epochs_weights(tmp_path) -> None:
    last = run(tmp_path / "a", {"checkpoints": 2, "keep": "last"})
    assert list(last.checkpoints) == [2, 3]
    for name, tensor in last.weights.items():
        assert torch.equal(last.checkpoints[3][name], tensor)
    shorter = run(tmp_path / "b", {"checkpoints": 2, "keep": "last", "schedule": "constant"})
    two = run(tmp_path / "c", {"epochs": 2, "keep": "last", "schedule": "constant"})
    for name, tensor in two.weights.items():
        assert torch.equal(shorter.checkpoints[2][name], tensor)


def test_checkpoints_survive_the_file(tmp_path: Path) -> None:
    from tagging.labels import Label

    model = Model(architecture="yac", network={"head": "logits"})
    shape = Shape(10, [Label(k, f"/m/{k}", str(k)) for k in range(3)])
    networks = {epoch: build(model, shape, "yac") for epoch in (0, 8, 10)}
    states = {epoch: network.state_dict() for epoch, network in networks.items()}
    save_network(tmp_path / "yac.safetensors", states.pop(0), model, shape, states)
    back = load_network(tmp_path / "yac.safetensors", torch.device("cpu"))
    assert list(back.checkpoints) == [8, 10]
    for epoch, state in states.items():
        for name, tensor in state.items():
            assert torch.equal(back.checkpoints[epoch][name], tensor)
    for name, tensor in networks[0].state_dict().items():
        assert torch.equal(back.network.state_dict()[name], tensor)


def metrics(project: Project, name: str) -> dict:
    return json.loads((project.root / f"metrics/{name}.json").read_text())


def test_an_ensemble_is_the_mean_of_its_members(project: Project) -> None:
    """Of models and of checkpoints, through DVC; nothing is trained but what keeps checkpoints."""
    params = project.params()
    params["models"]["attention"]["train"]["checkpoints"] = 2
    params["ensembles"]["of_checkpoints"] = {"members": ["attention@1", "attention@2"]}
    project.write_params(params)
    ran = project.repro()
    assert {"train@attention", "ensemble@of_checkpoints", "ensemble@of_models"} <= ran
    assert "train@yac" not in ran
    scores = project.root / "data/scores"
    yac, attention = (load_file(scores / f"models/{n}.safetensors") for n in ("yac", "attention"))
    for name, part, members in (
        ("of_models", "test", [yac["test"], attention["test"]]),
        ("of_models", "train", [yac["train"], attention["train"]]),
        ("of_checkpoints", "val", [attention["val@1"], attention["val@2"]]),
    ):
        answer = load_file(scores / f"ensembles/{name}.safetensors")[part]
        assert np.array_equal(answer, mean_answer(members))
    labels = load_file(project.root / "data/prepared/test.safetensors")["labels"]
    expected = ndcg(labels, mean_answer([yac["test"], attention["test"]])).mean()
    assert metrics(project, "of_models")["test"]["ndcg"] == pytest.approx(expected)
    sizes = [metrics(project, name)["parameters"] for name in ("yac", "attention")]
    assert metrics(project, "of_models")["parameters"] == sum(sizes)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (["yac"], "ensembles.of_models.members is ['yac']; it takes a list of two models or more"),
        (["yac", "yak"], "ensembles.of_models.members has 'yak'; models has yac, yac_published,"),
        (["yac", "yac@9"], "has 'yac@9'; yac has weights after the epochs kept alone"),
    ],
)
def test_members_that_are_none(project: Project, members: list[str], sentence: str) -> None:
    params = project.params()
    params["ensembles"]["of_models"]["members"] = members
    project.write_params(params)
    assert sentence in project.fails("dvc", "repro", "ensemble@of_models")


def test_a_student_needs_a_teacher(project: Project) -> None:
    params = project.params()
    params["students"]["yac_distilled"]["label_weight"] = 2
    project.write_params(params)
    printed = project.fails("dvc", "repro", "student@yac_distilled")
    assert "students.yac_distilled.label_weight is 2; it takes a number from 0 to 1" in printed


def test_a_name_stands_for_one_entry(project: Project) -> None:
    params = project.params()
    params["ensembles"]["yac"] = {"members": ["yac", "attention"]}
    project.write_params(params)
    printed = project.fails("python", "-m", "stages.ensemble", "yac")
    assert "ensembles and models both have the name 'yac'" in printed
