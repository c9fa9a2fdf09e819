"""The command `tagging search`, and the stage `index`, whose file it reads."""

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
from tagging.data.scores import Scores, write_scores
from tagging.data.task_folder import TaskFolder
from tests.generated import multi_hot, write_clips, write_params
from tests.small_models import RATE, noise, sound_model

CLIPS = 30
FOLDER = TaskFolder(Path())
MODELS = {"near": {"architecture": "attention"}}
SEARCH = {"model": "near", "data_folder": ".", "subsets": ["eval", "bal_train"]}


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A task with an index in a project; return the embeddings in the order of its clips."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "tasks/a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tasks/a")
    clips = np.random.default_rng(0).permutation(CLIPS)
    fold = Fold(clips[:10], clips[10:15], clips[15:])
    index = write_clips(multi_hot(CLIPS, 6), [fold])
    embeddings = np.random.default_rng(1).standard_normal((CLIPS, 4)).astype(np.float32)
    outputs = {f"seed0/{split}": embeddings[getattr(fold, split)] for split in Fold._fields}
    write_scores(FOLDER.scores("models", "near"), Scores(outputs, {"seed0": 0}, 1))
    write_params(models=MODELS, search={"index": SEARCH})
    ids = np.array([clip_id.decode() for clip_id in index.ids])
    Path("parquet").mkdir()
    for subset, rows in (("eval", clips[15:]), ("bal_train", clips[:15])):
        table = pd.DataFrame({"video_id": ids[rows], "start_time_seconds": 10.0 * rows})
        table.to_parquet(f"parquet/{subset}.parquet")
    stage.main(".", "index")
    return embeddings


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a default model of sound."""
    monkeypatch.chdir(tmp_path)
    set_default_model(tmp_path, monkeypatch)
    return tmp_path


def set_default_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sound_model(folder / "ears.safetensors")
    monkeypatch.setattr(models, "DEFAULT_SOUND_MODEL", str(path))


def test_an_index_has_embedding_labels_and_start_of_each_clip(task: np.ndarray) -> None:
    tensors, index = load_file("data/index.safetensors"), read_index(FOLDER.index)
    assert np.array_equal(tensors["embeddings"], task)
    assert np.array_equal(tensors["labels"], index.labels)
    assert np.array_equal(tensors["starts"], 10 * np.arange(CLIPS))
    assert set(np.flatnonzero(tensors["subsets"] == 0)) == set(index.folds[0].test)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "far"}, r"search.index.model must be the name of an entry .*, got 'far'"),
        ({"subsets": ["eval"]}, r"got \['eval'\]: none of them has the clip clip000"),
    ],
)
def test_an_index_without_its_inputs_is_one_sentence(task, changes, sentence) -> None:
    write_params(models=MODELS, search={"index": SEARCH | changes})
    with pytest.raises(SystemExit, match=sentence):
        stage.main(".", "index")


def search_json(capsys: pytest.CaptureFixture, *arguments: str) -> list[dict]:
    assert run(["search", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_nearest_clips_come_first_with_url_and_shared_labels(task, capsys) -> None:
    index = read_index(FOLDER.index)
    query = int(index.folds[0].test[0])
    distances = np.linalg.norm(task - task[query], axis=1)
    order = [clip for clip in np.argsort(distances) if clip != query]
    matches = search_json(capsys, f"eval:clip{query:05}", "--top", "all")
    assert [match["location"] for match in matches] == [
        f"https://youtu.be/clip{clip:05}?t={10 * clip}" for clip in order
    ]
    np.testing.assert_allclose(
        [match["distance"] for match in matches], distances[order], atol=1e-6
    )
    for match, clip in zip(matches, order, strict=True):
        shared = np.flatnonzero(index.labels[query] & index.labels[clip])
        assert match["shared_labels"] == [f"label {k}" for k in shared]
    assert len(search_json(capsys, f"eval:clip{query:05}", "--top", "3")) == 3
    run(["search", f"eval:clip{query:05}", "--top", "1"])
    line = capsys.readouterr().out
    assert line.startswith(f"{distances[order[0]]:.3f}  https://youtu.be/clip{order[0]:05}?t=")


def test_equal_embeddings_have_distance_0(task) -> None:
    equal = np.repeat(1000 * task[:1], 4, axis=0)
    assert nearest(equal, 1, None) == [(0.0, 0), (0.0, 2), (0.0, 3)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["eval:nobody"], "subset eval of the index has no clip of the video 'nobody'"),
        (["test:clip00001"], r"^QUERY must be SUBSET:VIDEO_ID with .*, got 'test:clip00001'$"),
        (["song.wav"], r"^QUERY must be a clip .*, got 'song.wav'; .*, add --corpus FOLDER$"),
        (["eval:x", "--model", "m"], "^--model must come with --corpus"),
        (["a.wav", "--corpus", "b", "--index", "i"], "^--index and --corpus exclude each other"),
        (["eval:x", "--index", "none"], "none does not exist; make an index with the stage index"),
        (["eval:x", "--index", "params.yaml"], "params.yaml is not an index"),
        (["eval:x", "--index", "data/clips.safetensors"], "clips.safetensors is not an index"),
        (["a.wav", "--corpus", "parquet"], "recording a.wav does not exist"),
    ],
)
def test_missing_inputs_are_one_sentence(task, arguments, sentence, monkeypatch) -> None:
    set_default_model(Path(), monkeypatch)
    with pytest.raises(UserError, match=sentence):
        run(["search", *arguments])


def test_a_removed_file_leaves_others_to_be_compared(recordings, monkeypatch, capsys) -> None:
    for name in ("a.wav", "b.wav", "gone.wav"):
        soundfile.write(name, noise(1), RATE)
    files = find_input_files(["b.wav", "gone.wav"])
    Path("gone.wav").unlink()
    monkeypatch.setattr(search, "find_input_files", lambda names: files)
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    assert run(["search", "a.wav", "--corpus", "all", "--json"]) == 1
    streams = capsys.readouterr()
    assert [match["location"] for match in json.loads(streams.out)] == ["b.wav"]
    assert streams.err == "error: gone.wav cannot be read: No such file or directory\n"


def test_a_missing_corpus_is_reported_once(recordings, capsys) -> None:
    soundfile.write("a.wav", noise(1), RATE)
    with pytest.raises(UserError, match=r"^gone does not exist; use a file, a folder or"):
        run(["search", "a.wav", "--corpus", "gone"])
    assert capsys.readouterr().err == ""


def test_a_project_with_no_or_several_indexes_is_one_sentence(task) -> None:
    write_params(models=MODELS, search={"index": SEARCH, "other": SEARCH})
    stage.main(".", "other")
    with pytest.raises(UserError, match=r"several indexes \(.*index.safetensors, .*other"):
        run(["search", "eval:x"])
    for name in ("index", "other"):
        Path(f"data/{name}.safetensors").unlink()
    with pytest.raises(UserError, match="the project has no index; name one with --index, or make"):
        run(["search", "eval:x"])


def test_recordings_are_compared_by_their_embeddings(recordings, capsys) -> None:
    Path("all").mkdir()
    for number in range(3):
        soundfile.write(f"all/{number}.wav", noise(2.5, number), RATE, "FLOAT")
    soundfile.write("again.wav", noise(2.5, 1), RATE, "FLOAT")
    matches = search_json(capsys, "again.wav", "--corpus", "all")
    assert matches[0]["location"] == "all/1.wav"
    assert matches[0]["distance"] == pytest.approx(0, abs=1e-3)
    tagger = Tagger(recordings / "ears.safetensors")
    embeddings = [tagger.embed([noise(2.5, number)]) for number in (1, 0)]
    one, zero = (embedding / np.linalg.norm(embedding) for embedding in embeddings)
    distances = {match["location"]: match["distance"] for match in matches}
    assert distances["all/0.wav"] == pytest.approx(np.linalg.norm(one - zero), abs=1e-4)
    # The query is not compared with itself, and a file that is not sound is reported.
    Path("all/bad.wav").write_bytes(b"nothing")
    assert run(["search", "all/1.wav", "--corpus", "all", "--json"]) == 1
    streams = capsys.readouterr()
    locations = {match["location"] for match in json.loads(streams.out)}
    assert locations == {"all/0.wav", "all/2.wav"}
    assert "error: all/bad.wav" in streams.err
    with pytest.raises(UserError, match=r"^--corpus all/1.wav has no recording to compare all/1"):
        run(["search", "all/1.wav", "--corpus", "all/1.wav"])
