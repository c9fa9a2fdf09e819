"""The section `compare` of params.yaml: what the report of a task shows."""

from collections.abc import Iterable
from typing import Any, Literal, get_args

from pydantic import Field, create_model

from tagging.parameters import Float, Int, Section, parse

# Each is a file of tagging/reports, and an entry in stages/compare.py.
PageSection = Literal[
    "classes", "enhancement", "epochs", "memory", "missing_clips", "prevalence",
    "similarity", "sure",
]  # fmt: skip


class Compare(Section):
    """What stands beside the entries, what is drawn, and which sections follow the leaderboard."""

    plotted: list[str] = Field(
        description="a list of one name or more of models, students or ensembles; the best entry "
        "is compared with the first",
        min_length=1,
    )
    chosen: str | None = Field(
        None, description="the name of the entry to compare others with where nothing validates"
    )
    beside_published: list[str] = Field(
        [],
        description="a list of names of entries that are set beside the published rows as well as "
        "the chosen one",
    )
    note: str = Field(
        "", description="text that stands above the leaderboard: what its reader has to know"
    )
    published: dict[str, Any] = Field(
        {}, description="a mapping of names to {metric: value, .., train_clips: .., source: ..}"
    )
    published_clips: Int | Literal["other"] | None = Field(
        None,
        description="the number of prepared clips with which the published rows are shown, or "
        "other (they are of other clips, and are not compared)",
    )
    differences: dict[str, list[str]] = Field(
        {}, description="a mapping of names of entries, each to a list of others compared with it"
    )
    sections: list[PageSection] = Field(
        [], description=f"a list of {', '.join(get_args(PageSection))}"
    )
    at_random: str | None = Field(
        None,
        description="the path of the leaderboard.json of a task with the same models, whose split "
        "is random (of the section memory)",
    )


class Published(Section):
    """Somebody else's results, beside their values of metrics."""

    train_clips: Int | None = Field(None, description="a number of clips", ge=1)
    source: str = Field("", description="text: where the numbers stand")


def read_published(settings: Compare, metrics: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the published results, by name.

    Raises:
        UserError: if one has something that is neither a metric of the task nor of `Published`.
    """
    fields: Any = {name: (Float | None, Field(None, description="a number")) for name in metrics}
    kind = create_model("Published", __base__=Published, **fields)
    return {
        name: parse(kind, row, f"compare.published.{name}").model_dump()
        for name, row in settings.published.items()
    }
