"""The section `official` of params.yaml, typed, and where the benchmark's files lie."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from tagging.errors import UserError
from tagging.parameters import Float, Section, check_names, load, parse

FOLDER = Path("official")
DATA = FOLDER / "data"
MODELS = FOLDER / "models"
SCORES = FOLDER / "scores"
METRICS = FOLDER / "metrics"
BY_CLASS = FOLDER / "average_precision"
ONTOLOGY = DATA / "ontology.json"
ENHANCED = DATA / "enhanced.safetensors"
ADDED = FOLDER / "enhanced.json"  # how many labels enhancement added

Entries = dict[str, Any]
Percentile = Annotated[Float, Field(ge=0, le=100)]
ENTRIES = "a mapping of names to entries"


class Official(Section):
    """The section itself; its parts are checked by the stages that use them."""

    prepare: Entries = Field(description="a mapping like that of prepare")
    train: Entries = Field(description="a mapping of what replaces entries of train")
    models: Entries = Field(description=f"{ENTRIES} like those of models", min_length=1)
    enhance: Entries = Field(description="a mapping of teacher and threshold")
    enhanced: Entries = Field(description=f"{ENTRIES} like those of models")
    ensembles: Entries = Field(description=f"{ENTRIES} with two members or more each")
    evaluate: Entries = Field(description="a mapping of resamples and seed")
    published: Entries = Field(description=f"{ENTRIES} of other people's results")


class Enhance(Section):
    """How missing labels are found."""

    teacher: str = Field(description="the name of an entry of official.models")
    threshold: Literal["mean"] | Percentile = Field(
        description="mean, or a percentile from 0 to 100: of the teacher's scores of a class on "
        "the clips that have it"
    )


class Ensemble(Section):
    """Whose answers are averaged."""

    members: list[str] = Field(
        description="a list of two names or more of official.models and official.enhanced",
        min_length=2,
    )


class Published(Section):
    """A row of somebody else's results on the evaluation set."""

    mean_average_precision: Float = Field(description="a number from 0 to 1", ge=0, le=1)
    roc_auc: Float = Field(description="a number from 0 to 1", ge=0, le=1)
    train_clips: int = Field(description="a whole number of clips, 1 or more", ge=1)


class Trained(NamedTuple):
    """An entry that is trained: where it stands in params.yaml, and what stands there."""

    section: str
    entry: Any

    @property
    def enhanced(self) -> bool:
        """Whether it learns the enhanced labels."""
        return self.section == "enhanced"


def read_official() -> Official:
    """Read the section `official`.

    Raises:
        UserError: if it is not as it should be, or two entries have one name: files are named so.
    """
    official = load(Official, "official")
    seen: dict[str, str] = {}
    for section in ("models", "enhanced", "ensembles"):
        entries = getattr(official, section)
        check_names(f"official.{section}", entries)
        for name in entries:
            if name in seen:
                raise UserError(
                    f"params.yaml: official.{seen[name]} and official.{section} both have the "
                    f"name {name!r}; one takes another name"
                )
            seen[name] = section
    return official


def find_trained(official: Official, name: str) -> Trained:
    """Return the entry `name` of `models` or `enhanced`.

    Raises:
        UserError: if there is none.
    """
    for section in ("models", "enhanced"):
        if name in (entries := getattr(official, section)):
            return Trained(section, entries[name])
    there = ", ".join([*official.models, *official.enhanced])
    raise UserError(
        f"params.yaml: official.models.{name} is missing; official.models and official.enhanced "
        f"have {there}"
    )


def read_ensemble(official: Official, name: str) -> list[str]:
    """Return the members of the ensemble `name`.

    Raises:
        UserError: if there is no such ensemble, or a member is not trained.
    """
    if name not in official.ensembles:
        there = ", ".join(official.ensembles) or "none"
        raise UserError(
            f"params.yaml: official.ensembles.{name} is missing; the ensembles there: {there}"
        )
    key = f"official.ensembles.{name}"
    members = parse(Ensemble, official.ensembles[name], key).members
    for member in members:
        if member not in official.models | official.enhanced:
            there = ", ".join([*official.models, *official.enhanced])
            raise UserError(f"params.yaml: {key}.members has {member!r}; it takes some of {there}")
    return members


def scores_path(kind: str, name: str) -> Path:
    """Return where the scores of one of `models` (enhanced ones too) or `ensembles` lie."""
    return SCORES / kind / f"{name}.safetensors"
