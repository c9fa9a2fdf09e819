"""Targets of students: a teacher's probabilities, or labels that the ontology says are missing."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from tagging.base.errors import UserError
from tagging.data.classes import Class
from tagging.data.parameters import parse
from tagging.learning.distillation import (
    blend_targets,
    missing_labels,
    relabel,
    relabel_thresholds,
)
from tagging.learning.losses import Bce
from tagging.learning.model import Student
from tagging.sources.audioset import sample
from tagging.sources.audioset.ontology import ancestor_matrix, child_matrix, read_ontology


def write_ontology(path: Path, **children: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([{"id": k, "child_ids": v} for k, v in children.items()]))
    return path


def classes_of(*ids: str) -> list[Class]:
    return [Class(id_, id_.upper()) for id_ in ids]


def pairs(related: np.ndarray, classes: list[Class]) -> set[str]:
    return {f"{classes[a].id} {classes[b].id}" for a, b in zip(*np.nonzero(related), strict=True)}


def test_children_are_direct_and_ancestors_all(tmp_path: Path) -> None:
    # music > genre (no label) > blues > delta; song > blues too.
    file = write_ontology(
        tmp_path / "x", music=["genre"], genre=["blues"], blues=["delta"], delta=[], song=["blues"]
    )
    classes = classes_of("delta", "music", "blues", "song")
    ontology = read_ontology(file)
    assert pairs(child_matrix(ontology, classes), classes) == {"blues delta", "song blues"}
    assert pairs(ancestor_matrix(ontology, classes), classes) == {
        "delta blues", "delta song", "delta music", "blues song", "blues music",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<html>", "must be AudioSet's ontology as JSON"),
        ("{}", "must be a list of classes"),
        ("[]", "must be a list of classes"),
        ('[{"id": "a"}]', "class 1 must have an id and child_ids, a list of ids, got {'id': 'a'}"),
        ('[{"id": 1, "child_ids": []}]', "class 1 must have"),
        ('["a"]', "class 1 must have an id and child_ids, a list of ids, got a"),
        ('[{"id": "a", "child_ids": [1]}]', "class 1 must have"),
        ('[{"id": "a", "child_ids": []}, {"id": "a", "child_ids": []}]', "has the class a twice"),
        ('[{"id": "a", "child_ids": ["b"]}]', "child b of a is not a class"),
        (
            '[{"id": "a", "child_ids": ["b"]}, {"id": "b", "child_ids": ["a"]}]',
            "is its own descendant",
        ),
        (None, "is missing; run dvc repro"),
    ],
)
def test_an_invalid_ontology_is_refused(tmp_path: Path, text: str | None, sentence: str) -> None:
    file = tmp_path / "ontology.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        read_ontology(file)
    assert str(file) in str(caught.value)


def test_an_ontology_without_the_labels_is_refused(tmp_path: Path) -> None:
    found = read_ontology(write_ontology(tmp_path / "x", a=[]))
    for kin in (child_matrix, ancestor_matrix):
        with pytest.raises(UserError, match=r"but lacks 2, such as B \(b\)$"):
            kin(found, classes_of("a", "b", "c"))


def test_the_samples_ontology_fits_its_labels(tmp_path: Path) -> None:
    file = tmp_path / "ontology.json"
    file.write_text(sample.ontology_json())
    classes = [Class(mid, name) for _, mid, name in sample.sample_labels()]
    found = child_matrix(read_ontology(file), classes)
    assert {(int(a), int(b)) for a, b in zip(*np.nonzero(found), strict=True)} == {
        (138, 140), (137, 138), (137, 27), (72, 73),
    }  # fmt: skip


def test_thresholds_by_hand() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]])
    scores = np.array([[0.1, 0.9, 0.9], [0.4, 0.2, 0.9], [1.0, 0.9, 0.9], [0.7, 0.6, 0.9]])
    # The first label's clips have 0.1, 0.4 and 1; the second's 0.2 and 0.6; the third has none.
    assert relabel_thresholds(labels, scores, "mean") == pytest.approx([0.5, 0.4, np.inf])
    assert relabel_thresholds(labels, scores, 0.0) == pytest.approx([0.1, 0.2, np.inf])
    assert relabel_thresholds(labels, scores, 25) == pytest.approx([0.25, 0.3, np.inf])
    assert relabel_thresholds(labels, scores, 100) == pytest.approx([1.0, 0.6, np.inf])


def test_enhancement_by_hand() -> None:
    # animal > dog > bark; water apart.
    animal, dog, bark, water = range(4)
    children, ancestors = np.zeros((2, 4, 4), bool)
    children[animal, dog] = children[dog, bark] = True
    ancestors[dog, animal] = ancestors[bark, dog] = ancestors[bark, animal] = True
    labels = np.zeros((5, 4), np.uint8)
    predicted = np.ones((5, 4), bool)
    labels[0, animal] = 1  # its child is added; bark is no child of what the clip had
    labels[1, bark] = 1  # all above is added
    labels[2, dog] = 1  # both sides, but the teacher does not predict the bark
    predicted[2, bark] = False
    labels[3, water] = 1  # has no kin
    labels[4, [animal, dog]] = 1  # dog is there already
    type_1, type_2 = missing_labels(labels, predicted, children, ancestors)
    assert [np.flatnonzero(row).tolist() for row in type_1] == [[dog], [], [], [], [bark]]
    assert [np.flatnonzero(row).tolist() for row in type_2] == [
        [], [animal, dog], [animal], [], [],
    ]  # fmt: skip


def test_labels_that_may_be_missing_are_added(tmp_path: Path) -> None:
    ontology = write_ontology(tmp_path / "ontology.json", animal=["dog"], dog=[])
    labels = np.array([[1, 0], [1, 1], [0, 1], [1, 0]], np.uint8)
    teacher = logit([[0.9, 0.8], [0.5, 0.6], [0.7, 0.9], [0.9, 0.4]])  # means: 0.77 and 0.75
    targets = relabel(labels, teacher, "mean", ontology, classes_of("animal", "dog"))
    assert targets.dtype == np.float32
    assert targets.tolist() == [[1, 1], [1, 1], [0, 1], [1, 0]]
    lowest = relabel(labels, teacher, 0, ontology, classes_of("animal", "dog"))
    assert lowest.tolist() == [[1, 1], [1, 1], [1, 1], [1, 0]]


def test_a_teachers_probabilities_are_blended_with_the_labels() -> None:
    labels = np.array([[1, 0]], np.uint8)
    teacher = np.array([[0.0, np.log(3)]], np.float32)  # probabilities 0.5 and 0.75
    assert np.allclose(blend_targets(labels, teacher, 0.2), [[0.2 + 0.8 * 0.5, 0.8 * 0.75]])
    assert np.allclose(blend_targets(labels, teacher, 1), labels)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "must have either hard_label_weight or relabel_threshold"),
        (
            {"hard_label_weight": 0.2, "relabel_threshold": "mean"},
            "must have either hard_label_weight or relabel_threshold",
        ),
        ({"relabel_threshold": "mean"}, "must have ontology, the path of AudioSet's ontology"),
    ],
)
def test_a_student_has_one_kind_of_targets(settings: dict, sentence: str) -> None:
    entry = {"architecture": "yac", "teacher": "both"} | settings
    with pytest.raises(UserError, match=f"students.pupil {sentence}"):
        parse(Student, entry, "students.pupil")


def test_the_loss_of_a_blend_is_the_blend_of_the_losses() -> None:
    rng = np.random.default_rng(1)
    outputs = torch.from_numpy(rng.normal(size=(8, 3)))
    labels, teacher = rng.integers(0, 2, (8, 3)), rng.normal(size=(8, 3))
    label_loss = Bce()(outputs, torch.from_numpy(labels).double())
    teacher_loss = Bce()(outputs, torch.from_numpy(expit(teacher)))
    blended = Bce()(outputs, torch.from_numpy(blend_targets(labels, teacher, 0.3)).double())
    assert blended.item() == pytest.approx((0.3 * label_loss + 0.7 * teacher_loss).item(), rel=1e-6)
