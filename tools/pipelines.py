"""`python -m tools.pipelines`: write each dvc.yaml from the files of `pipelines/`.

A task's dvc.yaml is a copy of `recordings.yaml` if its params.yaml has the section `decode`, or
else of `audioset.yaml`. The root's has the stages of `archive.yaml` before those of
`audioset.yaml`. They are copies because DVC cannot read a symbolic link in a git revision.
"""

from pathlib import Path

import yaml

from tagging.base.files import write_text

ROOT = Path(__file__).parents[1]


def pipeline_texts(root: Path = ROOT) -> dict[Path, str]:
    """Return the text of each dvc.yaml by its path."""
    names = ("archive", "audioset", "recordings")
    archive, audioset, recordings = (
        (root / "pipelines" / f"{name}.yaml").read_text(encoding="utf-8") for name in names
    )
    stages = archive.partition("stages:\n")[2]
    texts = {root / "dvc.yaml": audioset.replace("stages:\n", f"stages:\n{stages}", 1)}
    for file in sorted(root.glob("tasks/*/params.yaml")):
        params = yaml.safe_load(file.read_text(encoding="utf-8"))
        texts[file.with_name("dvc.yaml")] = recordings if "decode" in params else audioset
    return texts


if __name__ == "__main__":
    for path, text in pipeline_texts().items():
        write_text(path, text)
