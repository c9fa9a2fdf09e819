"""AudioSet's ontology: which classes are kinds of which others.

`ontology.json` is a list of 632 classes, each with its machine id, name, children and restrictions
(Gemmeke et al., 2017, "Audio Set: An ontology and human-labeled dataset for audio events"). A class
may stand below several others. The 527 that clips are labelled with are among them; the rest are
`abstract` or were not rated.
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
        UserError: if it is no ontology: not a list of classes, with a class twice, with a child
            that is no class, or with a class below itself.
    """
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); it takes AudioSet's ontology") from None
    if not isinstance(classes, list) or not classes:
        raise UserError(f"{path} holds no list; it takes a list of classes, as AudioSet's ontology")
    ontology: Ontology = {}
    for place, entry in enumerate(classes, start=1):
        mid, children = _class(entry)
        if mid is None or children is None:
            raise UserError(
                f"{path}: class {place} is {str(entry)[:80]}; it takes an id and child_ids, a list "
                "of ids"
            )
        if mid in ontology:
            raise UserError(f"{path}: the class {mid} stands there twice")
        ontology[mid] = children
    for mid, children in ontology.items():
        for child in children:
            if child not in ontology:
                raise UserError(f"{path}: {mid} has the child {child}, which is no class there")
    try:
        TopologicalSorter(ontology).prepare()
    except CycleError as error:
        raise UserError(f"{path}: {error.args[1][0]} stands below itself") from None
    return ontology


def _class(entry: object) -> tuple[str | None, list[str] | None]:
    if not isinstance(entry, dict):
        return None, None
    mid, children = entry.get("id"), entry.get("child_ids")
    is_ids = isinstance(children, list) and all(isinstance(child, str) for child in children)
    return mid if isinstance(mid, str) else None, children if is_ids else None


def children_of(ontology: Ontology, labels: list[Class]) -> np.ndarray:
    """Return which label is a direct child of which: bool (labels, labels), [parent, child].

    Raises:
        UserError: if a label is no class of the ontology.
    """
    _check(ontology, labels)
    column = {label.id: place for place, label in enumerate(labels)}
    found = np.zeros((len(labels), len(labels)), bool)
    for label in labels:
        for child in ontology[label.id]:
            if child in column:
                found[column[label.id], column[child]] = True
    return found


def ancestors_of(ontology: Ontology, labels: list[Class]) -> np.ndarray:
    """Return which label stands somewhere above which: bool (labels, labels), [label, ancestor].

    Classes between the two need not be labels themselves: Blues is Music by way of Music genre.

    Raises:
        UserError: if a label is no class of the ontology.
    """
    _check(ontology, labels)
    column = {label.id: place for place, label in enumerate(labels)}
    found = np.zeros((len(labels), len(labels)), bool)
    for label in labels:
        below, todo = set(), list(ontology[label.id])
        while todo:
            if (mid := todo.pop()) not in below:
                below.add(mid)
                todo += ontology[mid]
        for mid in below & column.keys():
            found[column[mid], column[label.id]] = True
    return found


def _check(ontology: Ontology, labels: list[Class]) -> None:
    if absent := [label for label in labels if label.id not in ontology]:
        raise UserError(
            f"{len(absent)} labels, such as {absent[0].name} ({absent[0].id}), are no classes of "
            "the ontology; it takes the ontology of the class list that the labels come from"
        )
