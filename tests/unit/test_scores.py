"""Scores as log odds, whatever the outputs of a network are, and ensembles."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from stages import ensemble
from tagging.base.errors import UserError
from tagging.data.scores import (
    Scores,
    mean_probability,
    read_resampled,
    read_scores,
    write_scores,
)
from tagging.data.task_folder import TaskFolder
from tagging.learning import inference
from tagging.learning.inference import log_odds
from tests.generated import example_fold, multi_hot, write_clips, write_params

# Log odds


def exact_log_odds(outputs: np.ndarray) -> np.ndarray:
    """Return each output against the sum of the exponentials of all others, in 80 bits."""
    exact = outputs.astype(np.longdouble)
    result = np.empty_like(exact)
    for k in range(outputs.shape[1]):
        result[:, k] = -np.log(np.exp(np.delete(exact, k, 1) - exact[:, [k]]).sum(1))
    return result


@pytest.mark.parametrize("spread", [0.1, 3, 30, 300])
def test_log_odds_of_a_softmax_are_exact(spread: float) -> None:
    outputs = np.random.default_rng(0).normal(0, spread, (300, 7)).astype(np.float32)
    result = log_odds(torch.from_numpy(outputs), "softmax")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, exact_log_odds(outputs), rtol=2e-7, atol=1e-12)


def test_log_odds_of_saturated_outputs_are_finite_and_distinct() -> None:
    saturated = torch.tensor([[0.0, 40, -200], [0, 50, -300], [1000, 0, 0], [5, 5, -1000]])
    result = log_odds(saturated, "softmax")
    assert np.isfinite(result).all()
    assert result[:, 1] == pytest.approx([40, 50, -1000, 0], rel=1e-6, abs=1e-6)
    assert result[:2, 2] == pytest.approx([-240, -350])
    assert np.isfinite(log_odds(torch.zeros(3, 1), "softmax")).all()
    smallest, below_one = np.float32(2**-149), np.nextafter(np.float32(1), np.float32(0))
    p = torch.tensor([[0, smallest, 1e-38, 1e-3, 0.5, below_one, 1]])
    of_p = log_odds(p, "none")
    assert np.isfinite(of_p).all()
    assert (np.diff(of_p[0]) > 0).all()
    np.testing.assert_allclose(of_p[0, 1:-1], logit(p[0, 1:-1].double().numpy()), rtol=1e-6)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "none"])
def test_log_odds_are_those_of_the_probabilities(activation: str) -> None:
    outputs = torch.randn(1000, 5, generator=torch.Generator().manual_seed(0))
    p = {"sigmoid": outputs.sigmoid(), "softmax": outputs.softmax(1), "none": outputs.sigmoid()}
    given = p["none"] if activation == "none" else outputs
    np.testing.assert_allclose(expit(log_odds(given, activation)), p[activation], atol=1e-6)
    assert log_odds(outputs[:0], activation).shape == (0, 5)


def test_log_odds_of_many_clips_are_computed_a_few_at_a_time(monkeypatch) -> None:
    sizes, real = [], inference._log_odds
    monkeypatch.setattr(inference, "_log_odds", lambda x, *a: sizes.append(len(x)) or real(x, *a))
    outputs = torch.randn(3000, 20, generator=torch.Generator().manual_seed(0))
    result = log_odds(outputs, "softmax")
    assert max(sizes) < 300
    assert sum(sizes) == 3000
    np.testing.assert_allclose(result[-7:], log_odds(outputs[-7:], "softmax"))


# The mean probability


def test_the_mean_is_of_probabilities() -> None:
    rng = np.random.default_rng(0)
    outputs = [rng.normal(0, 3, (50, 4)).astype(np.float32) for _ in range(3)]
    p = np.mean([expit(x.astype(float)) for x in outputs], axis=0)
    assert np.allclose(mean_probability(outputs), logit(p), rtol=1e-5, atol=1e-6)
    assert mean_probability(outputs).dtype == np.float32


def test_the_mean_of_saturated_scores_is_finite_and_distinct() -> None:
    saturated = np.array([[40.0, 41.0, -40.0, -41.0, 9000, -9000]], np.float32)
    assert np.allclose(mean_probability([saturated, saturated]), saturated, rtol=1e-6)
    # As certain of yes as of no.
    assert mean_probability([saturated, -saturated]) == pytest.approx(np.zeros((1, 6)), abs=1e-6)


# Files of scores


def test_scores_come_back_as_written(tmp_path: Path) -> None:
    outputs = {f"{run}/test": np.full((2, 3), k, np.float32) for k, run in enumerate("abc")}
    outputs["a/test@9"] = np.zeros((2, 3), np.float32)
    written = Scores(outputs, {"a": 0, "b": 1, "c": 0}, 7)
    write_scores(tmp_path / "x", written)
    back = read_scores(tmp_path / "x")
    assert (back.runs, back.parameters) == (written.runs, 7)
    assert {name: array.tolist() for name, array in back.outputs.items()} == {
        name: array.tolist() for name, array in outputs.items()
    }
    assert [array[0, 0] for array in back.select(0, "test")] == [0, 2]
    assert len(back.select(0, "test@9")) == 1
    assert back.select(1, "val") == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "x is missing; run dvc repro --pull"), (b"no", "x cannot be read")],
)
def test_missing_or_damaged_scores_are_one_sentence(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    for read in (read_scores, read_resampled):
        with pytest.raises(UserError, match=sentence):
            read(tmp_path / "x")


# Ensembles

HERE = TaskFolder(Path())
MODELS = {name: {"architecture": "yac"} for name in ("a", "b")}
SIZES = {"train": 20, "val": 10, "test": 10}


def write_model(
    name: str,
    runs: dict[str, int],
    parts: dict[str, int],
    seed: int,
    folder: TaskFolder = HERE,
) -> Scores:
    rng = np.random.default_rng(seed)
    outputs = {
        f"{run}/{part}": rng.normal(size=(clips, 4)).astype(np.float32)
        for run in runs
        for part, clips in parts.items()
    }
    scores = Scores(outputs, runs, 100 * seed)
    write_scores(folder.scores("models", name), scores)
    return scores


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_members(folds: int, epochs: tuple[str, ...] = ()) -> dict[str, Scores]:
    """Write a task of 40 clips and two models: `a` with two seeds, `b` with one."""
    ensembles = {"both": {"members": ["a", "b"]}, "last": {"members": [f"b{at}" for at in epochs]}}
    write_params(models=MODELS, ensembles=ensembles)
    write_clips(multi_hot(40, 4), [example_fold(40)] * folds)
    parts = {f"{part}{at}": size for part, size in SIZES.items() for at in ("", *epochs)}
    prefixes = [f"fold{k}-" for k in range(folds)] if folds > 1 else [""]
    return {
        name: write_model(
            name,
            {f"{prefix}seed{s}": k for k, prefix in enumerate(prefixes) for s in seeds},
            parts,
            seed,
        )
        for name, seeds, seed in (("a", (0, 1), 1), ("b", (5,), 2))
    }


@pytest.mark.parametrize("folds", [1, 2])
def test_an_ensemble_is_the_mean_of_all_runs_of_its_members(folder: Path, folds: int) -> None:
    members = write_members(folds)
    ensemble.main(".", "both")
    written = read_scores(HERE.scores("ensembles", "both"))
    assert written.runs == ({"mean": 0} if folds == 1 else {"fold0": 0, "fold1": 1})
    for run, fold in written.runs.items():
        for part in ("train", "val", "test"):
            fold_scores = [*members["a"].select(fold, part), *members["b"].select(fold, part)]
            assert len(fold_scores) == 3
            assert np.array_equal(written.outputs[f"{run}/{part}"], mean_probability(fold_scores))
    assert written.parameters == 2 * 100 + 200
    evaluation = json.loads(HERE.evaluation("both").read_text())
    assert evaluation["parameters"] == 400
    assert ("runs" in evaluation) == (folds == 2)
    assert evaluation["test"].keys() > json.loads(HERE.metrics("both").read_text())["test"].keys()
    assert read_resampled(HERE.resampled("ensembles", "both")).shape == (100,)


def test_an_ensemble_of_a_models_epochs(folder: Path) -> None:
    b = write_members(1, epochs=("@8", "@9"))["b"]
    ensemble.main(".", "last")
    written = read_scores(HERE.scores("ensembles", "last"))
    expected = mean_probability([b.outputs["seed5/val@8"], b.outputs["seed5/val@9"]])
    assert np.array_equal(written.outputs["mean/val"], expected)


@pytest.mark.parametrize("folds", [1, 2])
def test_an_ensemble_of_each_run(folder: Path, folds: int) -> None:
    a = write_members(folds, epochs=("@8", "@9"))["a"]
    ensembles = {
        "epochs": {"members": ["a@8", "a@9"], "per_run": True},
        "last_epoch": {"members": ["a@9"], "per_run": True},
    }
    write_params(models=MODELS, ensembles=ensembles)
    for name in ensembles:
        ensemble.main(".", name)
    epochs, last = (read_scores(HERE.scores("ensembles", name)) for name in ensembles)
    assert epochs.runs == last.runs == a.runs
    for run in a.runs:
        for part in ("train", "val", "test"):
            earlier, later = (expit(a.outputs[f"{run}/{part}@{epoch}"]) for epoch in (8, 9))
            averaged = expit(epochs.outputs[f"{run}/{part}"])
            np.testing.assert_allclose(averaged, (earlier + later) / 2, atol=1e-6)
            np.testing.assert_allclose(expit(last.outputs[f"{run}/{part}"]), later, atol=1e-6)
    assert (epochs.parameters, last.parameters) == (2 * 100, 100)
    runs = json.loads(HERE.evaluation("epochs").read_text())["runs"]
    assert list(runs) == list(a.runs)


def test_an_ensemble_of_each_run_needs_the_same_runs_and_two_networks(folder: Path) -> None:
    write_members(1)
    for members, sentence in (
        (["a", "b"], "both.members must have the same seeds (per_run), got seed0, seed1 of a and "),
        (["a"], "ensembles.both.members must be two or more networks"),
    ):
        write_params(models=MODELS, ensembles={"both": {"members": members, "per_run": True}})
        with pytest.raises(SystemExit) as ended:
            ensemble.main(".", "both")
        assert sentence in ended.value.code


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (["b"], "ensembles.both.members must be two or more networks"),
        (["b", "c"], "ensembles.both.members must name models (a, b), got 'c'"),
        (["b", "b@7"], "b must keep epoch 7 of 'b@7' (train.save_last_epochs), got 9, 10"),
        (["a", "a@1"], "a must keep epoch 1 of 'a@1' (train.save_last_epochs), got 9, 10"),
        ([], "ensembles.both.members must "),
        ("a", "ensembles.both.members must be a valid list, got 'a'"),
        (None, "ensembles.both is missing; the ensembles are "),
    ],
)
def test_wrong_members_are_one_sentence(folder: Path, members: object, sentence: str) -> None:
    write_members(1, epochs=("@9", "@10"))
    entries = {} if members is None else {"both": {"members": members}}
    write_params(models=MODELS, ensembles=entries)
    with pytest.raises(SystemExit) as ended:
        ensemble.main(".", "both")
    assert sentence in ended.value.code
    assert "\n" not in ended.value.code


def test_missing_scores_of_members_are_named(tmp_path: Path) -> None:
    """A folder as dependency may be filled in part: DVC issue 11099."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        write_members(1)
    folder = TaskFolder(tmp_path)
    folder.scores("models", "b").unlink()
    with pytest.raises(SystemExit) as ended:
        ensemble.main(str(tmp_path), "both")
    message = str(ended.value)
    assert str(folder.scores("models", "b")) in message and "dvc repro --pull" in message
    assert str(folder.scores("models", "a")) not in message and "\n" not in message
    write_model("b", {"seed5": 0}, SIZES, 2, folder)
    ensemble.main(str(tmp_path), "both")  # whatever the working directory is
    assert folder.evaluation("both").is_file()
