"""Hooks of MkDocs, which `make docs` runs.

The site has the repository's pages under their own paths, so that a link works on the site as it
does on GitHub. Besides docs/, README, the leaderboards and other Markdown pages of the repository
are pages of the site; other files that a page links to are copied. The page of the command line is
made from its parser.
"""

import argparse
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath
from tempfile import TemporaryDirectory
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

from tagging.commands.main import build_parser

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/*.md", "replication/README.md")
LEADERBOARDS = ("leaderboard/README.md", "tasks/*/leaderboard/README.md")
LINK = re.compile(
    r"\[(?P<text>[^\[\]]*)\]\((?![a-z]+:|#)(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)"
)
CODE = re.compile(r"(?ms)^```.*?^```$|`[^`\n]+`")
COMMAND_LINE = "docs/reference/cli.md"
MARK = "<!-- commands -->"
WIDTH = 100  # columns of the usage
PACKAGE = "tagging"

_copy = TemporaryDirectory()  # of the package, until the build ends


@event_priority(100)  # before mkdocstrings reads its configuration
def on_config(config: Any) -> Any:
    """Let mkdocstrings read a copy of the package, whose folders all have an `__init__.py`.

    Its parser skips folders without one. They cannot be added to the package itself, as the folders
    are dependencies of trainings.
    """
    package = Path(_copy.name, PACKAGE)
    shutil.copytree(ROOT / PACKAGE, package, dirs_exist_ok=True)
    for file in list(package.rglob("*.py")):
        (file.parent / "__init__.py").touch()
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_copy.name]
    return config


def linked_paths(page: str, text: str) -> Iterator[str]:
    """Yield the repository's paths that a page links to.

    Args:
        page: its path in the repository.
        text: its Markdown.
    """
    for link in LINK.finditer(CODE.sub("", text)):
        yield normpath(f"{Path(page).parent.as_posix()}/{link['target']}")


def resolve_links(page: str, text: str) -> str:
    """Return the Markdown of a page with links to folders as links to their README.md.

    A link to a folder without one becomes its text: the site has no list of the folder's files.
    """

    def resolve(link: re.Match[str]) -> str:
        folder = ROOT / Path(page).parent / link["target"]
        if not folder.is_dir():
            return link[0]
        if (folder / "README.md").is_file():
            target = f"{link['target'].rstrip('/')}/README.md{link['anchor'] or ''}"
            return f"[{link['text']}]({target})"
        return link["text"]

    return LINK.sub(resolve, text)


def on_files(files: Files, config: Any) -> Files:
    """Give all pages their path in the repository, and add what they link to."""
    docs = Path(config.docs_dir)
    site = Files([file for file in files if file.src_dir != config.docs_dir])
    paths = [file.abs_src_path for file in files if file.src_dir == config.docs_dir]
    paths += [str(path) for pattern in (*PAGES, *LEADERBOARDS) for path in ROOT.glob(pattern)]
    todo = [Path(path).relative_to(docs.parent).as_posix() for path in paths if path]
    added: set[str] = set()
    while todo:
        name = todo.pop()
        if name in added or not (ROOT / name).is_file():
            continue  # MkDocs reports links to files that do not exist
        added.add(name)
        site.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
        if name.endswith(".md"):
            todo += linked_paths(name, (ROOT / name).read_text(encoding="utf-8"))
    return site


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page's Markdown, as the site shows it."""
    name = page.file.src_uri
    if name == COMMAND_LINE:
        markdown = markdown.replace(MARK, render_commands(build_parser()))
    return resolve_links(name, markdown)


def render_commands(parser: argparse.ArgumentParser) -> str:
    """Return the commands of a parser, with their options, as Markdown."""
    os.environ["COLUMNS"] = str(WIDTH + 2)  # argparse's width, of which it uses two columns less
    (commands,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    return "\n".join(render_command(command) for command in commands.choices.values())


def render_command(command: argparse.ArgumentParser) -> str:
    """Return a command: usage, description and options."""
    formatter = command._get_formatter()
    formatter.add_usage(
        command.usage, command._actions, command._mutually_exclusive_groups, prefix=""
    )
    parts = [f"## {command.prog}", f"```text\n{formatter.format_help().strip()}\n```"]
    parts += render_description(command.description or "")
    parts.append("| argument | meaning |\n| --- | --- |\n" + "".join(render_options(command)))
    return "\n\n".join(parts) + "\n"


def render_description(description: str) -> Iterator[str]:
    """Yield the paragraphs of a description; indented lines are examples or lists, set as code."""
    for block in re.findall(r"(?m)(?:^ .*\n?)+|(?:^[^ \n].*\n?)+", description):
        text = block.rstrip("\n")
        yield f"```text\n{re.sub('(?m)^  ', '', text)}\n```" if text.startswith(" ") else text


def render_options(command: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a row of the table for each argument of a command."""
    formatter = command._get_formatter()
    for action in command._actions:
        if action.help == argparse.SUPPRESS:
            continue
        name = ", ".join(action.option_strings) or str(action.metavar)
        if action.option_strings and action.nargs != 0:
            name += " " + formatter._format_args(action, action.dest.upper())
        text = formatter._expand_help(action).replace("|", "\\|")
        yield f"| `{name}` | {text} |\n"
