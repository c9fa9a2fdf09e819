"""Jinja2 templates of pages and model cards."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tagging.commands.prediction import format_time

FOLDER = Path(__file__).with_name("templates")


def render(template: str, **values: object) -> str:
    """Render a template of the folder `templates`; in HTML, values are escaped."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["time"] = format_time
    return environment.get_template(template).render(values)
