"""What the README says can be done is done here as it says."""

import re

import yaml

from tests.project import ROOT, Project


def blocks(section: str, language: str) -> list[str]:
    """Return the README's code of a language after a heading."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    after = text[text.index(f"## {section}") :]
    return re.findall(rf"```{language}\n(.*?)```", after, re.DOTALL)


def test_an_architecture_is_one_file_and_one_entry(project: Project) -> None:
    code, entry = blocks("Adding something", "python")[0], blocks("Adding something", "yaml")[0]
    models = yaml.safe_load(entry)["models"]
    (name,) = models
    file = project.root / f"tagging/architectures/{models[name]['architecture']}.py"
    assert not file.exists()
    file.write_text(code)
    params = project.params()
    params["models"] |= models
    params["prepare"]["seconds"] = "any"
    for yac in ("yac", "yac_published"):  # takes clips of one length only
        del params["models"][yac]
    params["ensembles"] = {"of_models": {"members": ["attention", name]}}
    params["students"] = {}
    params["compare"]["plotted"] = [name]
    project.write_params(params)
    assert {f"train@{name}", f"evaluate@{name}", "compare"} <= project.repro()
    assert name in (project.root / "leaderboard/README.md").read_text()
