"""Stage `compare`: the report of a task, the leaderboard of all its entries, and the plots' data.

What follows the leaderboard is a section of `tagging/reports` each, as the task and the settings
`compare` ask.
"""

from tagging.base.errors import entry_point
from tagging.base.files import write_text
from tagging.data.clips import write_json
from tagging.reports import (
    classes,
    confusion,
    differences,
    enhancement,
    epochs,
    leaderboard,
    memory,
    missing_clips,
    prevalence,
    similarity,
    sure,
)
from tagging.reports.curves import write_curves
from tagging.reports.facts import LEADERBOARD, PLOTS, read_facts
from tagging.reports.picture import draw_leaderboard

SECTIONS = {
    "classes": classes.section,
    "enhancement": enhancement.section,
    "epochs": epochs.section,
    "memory": memory.section,
    "prevalence": prevalence.section,
    "missing_clips": missing_clips.section,
    "similarity": similarity.section,
    "sure": sure.section,
}


@entry_point
def main() -> None:
    """Run the stage."""
    facts = read_facts()
    sections = [differences.section(facts)]
    if facts.task.kind == "single_label":
        sections.append(confusion.section(facts))
    sections += [SECTIONS[name](facts) for name in facts.settings.sections]
    page = "\n".join([leaderboard.page(facts), *filter(None, sections)])
    write_text(LEADERBOARD / "README.md", page)
    write_json(LEADERBOARD / "leaderboard.json", leaderboard.as_json(facts))
    write_text(PLOTS / "leaderboard.csv", leaderboard.as_csv(facts))
    write_text(LEADERBOARD / "leaderboard.svg", draw_leaderboard(PLOTS / "leaderboard.csv"))
    write_text(PLOTS / "cost.csv", leaderboard.cost(facts))
    write_curves(facts, PLOTS)


if __name__ == "__main__":
    main()
