"""AudioSet's ontology: which classes are kinds of which others.

`ontology.json` is a list of 632 classes, each with its machine id, name, children and restrictions
(Gemmeke et al., 2017, "Audio Set: An ontology and human-labeled dataset for audio events"). A class
may have several parents. The 527 classes that clips are labelled with are among them; the others
are `abstract` or were not rated.
"""

import json
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np

from tagging.base.errors import UserError
from tagging.data.classes import Class

Ontology = dict[str, list[str]]  # machine id -> machine ids of the children


def read_ontology(path: Path) -> Ontology:
    """Read `ontology.json`.

    Raises:
        UserError: if it is not a list of classes, has a class twice, a child that is not a class,
            or a class that is its own descendant.
    """
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    except ValueError as error:
        raise UserError(f"{path} must be AudioSet's ontology as JSON ({error})") from None
    if not isinstance(classes, list) or not classes:
        raise UserError(f"{path} must be a list of classes, as AudioSet's ontology")
    ontology: Ontology = {}
    for number, entry in enumerate(classes, start=1):
        mid, children = _parse_class(entry)
        if mid is None or children is None:
            raise UserError(
                f"{path}: class {number} must have an id and child_ids, a list of ids, got "
                f"{str(entry)[:80]}"
            )
        if mid in ontology:
            raise UserError(f"{path} has the class {mid} twice")
        ontology[mid] = children
    for mid, children in ontology.items():
        for child in children:
            if child not in ontology:
                raise UserError(f"{path}: child {child} of {mid} is not a class")
    try:
        TopologicalSorter(ontology).prepare()
    except CycleError as error:
        raise UserError(f"{path}: {error.args[1][0]} is its own descendant") from None
    return ontology


def _parse_class(entry: object) -> tuple[str | None, list[str] | None]:
    if not isinstance(entry, dict):
        return None, None
    mid, children = entry.get("id"), entry.get("child_ids")
    has_ids = isinstance(children, list) and all(isinstance(child, str) for child in children)
    return mid if isinstance(mid, str) else None, children if has_ids else None


def child_matrix(ontology: Ontology, labels: list[Class]) -> np.ndarray:
    """Return which labels are direct children of which: bool (labels, labels), [parent, child].

    Raises:
        UserError: if a label is not a class of the ontology.
    """
    _check_labels(ontology, labels)
    columns = {label.id: column for column, label in enumerate(labels)}
    is_child = np.zeros((len(labels), len(labels)), bool)
    for label in labels:
        for child in ontology[label.id]:
            if child in columns:
                is_child[columns[label.id], columns[child]] = True
    return is_child


def ancestor_matrix(ontology: Ontology, labels: list[Class]) -> np.ndarray:
    """Return which labels are ancestors of which: bool (labels, labels), [label, ancestor].

    Classes between the two need not be labels: Blues is Music by way of Music genre.

    Raises:
        UserError: if a label is not a class of the ontology.
    """
    _check_labels(ontology, labels)
    columns = {label.id: column for column, label in enumerate(labels)}
    is_ancestor = np.zeros((len(labels), len(labels)), bool)
    for label in labels:
        descendants: set[str] = set()
        stack = list(ontology[label.id])
        while stack:
            if (mid := stack.pop()) not in descendants:
                descendants.add(mid)
                stack += ontology[mid]
        for mid in descendants & columns.keys():
            is_ancestor[columns[mid], columns[label.id]] = True
    return is_ancestor


def _check_labels(ontology: Ontology, labels: list[Class]) -> None:
    if unknown := [label for label in labels if label.id not in ontology]:
        raise UserError(
            f"the ontology must have all classes of the class list, but lacks {len(unknown)}, "
            f"such as {unknown[0].name} ({unknown[0].id})"
        )
