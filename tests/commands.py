"""Run commands, and track models with DVC for them."""

import json
import subprocess

import pytest

from tagging.commands.main import run


def run_tag(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, list[dict], str]:
    status = run(["tag", "--json", *arguments])
    streams = capsys.readouterr()
    return status, json.loads(streams.out), streams.err


def track_with_dvc(path: str) -> None:
    """Track a file or a folder with DVC, in a new repository in the working directory."""
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "add", "-q", path]):
        subprocess.run(command, check=True, capture_output=True)
