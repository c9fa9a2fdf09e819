"""Stage `compare`: the page of a task, the leaderboard of all entries, and the data of the plots.

The sections after the leaderboard are modules of `tagging/reports`; `compare.sections` names them.
"""

import sys
from pathlib import Path

from tagging.base.errors import entry_point
from tagging.base.files import write_text
from tagging.data.clips import write_json
from tagging.data.task_folder import TaskFolder
from tagging.reports import (
    calibration,
    classes,
    confident,
    confusion,
    differences,
    enhancement,
    epochs,
    memory,
    missing_clips,
    prevalence,
    similarity,
)
from tagging.reports.charts import leaderboard_svg
from tagging.reports.context import ReportSection, read_context
from tagging.reports.curves import write_curves
from tagging.reports.leaderboard import (
    cost_csv,
    leaderboard_csv,
    leaderboard_json,
    leaderboard_page,
)
from tagging.reports.settings import SectionName

SECTIONS: dict[SectionName, ReportSection] = {
    "calibration": calibration.section,
    "classes": classes.section,
    "confident": confident.section,
    "enhancement": enhancement.section,
    "epochs": epochs.section,
    "memory": memory.section,
    "missing_clips": missing_clips.section,
    "prevalence": prevalence.section,
    "similarity": similarity.section,
}


@entry_point
def main(folder: str) -> None:
    """Run the stage for the task in `folder`."""
    context = read_context(TaskFolder(Path(folder)))
    sections: list[ReportSection] = [differences.section]
    if context.task.type == "single_label":
        sections.append(confusion.section)
    sections += [SECTIONS[name] for name in context.settings.sections]
    parts = [leaderboard_page(context), *(section(context) for section in sections)]
    page, plots = context.folder.leaderboard, context.folder.comparison_plots
    write_text(page / "README.md", "\n".join(filter(None, parts)))
    write_json(page / "leaderboard.json", leaderboard_json(context))
    write_text(plots / "leaderboard.csv", leaderboard_csv(context))
    write_text(page / "leaderboard.svg", leaderboard_svg(plots / "leaderboard.csv"))
    write_text(plots / "cost.csv", cost_csv(context))
    write_curves(context, plots)


if __name__ == "__main__":
    main(*sys.argv[1:])
