"""The review page: what it lists, what it shows, and the way back by `corrections.csv`."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from stages import review as review_stage
from tagging.base.errors import UserError
from tagging.data.classes import Class
from tagging.data.clips import Fold, Index, quantize, read_index, write_features, write_index
from tagging.data.scores import Scores, read_scores, write_scores
from tagging.data.spec import InputSpec
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.learning.metric import load_metrics
from tagging.reports import review as review_module
from tagging.reports.clip_media import encode_opus
from tagging.reports.label_errors import rank_label_errors
from tagging.reports.near_copies import find_near_copies
from tagging.reports.review_history import compare_with_committed
from tagging.reports.review_predictions import (
    Predictions,
    count_confusions,
    predict_out_of_fold,
    rank_mistakes,
)
from tagging.scoring.bootstrap import Evaluate
from tagging.sources import sounds
from tagging.sources.corrections import CORRECTIONS, apply_corrections
from tests.archives import assert_one_sentence, run_stage

FOLDER = TaskFolder(Path())
RATE = 8_000
LONG = "a label of two hundred characters " * 6
LABELS = ["<script>window.ran = 1</script>", "\"quoted\", 'twice' & more", "🐕 dog", LONG[:200]]
CHROMIUM = shutil.which("chromium")
TASK: dict[str, Any] = {"type": "single_label", "metrics": [{"name": "accuracy"}]}


def noisy(share: float, num_classes: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels of which a share is changed, out-of-fold probabilities, and what is changed."""
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(num_classes), 40)
    centres = rng.standard_normal((num_classes, 32))
    embeddings = centres[true] + 0.8 * rng.standard_normal((len(true), 32))
    changed = rng.permutation(len(true))[: round(share * len(true))]
    given = true.copy()
    given[changed] = (true[changed] + rng.integers(1, num_classes, len(changed))) % num_classes
    network = LogisticRegression(C=0.1)
    probabilities = cross_val_predict(network, embeddings, given, cv=5, method="predict_proba")
    return np.eye(num_classes, dtype=np.uint8)[given], probabilities, changed


def test_changed_labels_are_first_in_the_ranking_of_label_errors() -> None:
    labels, probabilities, changed = noisy(0.05)
    errors = rank_label_errors(labels, probabilities, single_label=True)
    assert sorted(errors.ranking) == list(range(400))
    assert len(set(errors.ranking[:20].tolist()) & set(changed.tolist())) >= 15
    assert 10 <= errors.expected <= 30  # of 20 that are changed
    assert rank_label_errors(*noisy(0.0)[:2], single_label=True).expected < 10


def test_changed_labels_are_first_with_several_labels_a_clip() -> None:
    rng = np.random.default_rng(0)
    true = rng.random((400, 6)) < 0.3
    probabilities = np.clip(np.where(true, 0.9, 0.1) + 0.05 * rng.standard_normal(true.shape), 0, 1)
    labels = true.copy()
    changed = rng.permutation(400)[:20]
    columns = rng.integers(6, size=20)
    labels[changed, columns] ^= True
    errors = rank_label_errors(labels.astype(np.uint8), probabilities, single_label=False)
    assert set(errors.ranking[:20].tolist()) == set(changed.tolist())
    assert 10 <= errors.expected <= 20
    wide = np.ones((3, 101), np.uint8)
    assert rank_label_errors(wide, wide / 2, single_label=False) is None


def test_a_class_without_clips_is_no_obstacle() -> None:
    labels, probabilities, _ = noisy(0.05)
    wider = np.insert(labels, 3, 0, axis=1), np.insert(probabilities, 3, 0.0, axis=1)
    errors = rank_label_errors(labels, probabilities, single_label=True)
    assert np.array_equal(rank_label_errors(*wider, single_label=True).ranking, errors.ranking)


def predictions(labels: list[list[int]], probabilities: list[list[float]]) -> Predictions:
    return Predictions(np.arange(len(labels)), np.array(labels), np.array(probabilities), "")


def test_mistakes_are_ranked_by_confidence() -> None:
    single = predictions([[1, 0], [1, 0], [0, 1]], [[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]])
    assert rank_mistakes(single, True).tolist() == [1, 0]
    # A missing label counts by the probability of its absence.
    several = predictions([[1, 0], [0, 1], [1, 1]], [[0.6, 0.7], [0.1, 0.05], [0.9, 0.9]])
    assert rank_mistakes(several, False).tolist() == [1, 0]


def test_confusions_of_several_labels() -> None:
    # Of the first clip, label 0 is missed and 2 predicted; of the second, label 1 is missed.
    clips = predictions([[1, 1, 0], [0, 1, 0]], [[0.2, 0.9, 0.8], [0.1, 0.2, 0.3]])
    assert count_confusions(clips, False).tolist() == [[0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]


def folded(validated: bool) -> tuple[Scores, Index]:
    rng = np.random.default_rng(0)
    labels = np.eye(2, dtype=np.uint8)[np.arange(40) % 2]
    parts = np.array_split(rng.permutation(40), 4)
    folds = []
    for number in range(4):
        val = parts[(number + 1) % 4] if validated else np.zeros(0, int)
        others = [
            parts[k] for k in range(4) if k != number and not (validated and k == (number + 1) % 4)
        ]
        folds.append(Fold(np.concatenate(others), val, parts[number]))
    ids = np.array([f"{k}".encode() for k in range(40)])
    index = Index(ids, labels, [Class("a", "a"), Class("b", "b")], folds)
    outputs = {}
    for number, fold in enumerate(folds):
        for split in ("val", "test") if validated else ("test",):
            logits = 6 * (labels[getattr(fold, split)] - 0.5) + 3 * rng.standard_normal((10, 2))
            outputs[f"fold{number}/{split}"] = logits.astype(np.float32)
    return Scores(outputs, {f"fold{number}": number for number in range(4)}, 1), index


@pytest.mark.parametrize("validated", [True, False])
def test_no_clip_calibrates_its_own_prediction(validated: bool) -> None:
    scores, index = folded(validated)
    before = predict_out_of_fold(scores, index, Task(**TASK | {"type": "multi_label"}))
    assert sorted(before.clips.tolist()) == list(range(40))
    assert np.array_equal(before.labels, index.labels[before.clips])
    assert before.calibrated_on == ("validation clips" if validated else "the other folds")
    # Other labels of a fold's test clips change the probabilities of other folds alone, or none.
    labels = index.labels.copy()
    labels[index.folds[0].test] = 1 - labels[index.folds[0].test]
    after = predict_out_of_fold(
        scores, index._replace(labels=labels), Task(**TASK | {"type": "multi_label"})
    )
    own = np.isin(before.clips, index.folds[0].test)
    assert np.array_equal(before.probabilities[own], after.probabilities[own]) or validated
    assert not np.array_equal(before.probabilities[~own], after.probabilities[~own])


def test_near_copies_are_pairs_across_folds() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((60, 16)).astype(np.float32)
    embeddings[31] = embeddings[2]
    embeddings[3] = embeddings[4]  # in one fold: no leak
    embeddings[40] = embeddings[5] + 0.01
    embeddings[50] = embeddings[6]  # dropped
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, second = np.arange(30), np.setdiff1d(np.arange(30, 60), 50)
    none = np.zeros(0, int)
    pairs = find_near_copies(embeddings, [Fold(second, none, first), Fold(first, none, second)])
    assert [(pair.first, pair.second) for pair in pairs] == [(2, 31), (5, 40)]
    assert pairs[0].distance < 1e-3 < pairs[1].distance < 0.25


def test_the_same_sound_has_the_same_bytes() -> None:
    samples = np.sin(np.arange(RATE) / 9).astype(np.float32)
    assert encode_opus(samples, RATE) == encode_opus(samples, RATE)


def write_task(
    names: list[str], seconds: float = 0.5, labels: list[str] = LABELS, parameters: Any = None
) -> None:
    """Write what the stage reads: clips of noise, and scores of which two are confidently wrong."""
    rng = np.random.default_rng(0)
    number, samples = len(names), round(seconds * RATE)
    given = np.arange(number) % len(labels)
    hot = np.eye(len(labels), dtype=np.uint8)[given]
    ids = np.array([f"{name}@0".encode() for name in names])
    halves = [np.arange(0, number // 2), np.arange(number // 2, number)]
    none = np.zeros(0, int)
    folds = [Fold(halves[1], none, halves[0]), Fold(halves[0], none, halves[1])]
    classes = [Class(label, label) for label in labels]
    write_index(Index(ids, hot, classes, folds, np.arange(number, dtype=np.int32)), FOLDER.index)
    waveforms = [quantize(0.1 * rng.standard_normal(samples).astype(np.float32)) for _ in names]
    scales = np.array([scale for _, scale in waveforms], np.float32)
    about = {"name": "waveform", "sample_rate": RATE}
    with write_features(
        FOLDER.feature("waveform"), number, np.int16, InputSpec(1, samples, 1), about, scales
    ) as (values, _):
        values[:, 0, :, 0] = [waveform for waveform, _ in waveforms]
    p = np.full((number, len(labels)), 0.02)
    p[np.arange(number), given] = 0.94
    for clip, wrong in ((0, 1), (number // 2, 2)):
        p[clip] = 0.01
        p[clip, (given[clip] + wrong) % len(labels)] = 0.97
    outputs = {
        f"fold{k}-seed0/test": logit(p[half]).astype(np.float32) for k, half in enumerate(halves)
    }
    runs = {f"fold{k}-seed0": k for k in range(2)}
    write_scores(FOLDER.scores("models", "probe"), Scores(outputs, runs, 1))
    FOLDER.evaluation("probe").parent.mkdir(exist_ok=True)
    FOLDER.evaluation("probe").write_text(json.dumps({"test": {"accuracy": 0.9}}))
    FOLDER.summary.write_text(json.dumps({"groups": {"yard": {"clips": 4, "seconds": 2.0}}}))
    params = {
        "root": ".", "folder": ".", "in": "", "task": TASK, "decode": {}, "models": {"probe": {}},
        "evaluate": {"resamples": 100, "seed": 0}, "compare": {"plot": ["probe"]},
    }  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump(params | (parameters or {})))
    Path(CORRECTIONS).write_text("clip,action,labels\n")


NAMES = [f"yard/{name}.wav" for name in (
    "<img src=x onerror=window.ran=1>", 'quotes " and \' and, commas', "🐦 bird", "x" * 200,
    "plain", "a;b", "</script><script>window.ran=1</script>", "{{ 7 * 7 }}",
)]  # fmt: skip


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task of strange labels and names of files, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    write_task(NAMES)
    return tmp_path


def page_data() -> dict[str, Any]:
    text = Path("review/index.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_has_each_clip_once_and_is_the_same_each_time(task: Path) -> None:
    review_stage.main(".")
    first = Path("review/index.html").read_bytes()
    data = page_data()
    assert [data["clips"][str(clip)]["clip"] for clip in data["mistakes"]] == [NAMES[0], NAMES[4]]
    assert data["clips"]["0"]["sound"].startswith("data:audio/ogg;base64,")
    assert data["hours"]["groups"] == [["yard", 4, 2.0 / 3600]]
    assert "for 8 clips that it was not trained on" in " ".join(first.decode().split())
    assert not list(Path("review").glob("sound/*"))
    review_stage.main(".")
    assert Path("review/index.html").read_bytes() == first


def test_long_clips_and_those_without_room_are_beside_the_page(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_module, "MAX_MEDIA_BYTES", 8_000)
    review_stage.main(".")
    clips = page_data()["clips"]
    sounds_of = [clip["sound"] for clip in clips.values()]
    inside = [sound for sound in sounds_of if sound.startswith("data:")]
    assert 0 < len(inside) < len(sounds_of)
    for clip in clips.values():
        for kind in ("sound", "image"):
            assert clip[kind].startswith("data:") or Path("review", clip[kind]).stat().st_size


def test_only_the_test_clips_of_one_split_are_reviewed(task: Path) -> None:
    index = read_index(FOLDER.index)
    write_index(index._replace(folds=index.folds[:1]), FOLDER.index)
    scores = Scores(
        {"seed0/test": logit(np.full((4, 4), 0.25)).astype(np.float32)}, {"seed0": 0}, 1
    )
    write_scores(FOLDER.scores("models", "probe"), scores)
    review_stage.main(".")
    text = " ".join(Path("review/index.html").read_text().split())
    assert "Only the test clips are reviewed: 4 of 8" in text
    assert "not calibrated, as no clips validate" in text


def test_earlier_corrections_are_on_the_page(task: Path) -> None:
    rows = [["clip", "action", "labels"], [NAMES[2], "relabel", LABELS[1]], [NAMES[5], "drop", ""]]
    with Path(CORRECTIONS).open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    review_stage.main(".")
    assert page_data()["corrections"] == {
        NAMES[2]: {"action": "relabel", "labels": [1]}, NAMES[5]: {"action": "drop", "labels": []},
    }  # fmt: skip


# In a browser, from click to saved file.


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


def opened(browser: Any) -> tuple[Any, list[str]]:
    """Return the page without a network, and its errors."""
    context = browser.new_context(offline=True, accept_downloads=True)
    context.set_default_timeout(0)  # a busy machine takes its time
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.goto(Path("review/index.html").resolve().as_uri())
    return page, problems


def saved(page: Any) -> list[list[str]]:
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == CORRECTIONS
    download.value.save_as(CORRECTIONS)
    with Path(CORRECTIONS).open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_from_click_to_saved_file(task: Path, browser: Any) -> None:
    review_stage.main(".")
    page, problems = opened(browser)
    cards = page.locator("section.shown .card")
    assert cards.count() == 2
    # The confusion matrix filters by a pair, and the class by a label.
    page.click("details summary")
    page.click("#matrix button[data-pair='0,1']")
    assert cards.locator("h3").all_inner_texts() == [NAMES[0]]
    page.click("#clear-pair")
    page.select_option("#mistakes select[aria-label=Class]", "2")
    assert cards.locator("h3").all_inner_texts() == [NAMES[4]]
    page.select_option("#mistakes select[aria-label=Class]", "")
    # The sound inside the page plays.
    cards.first.locator("img").click()
    page.wait_for_function("document.querySelector('.card audio').currentTime > 0")
    cards.first.locator("select.relabel").select_option(label=LABELS[3])
    cards.nth(1).locator("button.drop").click()
    assert page.inner_text("#count") == "2 corrections"
    page.reload()  # nothing is lost
    assert page.inner_text("#count") == "2 corrections"
    rows = saved(page)
    assert rows == [
        ["clip", "action", "labels"],
        *sorted([[NAMES[0], "relabel", LABELS[3]], [NAMES[4], "drop", ""]]),
    ]
    # And they are what the next stage reads.
    index = read_index(FOLDER.index)
    corrected = apply_corrections(Path(CORRECTIONS), NAMES, index.labels, LABELS, True)
    assert corrected.labels[0].tolist() == [0, 0, 0, 1]
    assert np.flatnonzero(~corrected.kept).tolist() == [4]
    assert problems == []


def test_the_keyboard_does_all(task: Path, browser: Any) -> None:
    review_stage.main(".")
    page, problems = opened(browser)
    page.keyboard.press("p")
    page.wait_for_function("document.querySelector('.card audio').currentTime > 0")
    page.keyboard.press("e")  # keep, and next
    page.keyboard.press("r")  # the menu
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    chosen = page.locator("section.shown .card").nth(1).locator("select").input_value()
    page.keyboard.press("b")
    assert page.locator(".card.current h3").inner_text() == NAMES[0]
    page.keyboard.press("u")
    page.keyboard.press("d")
    rows = {row[0]: row[1:] for row in saved(page)[1:]}
    assert rows == {NAMES[0]: ["drop", ""], NAMES[4]: ["relabel", LABELS[int(chosen)]]}
    assert problems == []


def test_several_labels_are_chosen_one_by_one(task: Path, browser: Any) -> None:
    write_task(NAMES, parameters={"task": TASK | {"type": "multi_label"}})
    review_stage.main(".")
    page, problems = opened(browser)
    card = page.locator("section.shown .card").first
    labels = card.locator(".relabel button")
    labels.filter(has_text=LABELS[2]).click()
    labels.filter(has_text="quoted").click()
    labels.filter(has_text="<script>").click()
    (row,) = saved(page)[1:]
    assert (row[0], row[1], set(row[2].split(";"))) == (NAMES[0], "relabel", {LABELS[1], LABELS[2]})
    assert problems == []


def test_strange_labels_and_names_show_as_they_are_and_run_nothing(
    task: Path, browser: Any
) -> None:
    wrong = np.tile(logit([0.1, 0.1, 0.7, 0.1]), (4, 1)).astype(np.float32)
    runs = {f"fold{k}-seed0": k for k in range(2)}
    scores = Scores({f"{run}/test": wrong for run in runs}, runs, 1)
    write_scores(FOLDER.scores("models", "probe"), scores)
    review_stage.main(".")
    page, problems = opened(browser)
    shown = page.locator("#mistakes .card h3").all_inner_texts()
    assert set(shown) == {name for k, name in enumerate(NAMES) if k % 4 != 2}
    assert set(page.locator("#mistakes .given").all_inner_texts()) >= {
        LABELS[0], LABELS[1], LABELS[3].strip(),
    }  # fmt: skip
    for tab in ("errors", "copies", "classes", "hours", "help"):
        page.click(f"#tab-{tab}")
    assert page.evaluate("window.ran") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert problems == []


# The way back.


def corrected(rows: str, single_label: bool = True) -> Any:
    Path(CORRECTIONS).write_text("clip,action,labels\n" + rows)
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.uint8)
    return apply_corrections(
        Path(CORRECTIONS), ["a.wav", "b.wav", "é"], labels, ["x", "y", "z, w"], single_label
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "gone.wav,drop,\n",
            "line 2: clip must be one of the task, got 'gone.wav'; remove the line",
        ),
        ("a.wav,keep,\nb.wav,cut,\n", "line 3: action must be keep, relabel, drop, got 'cut'"),
        ("a.wav,relabel,dog\n", r"line 2: labels must be classes of the task \(x, .*, got 'dog'"),
        ("a.wav,relabel,x;y\n", "line 2: labels must be one, .*single_label, got 'x;y'"),
        ("a.wav,relabel,\n", "line 2: labels must be one, .*single_label, got ''"),
        ("a.wav,drop,x\n", "line 2: labels must be empty, as action is drop, got 'x'"),
        ("a.wav,drop,\n\na.wav,keep,\n", "lines 2 and 4: 'a.wav' must have one correction"),
    ],
)
def test_a_wrong_correction_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^corrections.csv, {message}"):
        corrected(rows)


def test_corrections_are_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # With other forms of names, as spreadsheets and systems write them.
    after = corrected('a.wav,relabel," z, w "\nb.wav,keep,\ne\u0301,drop,\n')
    assert after.labels.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 1]]
    assert after.kept.tolist() == [True, True, False]
    several = corrected('a.wav,relabel,x;"z, w"\n'.replace('x;"z, w"', '"x;z, w"'), False)
    assert several.labels[0].tolist() == [1, 0, 1]
    with pytest.raises(UserError, match="line 2: labels must be one or more"):
        corrected("a.wav,relabel,\n", False)


def test_decode_applies_corrections_to_a_source(tmp_path: Path, monkeypatch) -> None:
    sounds.write_sounds(tmp_path / "sounds.zip")
    params = {
        "root": ".", "folder": ".", "in": "", "task": TASK,
        "decode": {"source": "folder", "path": "sounds.zip", "sample_rate": 8000,
                   "clip_seconds": 1},
        "split": {"method": "group_k_fold", "validation": "next_fold"},
        "runtime": {"progress": "none"},
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / CORRECTIONS).write_text("clip,action,labels\n")
    monkeypatch.chdir(tmp_path)
    done = run_stage(tmp_path, "decode")
    assert done.returncode == 0, done.stderr
    before, waveforms = read_index(FOLDER.index), FOLDER.feature("waveform") / "values.npy"
    content = waveforms.read_bytes()
    names = [clip.decode().rpartition("@")[0] for clip in before.ids]
    other = before.classes[(before.labels[3].argmax() + 1) % 5].name
    with Path(CORRECTIONS).open("a") as file:
        file.write(f"{names[3]},relabel,{other}\n{names[7]},drop,\n{names[9]},keep,\n")
    done = run_stage(tmp_path, "decode")
    assert done.returncode == 0, done.stderr
    after = read_index(FOLDER.index)
    # Features are computed for all clips: they do not run again.
    assert waveforms.read_bytes() == content
    assert np.array_equal(before.ids, after.ids)
    assert np.flatnonzero((before.labels != after.labels).any(axis=1)).tolist() == [3]
    assert after.classes[after.labels[3].argmax()].name == other
    for old, new in zip(before.folds, after.folds, strict=True):
        for clips, kept in zip(old, new, strict=True):
            assert kept.tolist() == [clip for clip in clips.tolist() if clip != 7]
    assert json.loads(FOLDER.summary.read_text())["clips"] == {"all": 99}
    (tmp_path / CORRECTIONS).write_text("clip,action,labels\ngone.wav,drop,\n")
    assert_one_sentence(
        run_stage(tmp_path, "decode"), "corrections.csv, line 2", "'gone.wav'", "remove the line"
    )


def test_old_and_new_models_are_compared_on_the_new_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_task([f"{k}.wav" for k in range(8)])
    index, scores = read_index(FOLDER.index), FOLDER.scores("models", "probe")
    old = [Path("old.index"), Path("old.scores")]
    shutil.copy(FOLDER.index, old[0])
    shutil.copy(scores, old[1])
    task, settings = Task(**TASK), Evaluate(resamples=200, seed=0)
    metric = load_metrics(task)["accuracy"]
    new_scores = read_scores(scores)
    assert compare_with_committed(old, new_scores, index, task, metric, settings) is None
    # The old model is wrong on clip 0, as labels were; on clip 4, which is dropped, as well.
    labels = index.labels.copy()
    labels[0] = [0, 1, 0, 0]
    kept = np.arange(8) != 4
    folds = [Fold(*(clips[kept[clips]] for clips in fold)) for fold in index.folds]
    mended = index._replace(labels=labels, folds=folds)
    perfect = [logit(0.9 * labels[fold.test] + 0.05).astype(np.float32) for fold in folds]
    outputs = {f"fold{k}-seed0/test": perfect[k] for k in range(2)}
    outputs["fold0-seed0/test"][1] = logit([0.9, 0.05, 0.05, 0.05])
    compared = compare_with_committed(
        old, new_scores._replace(outputs=outputs), mended, task, metric, settings
    )
    assert (compared.clips, compared.before, compared.after) == (7, 1.0, (3 / 4 + 1) / 2)
    assert compared.interval[0] < compared.after - compared.before < compared.interval[1]
