"""Typed parameters: sections of a `params.yaml`, checked against pydantic models."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tagging.base.errors import UserError

PARAMS_NAME = "params.yaml"
LOCATION_SECTIONS = ("root", "folder", "in")  # read by dvc.yaml alone
SECTIONS = (
    *LOCATION_SECTIONS, "task", "download", "convert", "prepare", "decode", "split", "features",
    "embeddings", "weights", "train", "models", "finetuned", "ensembles", "students", "evaluate",
    "review", "compare", "search", "index", "artifact", "grid", "runtime",
)  # fmt: skip
SCORED = ("models", "finetuned", "students", "ensembles")  # entries of these share one name space


def _refuse_bool(value: object) -> object:
    # Pydantic reads `true` as 1.0; nobody who writes `lr: true` means that.
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


# A float may come as the text `1e-05`: `dvc exp run -S` writes it so and YAML 1.1 reads a string.
Float = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
# Random generators and arrays take 64 bits.
Int = Annotated[int, Field(strict=True, lt=2**63)]


class Section(BaseModel):
    """A part of `params.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Runtime(Section):
    """The section `runtime`: how to run, never what to compute. No stage tracks it."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    progress: Literal["auto", "bar", "lines", "none"] = "auto"  # bars on a terminal, lines in a log


AnySection = TypeVar("AnySection", bound=Section)


class Params:
    """The content of a `params.yaml`, whose sections are checked when they are read.

    Args:
        path: of the file, as errors name it.
        content: the sections by their names.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content

    @classmethod
    def read(cls, path: Path) -> "Params":
        """Read a `params.yaml`.

        Raises:
            UserError: if the file is missing, is not a YAML mapping or has an unknown section.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path} does not exist in {Path.cwd()}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} must be a mapping of sections, got {content!r}")
        for name in content:
            if name not in SECTIONS:
                raise UserError(
                    f"{path}: section {name} is unknown; the sections are {', '.join(SECTIONS)}"
                )
        return cls(path, content)

    def section(self, section_type: type[AnySection], name: str) -> AnySection:
        """Return the section `name`.

        Raises:
            UserError: as `parse` does, or if the section is missing.
        """
        if name not in self.content:
            raise UserError(f"{self.path}: section {name} is missing")
        return self.parse(section_type, self.content[name], name)

    def runtime(self) -> Runtime:
        """Return the section `runtime`, or its defaults where it is missing."""
        return self.parse(Runtime, self.content.get("runtime", {}), "runtime")

    def entries(self, section: str) -> dict[str, Any]:
        """Return the named entries of a section such as `ensembles`; only names are checked.

        Raises:
            UserError: if the section is not a mapping, or a name is not valid or is taken.
        """
        entries = self.content.get(section, {})
        if not isinstance(entries, dict):
            raise UserError(f"{self.path}: {section} must be a mapping of names, got {entries!r}")
        for name in entries:
            # No dot: DVC would look for `models.a.b` below `models.a`.
            if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_][A-Za-z0-9_-]*", name):
                raise UserError(
                    f"{self.path}: names in {section} must be text of letters, digits, _ and - "
                    f"(not first), got {name!r}"
                )
            for other in SCORED:
                if section in SCORED and section != other and name in self.content.get(other, {}):
                    raise UserError(
                        f"{self.path}: the name {name!r} is in both {section} and {other}; rename "
                        "one of the two"
                    )
        return entries

    def models(self) -> dict[str, Any]:
        """Return the entries of `models`; only names are checked.

        Raises:
            UserError: if there is none, or as `entries` does.
        """
        if not (models := self.entries("models")):
            raise UserError(f"{self.path}: models must have at least one entry")
        return models

    def parse(self, section_type: type[AnySection], values: object, key: str) -> AnySection:
        """Check values of this file, as the function `parse` does."""
        return parse(section_type, values, key, self.path)


def parse(
    section_type: type[AnySection], values: object, key: str, file: Path | str = PARAMS_NAME
) -> AnySection:
    """Check `values` against `section_type`.

    Args:
        section_type: the expected section.
        values: a mapping, as YAML or JSON has it.
        key: the dotted key of the values, for errors.
        file: the file that contains them, for errors.

    Raises:
        UserError: naming the first wrong key, what must hold and the value.
    """
    try:
        return section_type.model_validate(values, context=key)
    except ValidationError as error:
        problems = error.errors()
    raise UserError(f"{file}: {_describe(section_type, values, key, problems)}")


def _describe(
    section_type: type[Section], values: object, key: str, problems: Sequence[Mapping[str, Any]]
) -> str:
    """Describe the first problem in one line: its key, what must hold, and the value."""
    first = problems[0]
    path = list(_data_path(values, first["loc"]))
    name = key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    fields = ", ".join(section_type.model_fields)
    if first["type"] == "missing":
        return f"{name} is missing"
    if first["type"] == "extra_forbidden":
        known = f"; {key} has {fields}" if len(path) == 1 else ""
        return f"{name} is unknown{known}"
    if first["type"] in ("model_type", "model_attributes_type"):
        mapping = f"a mapping of {fields}" if not path else "a mapping"
        return f"{name} must be {mapping}, got {first['input']!r}"
    # A union has a problem for each of its members: any of them may be satisfied.
    rules = dict.fromkeys(
        _rule(problem["msg"])
        for problem in problems
        if problem["loc"][:1] == first["loc"][:1]
        and list(_data_path(values, problem["loc"])) == path
    )
    text = " or ".join(rules).replace(" or must be ", " or ")
    return f"{name} {text}, got {first['input']!r}"


def _data_path(values: object, location: tuple[int | str, ...]) -> Iterator[int | str]:
    """Yield the keys and positions of a location, without pydantic's names of union members."""
    for part in location:
        if isinstance(values, dict) and part in values:
            values = values[part]
        elif isinstance(values, list | tuple) and part in range(len(values)):
            values = values[int(part)]
        elif not isinstance(values, dict if isinstance(part, str) else list | tuple):
            continue  # the name of a union's member, such as `constrained-float`
        yield part


def _rule(message: str) -> str:
    """Return pydantic's message as the rest of a sentence that begins with the key."""
    message = message.removeprefix("Value error, ").partition(", unable to parse")[0]
    subjects = "Input|List|Tuple|String|Dictionary|Value"
    text = re.sub(rf"^({subjects}) should ", "must ", message)
    text = re.sub(r" after validation, not .*$", "", text)
    return text if text.startswith(("must ", "comes ")) else f"is not valid: {text}"
