"""`python -m tools.relock REVISION [PIPELINE ...]`: write dvc.lock for code that moves no number.

After a refactoring whose results `python -m tools.equal_results REVISION` shows to be equal, the
locks name old code, commands and parameters. `dvc commit` would need every output, and a new clone
has none. This writes the locks anew: hashes of files in git and parameters are those of the working
tree, hashes of other files are those that the locks of REVISION have for the same path. A stage or
folder may have another name then. It refuses a path without a known hash.
"""

import itertools
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from dvc.dependency import ParamsDependency
from dvc.output import Output
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta

from tagging.base.errors import UserError, entry_point

Known = dict[str, dict[str, Any]]  # a lock's entries by their paths, relative to the root


def git(*arguments: str) -> str:
    """Return what git prints."""
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def locked_hashes(revision: str) -> Known:
    """Return the hash of every path in the locks of a revision.

    Paths are relative to the pipeline's folder, or to the root if its commands run there.
    """
    known: Known = {}
    names = git("ls-tree", "-r", "--name-only", revision).splitlines()
    for lock in (Path(name) for name in names if Path(name).name == "dvc.lock"):
        content = yaml.load(git("show", f"{revision}:{lock}"), yaml.CSafeLoader)
        for stage in content["stages"].values():
            entries = [*stage.get("deps", []), *stage.get("outs", [])]
            runs_in_root = any(entry["path"].startswith(f"{lock.parent}/") for entry in entries)
            folder = Path() if runs_in_root else lock.parent
            for entry in entries:
                path = (Path.cwd() / folder / entry["path"]).resolve().relative_to(Path.cwd())
                known[str(path)] = entry
    return known


def set_hash(file: Output, known: Known, tracked: set[str]) -> None:
    """Give a dep or an output the hash of the working tree, or the known one.

    Raises:
        UserError: if the path is neither in git nor known.
    """
    path = str(Path(file.fs_path).relative_to(Path.cwd()))
    if path in tracked or any(name.startswith(f"{path}/") for name in tracked):
        file.save()
        return
    if path not in known:
        raise UserError(f"{path} has no hash in the locks of the revision; run dvc repro instead")
    entry = known[path]
    file.hash_name = "md5"
    file.hash_info = HashInfo("md5", entry["md5"])
    file.meta = Meta(size=entry.get("size"), nfiles=entry.get("nfiles"))


@entry_point
def main() -> None:
    """Write the locks of the pipelines, by default of all that have one."""
    revision, *pipelines = sys.argv[1:] or ["HEAD"]
    known = locked_hashes(revision)
    listed = git("ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    tracked = {name for name in listed if Path(name).is_file() and Path(name).name != ".gitignore"}
    with Repo() as repo:
        by_lock: dict[Path, list[PipelineStage]] = defaultdict(list)
        for stage in repo.index.stages:
            lock = Path(stage.path_in_repo).with_suffix(".lock")
            is_wanted = not pipelines or stage.path_in_repo in pipelines
            if isinstance(stage, PipelineStage) and is_wanted and lock.is_file():
                by_lock[lock].append(stage)
        for stage in itertools.chain.from_iterable(by_lock.values()):
            for file in [*stage.deps, *stage.outs]:
                if isinstance(file, ParamsDependency):
                    file.save()
                else:
                    set_hash(file, known, tracked)
        with repo.lock:
            for lock, stages in by_lock.items():
                lock.unlink()  # it may have stages under old names
                stages[0].dvcfile.dump_stages(stages, update_pipeline=False)
                print(f"{lock}: {len(stages)} stages")


if __name__ == "__main__":
    main()
