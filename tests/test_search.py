"""The command `tagging search`, and the stage `index` that it looks into."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from safetensors.numpy import load_file

from stages import index as stage
from tagging.base.errors import UserError
from tagging.commands import models, search
from tagging.commands.inputs import find_input_files
from tagging.commands.main import run
from tagging.commands.search import nearest
from tagging.commands.tagger import Tagger
from tagging.data.clips import Fold, read_index
from tagging.scoring.scores import Scores, scores_path, write_scores
from tests.generated import multi_hot, write_clips, write_params
from tests.test_tag import RATE, noise, sound_model

CLIPS = 30
MODELS = {"tagger": {"architecture": "attention"}}
STUDENT = {"architecture": "attention", "teacher": "tagger", "backbone": "trained"}
INDEX = {"model": "near", "folder": "parquet", "subsets": ["eval", "bal_train"]}


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A task with an index in a project; return the embeddings in the order of its clips."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "tasks/a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tasks/a")
    places = np.random.default_rng(0).permutation(CLIPS)
    fold = Fold(places[:10], places[10:15], places[15:])
    index = write_clips(multi_hot(CLIPS, 6), [fold])
    embeddings = np.random.default_rng(1).standard_normal((CLIPS, 4)).astype(np.float32)
    outputs = {f"seed0/{split}": embeddings[getattr(fold, split)] for split in Fold._fields}
    write_scores(scores_path("students", "near"), Scores(outputs, {"seed0": 0}, 1))
    write_params(models=MODELS, students={"near": STUDENT}, index=INDEX)
    names = np.array([of.decode() for of in index.ids])
    Path("parquet").mkdir()
    for subset, of in (("eval", places[15:]), ("bal_train", places[:15])):
        table = pd.DataFrame({"video_id": names[of], "start_time_seconds": 10.0 * of})
        table.to_parquet(f"parquet/{subset}.parquet")
    stage.main()
    return embeddings


def test_an_index_has_each_clips_embedding_labels_and_moment(task: np.ndarray) -> None:
    tensors, index = load_file("data/index.safetensors"), read_index()
    assert np.array_equal(tensors["embeddings"], task)
    assert np.array_equal(tensors["labels"], index.labels)
    assert np.array_equal(tensors["starts"], 10 * np.arange(CLIPS))
    assert set(np.flatnonzero(tensors["subsets"] == 0)) == set(index.folds[0].test)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "far"}, "params.yaml: index.model is 'far'; it takes a model or a student"),
        ({"subsets": ["eval"]}, r"index.subsets is \['eval'\], which have no clip clip000"),
    ],
)
def test_an_index_of_what_is_not_there_is_one_sentence(task, changes, sentence) -> None:
    write_params(models=MODELS, students={"near": STUDENT}, index=INDEX | changes)
    with pytest.raises(SystemExit, match=sentence):
        stage.main()


def found(capsys: pytest.CaptureFixture, *arguments: str) -> list[dict]:
    assert run(["search", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_nearest_clips_come_first_with_their_moment_and_shared_labels(task, capsys) -> None:
    index = read_index()
    query = int(index.folds[0].test[0])
    distances = np.linalg.norm(task - task[query], axis=1)
    order = [place for place in np.argsort(distances) if place != query]
    entries = found(capsys, f"eval:clip{query:05}", "--top", "all")
    assert [entry["location"] for entry in entries] == [
        f"https://youtu.be/clip{place:05}?t={10 * place}" for place in order
    ]
    np.testing.assert_allclose([of["distance"] for of in entries], distances[order], atol=1e-6)
    for entry, place in zip(entries, order, strict=True):
        both = np.flatnonzero(index.labels[query] & index.labels[place])
        assert entry["shared_labels"] == [f"label {k}" for k in both]
    assert len(found(capsys, f"eval:clip{query:05}", "--top", "3")) == 3
    run(["search", f"eval:clip{query:05}", "--top", "1"])
    line = capsys.readouterr().out
    assert line.startswith(f"{distances[order[0]]:.3f}  https://youtu.be/clip{order[0]:05}?t=")


def test_equal_ones_are_at_distance_0(task) -> None:
    same = np.repeat(1000 * task[:1], 4, axis=0)
    assert nearest(same, 1, None) == [(0.0, 0), (0.0, 2), (0.0, 3)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["eval:nobody"], "subset eval of the index has no clip of the video 'nobody'"),
        (["test:clip00001"], "QUERY must be SUBSET:VIDEO_ID with a subset of .*, got 'test:clip00001'"),
        (["song.wav"], r"^QUERY must be a clip .*, got 'song.wav'; .*, add --corpus FOLDER$"),
        (["eval:x", "--model", "m"], "^--model must come with --corpus"),
        (["a.wav", "--corpus", "b", "--index", "i"], "^--index and --corpus exclude each other"),
        (["eval:x", "--index", "none"], "none does not exist; make an index with the stage index"),
        (["eval:x", "--index", "params.yaml"], "params.yaml is not an index"),
        (["eval:x", "--index", "data/clips.safetensors"], "clips.safetensors is not an index"),
        (["a.wav", "--corpus", "parquet"], "recording a.wav does not exist"),
    ],
)
def test_what_is_not_there_is_one_sentence(task, arguments, sentence, monkeypatch) -> None:
    monkeypatch.setattr(models, "DEFAULT_SOUND_MODEL", str(sound_model(Path("ears.safetensors"))))
    with pytest.raises(UserError, match=sentence):
        run(["search", *arguments])


def test_a_file_that_is_gone_leaves_others_to_be_compared(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "DEFAULT_SOUND_MODEL", str(sound_model(tmp_path / "ears.safetensors")))
    for name in ("a.wav", "b.wav", "gone.wav"):
        soundfile.write(name, noise(1), RATE)
    inputs = find_input_files(["b.wav", "gone.wav"])
    Path("gone.wav").unlink()
    monkeypatch.setattr(search, "find_input_files", lambda names: inputs)
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    assert run(["search", "a.wav", "--corpus", "all", "--json"]) == 1
    said = capsys.readouterr()
    assert [of["location"] for of in json.loads(said.out)] == ["b.wav"]
    assert said.err == "error: gone.wav cannot be read: No such file or directory\n"


def test_what_is_searched_in_and_is_not_there_is_told_once(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "DEFAULT_SOUND_MODEL", str(sound_model(tmp_path / "ears.safetensors")))
    soundfile.write("a.wav", noise(1), RATE)
    with pytest.raises(UserError, match=r"^gone does not exist; use a file, a folder or"):
        run(["search", "a.wav", "--corpus", "gone"])
    assert capsys.readouterr().err == ""


def test_a_project_without_an_index_is_one_sentence(task) -> None:
    Path("data/index.safetensors").unlink()
    with pytest.raises(UserError, match="the project has no index; name one with --index, or make"):
        run(["search", "eval:x"])


def test_recordings_are_compared_by_their_embeddings(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "DEFAULT_SOUND_MODEL", str(sound_model(tmp_path / "ears.safetensors")))
    Path("all").mkdir()
    for number in range(3):
        soundfile.write(f"all/{number}.wav", noise(2.5, number), RATE, "FLOAT")
    soundfile.write("again.wav", noise(2.5, 1), RATE, "FLOAT")
    entries = found(capsys, "again.wav", "--corpus", "all")
    assert entries[0]["location"] == "all/1.wav"
    assert entries[0]["distance"] == pytest.approx(0, abs=1e-3)
    tagger = Tagger(tmp_path / "ears.safetensors")
    units = [tagger.embed([noise(2.5, number)]) for number in (1, 0)]
    units = [unit / np.linalg.norm(unit) for unit in units]
    distances = {entry["location"]: entry["distance"] for entry in entries}
    assert distances["all/0.wav"] == pytest.approx(np.linalg.norm(units[0] - units[1]), abs=1e-4)
    # The query itself is not among the others, and what is no sound is said.
    Path("all/bad.wav").write_bytes(b"nothing")
    assert run(["search", "all/1.wav", "--corpus", "all", "--json"]) == 1
    said = capsys.readouterr()
    assert {of["location"] for of in json.loads(said.out)} == {"all/0.wav", "all/2.wav"}
    assert "error: all/bad.wav" in said.err
    with pytest.raises(UserError, match=r"--corpus all/1.wav has no recording to compare all/1.wav with"):
        run(["search", "all/1.wav", "--corpus", "all/1.wav"])
