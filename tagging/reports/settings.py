"""The section `compare` of a params.yaml: what the report of a task shows."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, create_model

from tagging.data.parameters import Float, Int, Section, parse

# Each is a file of tagging/reports and a key of SECTIONS in stages/compare.py.
SectionName = Literal[
    "calibration", "classes", "confident", "enhancement", "epochs", "memory", "missing_clips",
    "prevalence", "similarity",
]  # fmt: skip


class Compare(Section):
    """Entries of plots and comparisons, published results, and the sections of the page.

    `plot` names the entries with curves; gains are compared with the first of them. `reference` is
    the entry that all others are compared with if no clips validate; else validation selects it.
    `published` maps a name to `{<metric>: value, .., train_clips: .., source: ..}`.
    `published_clips` is the number of clips at which published rows are shown, or `other` where
    they are of other clips. `differences` maps an entry to the entries that change it; they are
    compared by the selection metric, and by the task's other metrics of `difference_metrics`.
    """

    plot: list[str] = Field(min_length=1)
    reference: str | None = None
    compare_with_published: list[str] = Field([])  # beside the reference
    note: str = ""  # Markdown above the leaderboard
    published: dict[str, Any] = Field({})
    published_clips: Int | Literal["other"] | None = None
    differences: dict[str, list[str]] = Field({})
    difference_metrics: list[str] = Field([])  # keys, such as map
    sections: list[SectionName] = Field([])
    # For `memory`: the path of the leaderboard.json of a task with the same models and a random
    # split. Tasks without the section name any other file: dvc.yaml has it as a dependency.
    other_leaderboard: str | None = None


class Published(Section):
    """Published results of others, next to their values of metrics."""

    train_clips: Int | None = Field(None, ge=1)
    source: str = ""


def read_published(settings: Compare, metrics: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the published results, by name.

    Raises:
        UserError: if a key is neither a metric of the task nor a field of `Published`.
    """
    fields: Any = dict.fromkeys(metrics, (Float | None, None))
    section_type = create_model("Published", __base__=Published, **fields)
    return {
        name: parse(section_type, row, f"compare.published.{name}").model_dump()
        for name, row in settings.published.items()
    }
