"""Markdown of pages from Jinja2 templates."""

from jinja2 import Environment, StrictUndefined

_ENVIRONMENT = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)


def render(template: str, **values: object) -> str:
    """Return the text of a template; a name without a value is an error."""
    return _ENVIRONMENT.from_string(template).render(values)
