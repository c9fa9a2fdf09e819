"""Typed parameters: each section of `params.yaml` is read, checked and refused in one sentence."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tagging.base.errors import UserError

PARAMS_FILE = Path("params.yaml")
SECTIONS = (
    "task", "download", "convert", "prepare", "decode", "protocol", "features", "embeddings",
    "weights", "train", "models", "ensembles", "students", "evaluate", "compare", "index", "grid",
    "run",
)  # fmt: skip
SCORED = ("models", "students", "ensembles")  # what has a file in metrics/, of the entry's name


def _refuse_bool(value: object) -> object:
    # Pydantic takes `true` for 1.0; nobody who writes `lr: true` means that.
    if isinstance(value, bool):
        raise ValueError("a truth value is no number")
    return value


# A float may come as the text `1e-05`: `dvc exp run -S` writes it so and YAML 1.1 reads a string.
Float = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
# Random generators and arrays take 64 bits.
Int = Annotated[int, Field(strict=True, lt=2**63)]


class Section(BaseModel):
    """A part of `params.yaml`. The description of each field completes "it takes ..."."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(Section):
    """The section `run`: how to run, never what to compute. No stage tracks it."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(description="auto, cpu, cuda or mps")
    progress: Literal["auto", "bar", "lines", "none"] = Field(
        description="auto (bars on a terminal, lines in a log), bar, lines or none"
    )


AnySection = TypeVar("AnySection", bound=Section)


def read_params(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """Read `params.yaml` as plain data, refusing sections that no stage knows.

    Raises:
        UserError: if the file is missing, is no YAML mapping or has an unknown section.
    """
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is not in {Path.cwd()}; run in the project's root or in the folder of a task"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(params, dict):
        raise UserError(f"{path} holds {params!r}; it takes the sections {', '.join(SECTIONS)}")
    for name in params:
        if name not in SECTIONS:
            raise UserError(f"{path}: {name} is unknown; the sections are {', '.join(SECTIONS)}")
    return params


def read_models() -> dict[str, Any]:
    """Read the entries of `models`; only their names are checked.

    Raises:
        UserError: if there is no entry, or as `read_entries` does.
    """
    models = read_entries("models")
    if not models:
        raise UserError(
            f"{PARAMS_FILE}: models is {models!r}; it takes one name or more, each with a mapping "
            "of architecture, network and, if need be, train"
        )
    return models


def read_entries(section: str) -> dict[str, Any]:
    """Read a section of named entries, such as `ensembles`; only the names are checked.

    Raises:
        UserError: if it is no mapping, or a name is none for a file, or is taken.
    """
    params = read_params()
    entries = params.get(section)
    if not isinstance(entries, dict):
        raise UserError(f"{PARAMS_FILE}: {section} is {entries!r}; it takes a mapping of names")
    check_names(section, entries)
    for name in entries:
        for other in SCORED:
            if section in SCORED and section != other and name in (params.get(other) or {}):
                raise UserError(
                    f"{PARAMS_FILE}: {section} and {other} both have the name {name!r}; one takes "
                    "another name"
                )
    return entries


def check_names(section: str, entries: dict[str, Any]) -> None:
    """Refuse names of entries that cannot be names of files.

    Raises:
        UserError: naming the first.
    """
    for name in entries:
        # No dot: DVC would look for `models.a.b` under `models.a`.
        if not re.fullmatch("[A-Za-z0-9_][A-Za-z0-9_-]*", str(name)) or not isinstance(name, str):
            raise UserError(
                f"{PARAMS_FILE}: {section} has the name {name!r}; it takes letters, digits, _ and "
                "- (not first), and is text"
            )
        if name == "data":
            raise UserError(
                f"{PARAMS_FILE}: {section} has the name 'data', but metrics/data.json is a file "
                "of the stage prepare; it takes another name"
            )


def parse(kind: type[AnySection], values: object, name: str) -> AnySection:
    """Check `values` against `kind`; `name` is the dotted key they stand under.

    Raises:
        UserError: naming the first wrong key, what it got and what it takes.
    """
    try:
        return kind.model_validate(values, context=name)
    except ValidationError as error:
        problem = error.errors()[0]
    key = ".".join([name, *(str(part) for part in problem["loc"])])
    if problem["type"] == "extra_forbidden":
        takes = ", ".join(kind.model_fields)
        raise UserError(f"{PARAMS_FILE}: {key} is unknown; {name} takes {takes}")
    if problem["type"] in ("model_type", "model_attributes_type"):
        takes = f"a mapping of {', '.join(kind.model_fields)}"
    else:
        takes = kind.model_fields[str(problem["loc"][0])].description
    if problem["type"] == "missing" and len(problem["loc"]) == 1:
        raise UserError(f"{PARAMS_FILE}: {key} is missing; it takes {takes}")
    # Where a list's item is wrong, the whole list is shown: its position alone says little.
    got, shown = values, name
    for part in problem["loc"][:1]:
        got, shown = got[part], f"{name}.{part}"
    raise UserError(f"{PARAMS_FILE}: {shown} is {got!r}; it takes {takes}")


def load(kind: type[AnySection], name: str) -> AnySection:
    """Read the section `name` of `params.yaml` as `kind`.

    Raises:
        UserError: as `read_params` and `parse` do, or if the section is missing.
    """
    params = read_params()
    if name not in params:
        raise UserError(f"{PARAMS_FILE}: the section {name} is missing")
    return parse(kind, params[name], name)
