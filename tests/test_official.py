"""The official benchmark: enhanced labels, intervals, its page, and its pipeline as a whole."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from sklearn.metrics import average_precision_score

from official import bootstrap, enhance, hierarchy, ontology, report, settings
from tagging import metrics, sample
from tagging.dataset import read_split
from tagging.errors import UserError
from tagging.labels import Label
from tests.conftest import shared
from tests.project import ROOT, Project

# The ontology.


def write_ontology(path: Path, **children: list[str]) -> Path:
    path.write_text(json.dumps([{"id": k, "child_ids": v} for k, v in children.items()]))
    return path


def labels_of(*mids: str) -> list[Label]:
    return [Label(index, mid, mid.upper()) for index, mid in enumerate(mids)]


def pairs(kin: np.ndarray, labels: list[Label]) -> set[str]:
    return {f"{labels[a].mid} {labels[b].mid}" for a, b in zip(*np.nonzero(kin), strict=True)}


def test_children_are_direct_and_ancestors_all(tmp_path: Path) -> None:
    # music > genre (no label) > blues > delta; song > blues too.
    file = write_ontology(
        tmp_path / "x", music=["genre"], genre=["blues"], blues=["delta"], delta=[], song=["blues"]
    )
    labels = labels_of("delta", "music", "blues", "song")
    found = hierarchy.read_ontology(file)
    assert pairs(hierarchy.children_of(found, labels), labels) == {"blues delta", "song blues"}
    assert pairs(hierarchy.ancestors_of(found, labels), labels) == {
        "delta blues", "delta song", "delta music", "blues song", "blues music",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<html>", "is no JSON"),
        ("{}", "holds no list; it takes a list of classes"),
        ("[]", "holds no list; it takes a list of classes"),
        ('[{"id": "a"}]', "class 1 is {'id': 'a'}; it takes an id and child_ids"),
        ('[{"id": 1, "child_ids": []}]', "class 1 is"),
        ('["a"]', "class 1 is a; it takes"),
        ('[{"id": "a", "child_ids": [1]}]', "class 1 is"),
        ('[{"id": "a", "child_ids": []}, {"id": "a", "child_ids": []}]', "a stands there twice"),
        ('[{"id": "a", "child_ids": ["b"]}]', "a has the child b, which is no class there"),
        (
            '[{"id": "a", "child_ids": ["b"]}, {"id": "b", "child_ids": ["a"]}]',
            "stands below itself",
        ),
    ],
)
def test_what_is_no_ontology_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "ontology.json"
    file.write_text(text)
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        hierarchy.read_ontology(file)
    assert str(file) in str(caught.value)


def test_an_ontology_without_the_labels_is_refused(tmp_path: Path) -> None:
    found = hierarchy.read_ontology(write_ontology(tmp_path / "x", a=[]))
    for kin in (hierarchy.children_of, hierarchy.ancestors_of):
        with pytest.raises(UserError, match=r"^2 labels, such as B \(b\), are no classes of"):
            kin(found, labels_of("a", "b", "c"))


def test_the_samples_ontology_fits_its_labels(tmp_path: Path) -> None:
    file = tmp_path / "ontology.json"
    file.write_text(sample.ontology_json())
    labels = [Label(*label) for label in sample.sample_labels()]
    found = hierarchy.children_of(hierarchy.read_ontology(file), labels)
    assert {(int(a), int(b)) for a, b in zip(*np.nonzero(found), strict=True)} == {
        (138, 140), (137, 138), (137, 27), (72, 73),
    }  # fmt: skip


def test_where_the_ontology_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUDIOSET_MIRROR", raising=False)
    assert ontology.addresses("us") == [ontology.GITHUB]
    assert ontology.addresses("/a/mirror/") == ["/a/mirror/ontology/ontology.json", ontology.GITHUB]
    monkeypatch.setenv("AUDIOSET_MIRROR", "http://localhost/x")
    assert ontology.addresses("eu") == [
        "http://localhost/x/ontology/ontology.json", ontology.GITHUB,
    ]  # fmt: skip


def test_a_mirrors_file_that_is_no_ontology_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror/ontology").mkdir(parents=True)
    (tmp_path / "mirror/ontology/ontology.json").write_text("not found")
    with pytest.raises(UserError, match=r"/ontology.json is no ontology: .* no JSON"):
        ontology.bring("./mirror", "none")
    assert not list(settings.DATA.iterdir())
    write_ontology(tmp_path / "mirror/ontology/ontology.json", a=[])
    ontology.bring("./mirror", "none")
    assert [file.name for file in settings.DATA.iterdir()] == ["ontology.json"]


# Enhanced labels.


def test_thresholds_by_hand() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]])
    scores = np.array([[0.1, 0.9, 0.9], [0.4, 0.2, 0.9], [1.0, 0.9, 0.9], [0.7, 0.6, 0.9]])
    # Of the first label's clips 0.1, 0.4 and 1; of the second's 0.2 and 0.6; no clip has the third.
    assert enhance.thresholds(labels, scores, "mean") == pytest.approx([0.5, 0.4, np.inf])
    assert enhance.thresholds(labels, scores, 0.0) == pytest.approx([0.1, 0.2, np.inf])
    assert enhance.thresholds(labels, scores, 25) == pytest.approx([0.25, 0.3, np.inf])
    assert enhance.thresholds(labels, scores, 100) == pytest.approx([1.0, 0.6, np.inf])


def test_enhancement_by_hand() -> None:
    # animal > dog > bark; water apart.
    animal, dog, bark, water = range(4)
    children, ancestors = np.zeros((2, 4, 4), bool)
    children[animal, dog] = children[dog, bark] = True
    ancestors[dog, animal] = ancestors[bark, dog] = ancestors[bark, animal] = True
    labels = np.zeros((5, 4), np.uint8)
    heard = np.ones((5, 4), bool)
    labels[0, animal] = 1  # its child is added; bark is no child of what the clip had
    labels[1, bark] = 1  # all above is added
    labels[2, dog] = 1  # both sides, but the teacher does not hear the bark
    heard[2, bark] = False
    labels[3, water] = 1  # has no kin
    labels[4, [animal, dog]] = 1  # dog is there already
    type_1, type_2 = enhance.missing(labels, heard, children, ancestors)
    assert [np.flatnonzero(row).tolist() for row in type_1] == [[dog], [], [], [], [bark]]
    assert [np.flatnonzero(row).tolist() for row in type_2] == [
        [], [animal, dog], [animal], [], [],
    ]  # fmt: skip


# Intervals.


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of 60 clips, many scores equal; no clip has the last label."""
    rng = np.random.default_rng(3)
    labels = (rng.random((60, 5)) < [0.5, 0.2, 0.1, 0.04, 0]).astype(np.uint8)
    labels[7, 3] = 1
    return labels, rng.integers(0, 12, (60, 5)).astype(np.float32) + labels * 2


def test_average_precision_of_resamples_is_scikit_learns(answers) -> None:
    labels, scores = answers
    counts = bootstrap.draw(len(labels), 40, 1)
    assert (counts.sum(axis=0) == len(labels)).all()
    found = bootstrap.average_precision(labels, scores, counts)
    for resample, times in zip(found, counts.T, strict=True):
        clips = np.repeat(np.arange(len(labels)), times)
        for label, value in enumerate(resample):
            if labels[clips, label].any():
                wanted = average_precision_score(labels[clips, label], scores[clips, label])
                assert value == pytest.approx(wanted, abs=1e-12)
            else:
                assert np.isnan(value)
    assert np.isnan(found[:, 3]).any() and not np.isnan(found[:, 3]).all()


def test_average_precision_of_all_clips_once_is_the_plain_one(answers) -> None:
    labels, scores = answers
    once = bootstrap.average_precision(labels, scores, np.ones((len(labels), 1), np.uint8))
    np.testing.assert_allclose(once[0], metrics.average_precision(labels, scores), atol=1e-12)


def test_intervals_hold_the_value_and_narrow_with_clips(answers) -> None:
    labels, scores = answers
    value = float(np.nanmean(metrics.average_precision(labels, scores)))
    low, high = bootstrap.interval(labels, scores, value, 200, 0)
    assert low < value < high
    assert value - low == pytest.approx(high - value)
    many = np.tile(labels, (16, 1)), np.tile(scores, (16, 1))
    narrow = bootstrap.interval(*many, value, 200, 0)
    assert (narrow[1] - narrow[0]) / (high - low) == pytest.approx(1 / 4, rel=0.3)
    # Without chance there is no width.
    assert bootstrap.interval(labels, labels.astype(float), 1.0, 100, 0) == (1.0, 1.0)


# The page.


def entry(name: str, kind: str, val: float, test: float) -> report.Entry:
    scores = {
        "mean_average_precision": test,
        "mean_average_precision_low": test - 0.004,
        "mean_average_precision_high": test + 0.004,
        "roc_auc": 0.95,
        "d_prime": 2.3,
        "lwlrap": 0.5,
    }
    by_class = {"Music": test + 0.3, "Rain": test - 0.1, "Owl": float("nan")}
    return report.Entry(name, kind, {"mean_average_precision": val}, scores, 1000, 60.0, by_class)


@pytest.fixture
def facts() -> report.Facts:
    net = {"architecture": "attention", "network": {"hidden": 8}}
    return report.Facts(
        settings.Official(
            prepare={"split": "official"},
            train={},
            models={"plain": net, "other": {"architecture": "ast", "network": {}}},
            enhance={},
            enhanced={"more": net},
            ensembles={"both": {"members": ["plain", "other"]}},
            evaluate={},
            published={},
        ),
        {"source": "AudioSet", "split": {"train": 20_000, "val": 2_000, "test": 20_000}},
        {"teacher": "plain", "threshold": "mean", "labels": 1000, "added": 30}
        | {"added_type_1": 20, "added_type_2": 10},
        [
            entry("plain", "model", 0.30, 0.27),
            entry("other", "model", 0.20, 0.21),
            entry("more", "enhanced labels", 0.31, 0.272),
            entry("both", "ensemble", 0.305, 0.28),
        ],
        {"Music": 5000, "Rain": 60, "Owl": 0},
        {
            "Low et al.": settings.Published(
                mean_average_precision=0.25, roc_auc=0.9, train_clips=2_000_000
            )
        },
    )


def test_the_page_marks_validations_choice_and_sorts_by_test(facts: report.Facts) -> None:
    rows = report.leaderboard(facts).splitlines()[2:]
    names = [row.split("|")[1].strip() for row in rows]
    assert names == ["both", "**more**", "plain", "Low et al.", "other"]
    assert ["validation's choice" in row for row in rows] == [False, True, False, False, False]
    said = report.result(facts)
    assert said.startswith("`more`, chosen by validation, has a mean average precision of **0.2720")
    assert "0.0220 above the 0.250 of Low et al., from 1.0% of the training clips" in said
    assert "`both` has 0.2800 there, but validation did not choose it" in said


def test_the_page_says_below_where_it_is_below(facts: report.Facts) -> None:
    high = settings.Published(mean_average_precision=0.369, roc_auc=0.969, train_clips=40_000)
    said = report.result(facts._replace(published={"High et al.": high}, entries=facts.entries[:1]))
    assert "0.0990 below the 0.369 of High et al., from 50.0% of" in said
    assert "did not choose" not in said


def test_what_enhancement_is_worth(facts: report.Facts) -> None:
    said = report.enhancement(facts)
    assert "(mean), 30 labels join the 1,000 of the training split (20 kinds" in said
    assert (
        "`more` has an mAP of 0.2720, `plain`, trained alike on AudioSet's labels, 0.2700" in said
    )
    assert "+0.0020 on test, less than the ±0.0040 of its interval, and +0.0100 on val" in said
    facts.official.models["plain"] = {"architecture": "lstm", "network": {}}
    assert "nothing tells their worth" in report.enhancement(facts)


def test_classes_without_test_clips_are_left_out_of_the_page(facts: report.Facts) -> None:
    shown = report.classes(facts)
    assert "| Music | 0.572 | 0.510 | 5,000 | Rain | 0.172 | 0.110 | 60 |" in shown
    assert "Owl" not in report.page(facts)
    assert [row["class"] for row in report.chart(facts)["data"]["values"]] == ["Rain", "Music"]
    assert [row[0] for row in report.class_rows(facts)] == ["Music", "Rain", "Owl"]


# The section of params.yaml.


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ensembles": {"a": {}}}, "official.models and official.ensembles both have the name 'a'"),
        ({"enhanced": {"a": {}}}, "official.models and official.enhanced both have the name 'a'"),
        ({"models": {"a/b": {}}}, "official.models has the name 'a/b'"),
        ({"models": {}}, "official.models is {}; it takes a mapping of names to entries"),
        ({"ensemble": {}}, "official.ensemble is unknown"),
    ],
)
def test_the_section_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = ("prepare", "train", "enhance", "enhanced", "ensembles", "evaluate", "published")
    section = {part: {} for part in parts} | {"models": {"a": {}}}
    Path("params.yaml").write_text(json.dumps({"official": section | change}))
    with pytest.raises(UserError, match=re.escape(sentence)):
        settings.read_official()


def test_members_and_names_that_are_not_there(facts: report.Facts) -> None:
    facts.official.ensembles["bad"] = {"members": ["plain", "both"]}
    with pytest.raises(UserError, match="members has 'both'; it takes some of plain, other, more"):
        settings.read_ensemble(facts.official, "bad")
    with pytest.raises(UserError, match=r"ensembles.x is missing; the ensembles there: both"):
        settings.read_ensemble(facts.official, "x")
    with pytest.raises(UserError, match=r"models.x is missing; .* have plain, other, more"):
        settings.find_trained(facts.official, "x")


# The pipeline.

PIPELINE = "official/dvc.yaml"
SMALL = {"epochs": 2, "batch_size": 16, "lr": 0.01}
FIRST = {
    "architecture": "attention",
    "network": {"hidden": 8, "layers": 1, "dropout": 0.1, "pooling": "decision"},
    "train": SMALL,
}
SECOND = FIRST | {"network": FIRST["network"] | {"pooling": "mean"}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, mirror: Path, python_folder: Path) -> Path:
    """The project after `dvc repro official/dvc.yaml`, small. Not to be changed: copy it."""
    root = shared(tmp_path_factory, "official")
    with FileLock(f"{root}.lock"):
        if not root.exists():
            building = root.with_name("official-building")
            shutil.rmtree(building, ignore_errors=True)
            made = Project.of_sources(ROOT, building, mirror, python_folder)
            params = made.params()
            params["official"] |= {
                "models": {"first": FIRST, "second": SECOND},
                "enhance": {"teacher": "first", "threshold": 25},
                "enhanced": {"first_enhanced": FIRST},
                "ensembles": {"both": {"members": ["first", "second"]}},
                "evaluate": {"resamples": 100, "seed": 0},
            }
            params["official"]["prepare"]["top_labels"] = 12
            made.write_params(params)
            made.git("add", "--all")
            made.git("commit", "--quiet", "--message", "The project, made small")
            made.repro(PIPELINE)
            made.git("add", "--all")
            made.git("commit", "--quiet", "--message", "First run")
            building.rename(root)
    return root


@pytest.fixture
def small(whole: Path, mirror: Path, python_folder: Path, tmp_path: Path) -> Project:
    """A copy of it to change at will."""
    return Project.copied(whole, tmp_path / "project", mirror, python_folder)


def ids(file: Path) -> set[str]:
    return {bytes(row).decode() for row in read_split(file).video_ids}


def test_the_pipeline_keeps_the_split_and_the_original_labels(whole: Path) -> None:
    import pandas as pd

    data = whole / "official/data"
    names = ("train", "val", "test", "enhanced")
    splits = {name: read_split(data / f"{name}.safetensors") for name in names}
    balanced, evaluation = (
        pd.read_parquet(whole / f"data/parquet/{subset}.parquet").set_index("video_id")
        for subset in ("bal_train", "eval")
    )
    train, val, test = (ids(data / f"{name}.safetensors") for name in names[:3])
    assert test <= set(evaluation.index)
    assert train | val <= set(balanced.index)
    assert not train & val

    before, after = splits["train"], splits["enhanced"]
    added = after.labels.astype(int) - before.labels
    told = json.loads((whole / "official/enhanced.json").read_text())
    assert set(np.unique(added)) == {0, 1}
    assert told["added"] == added.sum() <= told["added_type_1"] + told["added_type_2"]
    assert told["labels"] == before.labels.sum()
    assert (after.embeddings == before.embeddings).all()
    assert (after.video_ids == before.video_ids).all()
    # What is tested and validated against are the labels of the records.
    columns = {label.index: place for place, label in enumerate(before.names)}
    for name, records in (("train", balanced), ("val", balanced), ("test", evaluation)):
        for row, hot in zip(splits[name].video_ids, splits[name].labels, strict=True):
            given = records.labels[bytes(row).decode()]
            assert set(np.flatnonzero(hot)) == {columns[k] for k in given if k in columns}


def test_the_pipelines_page(whole: Path) -> None:
    page = (whole / "official/README.md").read_text()
    assert "generated sample, not AudioSet" in page
    assert "Google" not in page  # published rows stand beside AudioSet's results alone
    for name in ("first", "second", "first_enhanced", "both"):
        assert re.search(rf"^\| (\*\*)?{name}(\*\*)? \|", page, re.MULTILINE)
    header, *rows = (whole / "official/per_class.csv").read_text().splitlines()
    assert header == "label,test_clips,first,second,first_enhanced,both"
    assert len(rows) == 12
    assert (whole / "official/per_class.svg").read_text().startswith("<svg")
    assert not [line for line in page.splitlines() if "nan" in line.lower()]


def test_what_runs_when_something_changes(small: Project) -> None:
    def ran(*arguments: str) -> set[str]:
        return {name.removeprefix(f"{PIPELINE}:") for name in small.repro(*arguments)}

    assert ran(PIPELINE) == set()
    assert small.status() == []
    params = small.params()
    # A member more trains nothing.
    params["official"]["ensembles"]["both"]["members"].append("first_enhanced")
    small.write_params(params)
    assert ran(PIPELINE) == {"ensemble@both", "report"}
    # Another threshold leaves the models of the original labels alone.
    params["official"]["enhance"]["threshold"] = 0
    small.write_params(params)
    changed = ran(PIPELINE)
    assert changed == {
        "enhance", "train_enhanced@first_enhanced", "evaluate_enhanced@first_enhanced",
        "ensemble@both", "report",
    }  # fmt: skip
    # One model's settings do not touch the other.
    params["official"]["models"]["second"]["train"] = SMALL | {"lr": 0.02}
    small.write_params(params)
    assert ran(PIPELINE) == {"train@second", "evaluate@second", "ensemble@both", "report"}


def test_only_labels_tell_an_enhanced_training_from_another(small: Project) -> None:
    folder = small.root / "official"
    plain, enhanced = (folder / f"models/first{end}.safetensors" for end in ("", "_enhanced"))
    assert json.loads((folder / "enhanced.json").read_text())["added"] > 0
    assert plain.read_bytes() != enhanced.read_bytes()
    labels = folder / "data/enhanced.safetensors"
    labels.unlink()
    shutil.copy(folder / "data/train.safetensors", labels)
    small.run("python", "-m", "official.train", "first_enhanced")
    assert plain.read_bytes() == enhanced.read_bytes()


def test_wrong_settings_are_one_sentence(small: Project) -> None:
    params = small.params()
    params["official"]["train"]["rate"] = 1
    params["official"]["enhance"]["threshold"] = "middle"
    small.write_params(params)
    said = small.fails("python", "-m", "official.train", "first")
    assert "official.train.rate is unknown" in said
    said = small.fails("python", "-m", "official.enhance")
    assert "official.enhance.threshold is 'middle'; it takes mean, or a percentile" in said
    params["official"]["enhance"] = {"teacher": "both", "threshold": "mean"}
    params["official"]["prepare"]["subsets"] = ["eval"]
    del params["official"]["train"]["rate"]
    params["official"]["models"]["first"]["network"] = {"hidden": 8}
    small.write_params(params)
    said = small.fails("python", "-m", "official.enhance")
    assert "official.enhance.teacher is 'both'; it takes one of first, second" in said
    said = small.fails("python", "-m", "official.prepare")
    assert "the official split takes bal_train and eval" in said
    assert "official.models: params.yaml: models.first.network" in small.fails(
        "python", "-m", "official.train", "first"
    )
