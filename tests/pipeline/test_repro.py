"""`make repro`: stages in parallel, to the bytes of `dvc repro`; it resumes after any end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import networkx as nx
import psutil
import pytest

from tagging.base.errors import UserError
from tests.preloaded import command_of
from tests.project import ROOT, Project, stages_run
from tools.repro import (
    NOTHING_TO_DO,
    Lists,
    Plan,
    Repository,
    longest_first,
    make_chains,
    number_of_jobs,
)

COMMAND = (sys.executable, "-m", "tools.repro")
# Seconds that stages wait for one another: more than a busy machine needs to start both.
PATIENCE = 120

# Waits in a stage until a file exists, and fails if it never does.
WAIT = f"n=0; until [ -e $0 ]; do sleep 0.1; n=$((n+1)); [ $n -lt {PATIENCE * 10} ] || exit 9; done"


def wait_for(file: str) -> str:
    """Return a command that waits until another stage has made a file."""
    return f"sh -c '{WAIT}' {file}"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, python_folder: Path) -> Path:
    project = Project(tmp_path_factory.mktemp("empty"), Path(), python_folder)
    project.git("init", "--quiet")
    project.dvc("init", "--quiet")
    # A cache of its own: no result of another test is reused.
    project.dvc("config", "--quiet", "cache.dir", "cache")
    # DVC starts no processes that outlive it.
    project.dvc("config", "--quiet", "core.analytics", "false")
    project.dvc("config", "--quiet", "core.check_update", "false")
    (project.root / ".gitignore").write_text("/seen*\n/.dvc/cache\n")
    return project.root


class Pipeline(Project):
    """A small pipeline of shell commands, brought up to date by `make repro`."""

    def write(self, **stages: dict) -> None:
        # JSON is YAML.
        (self.root / "dvc.yaml").write_text(json.dumps({"stages": stages}))
        self.commit()

    def environment(self) -> dict[str, str]:
        return super().environment() | {
            "PYTHONPATH": str(ROOT), "JOBS": "2", "TAGGING_WORKERS": "",
        }  # fmt: skip

    def in_parallel(self, *targets: str, **environment: str) -> str:
        command = command_of("tools.repro", self.python_folder)
        return self.run(*command, *targets, **environment).stdout

    def begun(self, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            COMMAND, cwd=self.root, env=self.environment() | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def until(self, *files: str) -> None:
        """Wait until stages made these files."""
        for _ in range(PATIENCE * 20):
            if all((self.root / file).exists() for file in files):
                return
            time.sleep(0.05)
        raise AssertionError(f"{files} were never made")

    def process(self, file: str) -> psutil.Process:
        """Return the process that wrote its number to a file."""
        return psutil.Process(int((self.root / file).read_text()))

    def files(self) -> dict[str, bytes]:
        """Return all files of git and DVC, and .gitignore."""
        names = self.git("ls-files", "--cached", "--others", "-z").split("\0")
        kept = [name for name in names if name and not name.startswith((".dvc/", "cache/", "seen"))]
        return {name: (self.root / name).read_bytes() for name in sorted(kept)}


@pytest.fixture
def pipeline(empty: Path, tmp_path: Path, python_folder: Path) -> Pipeline:
    return Pipeline.copied(empty, tmp_path / "project", Path(), python_folder)


def stage(cmd: str, *deps: str, outs: tuple[str, ...] = (), **fields) -> dict:
    return {"cmd": cmd, "deps": list(deps), "outs": list(outs), **fields}


def endless(name: str) -> dict:
    """Return a stage that never ends, and whose start a test can see."""
    return stage(f"echo $$ > seen_{name}; exec sleep 10000", "source", outs=(name,))


def test_the_result_has_the_bytes_of_dvc_repro(pipeline: Pipeline, tmp_path: Path):
    (pipeline.root / "source").write_text("7\n")
    models = ["b", "a"]
    pipeline.write(
        start=stage("cp source start", "source", outs=("start",)),
        # The first is ready last: entries are sorted otherwise than they were written.
        train={
            "foreach": models,
            "do": stage(
                "[ ${item} != b ] || sleep 1; cat start > model_${item}; echo ${item} >> "
                "model_${item}",
                "start",
                outs=("model_${item}",),
            ),
        },
        score={
            "matrix": {"model": models, "split": ["x"]},
            **stage(
                "mkdir -p scores; echo ${item.split} | cat - model_${item.model} > "
                "scores/${item.model}_${item.split}",
                "model_${item.model}",
                outs=("scores/${item.model}_${item.split}",),
            ),
        },
        # A folder with its .gitignore.
        compare=stage("cat scores/* > board", "scores", outs=("board",)),
    )
    below = pipeline.root / "tasks/below"
    below.mkdir(parents=True)
    stages = {
        "own": stage("cat ../../model_a > own", "../../model_a", outs=("own",)),
        "both": stage("cat own ../../board > both", "own", "../../board", outs=("both",)),
    }
    (below / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    pipeline.commit()
    plain = Pipeline.copied(pipeline.root, tmp_path / "plain", Path(), pipeline.python_folder)

    def both(expected: set[str], *targets: str) -> None:
        assert stages_run(plain.dvc("repro", *targets)) == expected
        assert stages_run(pipeline.in_parallel(*targets, JOBS="4")) == expected
        assert pipeline.files() == plain.files()

    scores = {f"score@{model}-x" for model in models}
    trainings = {f"train@{model}" for model in models}
    both({"start", "train@a"}, "train@a")
    both({"train@b", *scores, "compare"})
    both({"tasks/below/dvc.yaml:own", "tasks/below/dvc.yaml:both"}, "tasks/below/dvc.yaml")
    assert pipeline.in_parallel() == f"{NOTHING_TO_DO}\n"
    assert pipeline.dvc("status") == plain.dvc("status")

    # In the folder itself: names of stages in another folder begin with its path.
    for project in (pipeline, plain):
        project.commit()
        (project.root / "source").write_text("8\n")
    plain.run("dvc", "repro", folder="tasks/below")
    ran = pipeline.run(*COMMAND, folder="tasks/below").stdout
    assert stages_run(ran) == {
        *(f"../../dvc.yaml:{name}" for name in ("start", *trainings, *scores, "compare")),
        "own", "both",
    }  # fmt: skip
    assert pipeline.files() == plain.files()


def test_stages_run_in_parallel(pipeline: Pipeline):
    (pipeline.root / "source").write_text("7\n")
    pipeline.write(
        a=stage(f"touch seen_a; {wait_for('seen_b')}; echo $TAGGING_WORKERS > a", outs=("a",)),
        b=stage(f"touch seen_b; {wait_for('seen_a')}; echo $OMP_WAIT_POLICY > b", outs=("b",)),
        c=stage("echo > c; echo line; echo last >&2", outs=("c",)),
    )
    shown = pipeline.in_parallel()
    assert (pipeline.root / "a").read_text() == "1\n"
    assert (pipeline.root / "b").read_text() == os.environ["OMP_WAIT_POLICY"] + "\n"
    assert {"c | line", "c | last"} <= set(shown.splitlines())
    assert shown.endswith("Use `dvc push` to send your updates to remote storage.\n")
    assert "\tgit add .gitignore dvc.lock\n" in shown


def test_with_one_job_it_is_dvc_repro(pipeline: Pipeline):
    alone = 'mkdir seen && sleep 0.3 && rmdir seen && echo "$TAGGING_WORKERS" > '
    pipeline.write(**{name: stage(alone + name, outs=(name,)) for name in "ab"})
    shown = pipeline.in_parallel(JOBS="1")
    assert stages_run(shown) == {"a", "b"}
    assert " | " not in shown
    assert (pipeline.root / "a").read_text() == "1\n"
    assert "didn't change, skipping" in pipeline.in_parallel(JOBS="1")


def test_a_failing_stage_ends_all_and_finished_stages_are_recorded(pipeline: Pipeline):
    (pipeline.root / "source").write_text("7\n")
    pipeline.write(
        good=stage("cp source good; touch seen_good", "source", outs=("good",)),
        bad=stage(
            f"{wait_for('seen_endless')}; echo a bad day; [ -e seen_mended ]", "good", outs=("bad",)
        ),
        endless=stage(
            "[ -e seen_mended ] || { echo $$ > seen_endless; exec sleep 10000; }; cp source end",
            "source",
            outs=("end",),
        ),
        last=stage("cat bad end > last", "bad", "end", outs=("last",)),
    )
    shown = pipeline.fails(*COMMAND)
    assert "bad | a bad day\n" in shown
    assert "bad | ERROR: failed to reproduce 'bad'" in shown
    assert shown.splitlines()[-1].startswith("error: bad failed, see above; ")
    with pytest.raises(psutil.NoSuchProcess):
        pipeline.process("seen_endless")
    (pipeline.root / "seen_mended").touch()
    (pipeline.root / "dvc.yaml").write_text(
        (pipeline.root / "dvc.yaml").read_text().replace("; [ -e seen_mended ]", "; echo > bad")
    )
    assert stages_run(pipeline.in_parallel()) == {"bad", "endless", "last"}


@pytest.mark.parametrize(
    ("number", "jobs", "code"),
    [(signal.SIGINT, "2", 130), (signal.SIGTERM, "2", 143), (signal.SIGINT, "1", 130)],
)
def test_an_interrupt_ends_all_stages(
    pipeline: Pipeline, number: signal.Signals, jobs: str, code: int
):
    (pipeline.root / "source").write_text("7\n")
    pipeline.write(a=endless("a"), b=endless("b"))
    awaited = ("seen_a", "seen_b")[: int(jobs)]
    with pipeline.begun(JOBS=jobs) as call:
        pipeline.until(*awaited)
        stages = [pipeline.process(file) for file in awaited]
        call.send_signal(number)
        shown, _ = call.communicate()
    assert call.returncode == code, shown
    assert "Traceback" not in shown
    assert not any(process.is_running() for process in stages)
    # No lock remains.
    (pipeline.root / "dvc.yaml").write_text('{"stages": {}}')
    pipeline.dvc("repro")


def test_the_stages_of_a_killed_call_end_and_the_next_call_continues(pipeline: Pipeline):
    (pipeline.root / "source").write_text("7\n")
    pipeline.write(
        a=stage("cp source a; touch seen", "source", outs=("a",)),
        b=stage(
            "[ -e seen_second ] || { echo $$ > seen_b; exec sleep 10000; }; cp source b",
            "source",
            outs=("b",),
        ),
        c=stage(f"touch seen_c; {wait_for('seen_second')}; cp a c", "a", outs=("c",)),
    )
    with pipeline.begun() as call:
        pipeline.until("seen_b", "seen_c")
        stage_b = pipeline.process("seen_b")
        call.kill()
    (pipeline.root / "seen_second").touch()
    # Started at once, it waits for the end of all processes of the first.
    shown = pipeline.in_parallel()
    assert not stage_b.is_running()
    assert {"b"} <= stages_run(shown) <= {"b", "c"}
    assert pipeline.in_parallel() == f"{NOTHING_TO_DO}\n"


def test_an_incomplete_list_of_files_in_use_is_removed(pipeline: Pipeline):
    pipeline.write(a=stage("echo > a", outs=("a",)))
    (pipeline.root / ".dvc/tmp").mkdir(exist_ok=True)
    (pipeline.root / ".dvc/tmp/rwlock").write_text('{"read": {')
    assert stages_run(pipeline.in_parallel()) == {"a"}


def test_wrong_arguments_are_refused(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    pipeline.write(a=stage("echo > a", outs=("a",)))
    assert "Stage 'nothing' not found" in pipeline.fails(*COMMAND, "nothing")
    for jobs in ("0", "two", "-1"):
        monkeypatch.setenv("JOBS", jobs)
        with pytest.raises(UserError, match="JOBS must be a number of processes from 1 to"):
            number_of_jobs()
    monkeypatch.delenv("JOBS")
    assert number_of_jobs() >= 1
    with pytest.raises(UserError, match="must be in a DVC repository"):
        Repository(tmp_path)


def test_a_chain_has_stages_that_can_only_run_one_after_another():
    edges = ["da", "db", "ax", "bx", "ay", "by", "yz", "dx", "az"]  # the last two follow anyway
    plan = Plan(list("dabxyz"), nx.DiGraph([tuple(edge) for edge in edges]))
    chains = make_chains(plan, set())
    assert set(chains) == {("d",), ("a",), ("b",), ("x",), ("y", "z")}
    assert set(chains.edges) == {
        (("d",), ("a",)), (("d",), ("b",)), (("a",), ("x",)), (("b",), ("x",)),
        (("a",), ("y", "z")), (("b",), ("y", "z")),
    }  # fmt: skip
    assert ("y",) in make_chains(plan, {"y"})
    assert ("y", "z") in make_chains(plan, {"z"})


def test_the_chain_that_most_stages_follow_starts_first():
    graph = nx.DiGraph(["ab", "bc", "bd", "ec", "ed"])
    graph.add_nodes_from("f")
    assert longest_first(make_chains(Plan(list("feabcd"), graph), set())) == [
        ("a", "b"), ("e",), ("f",), ("c",), ("d",),
    ]  # fmt: skip


LOCK = """\
schema: '2.0'
stages:
  {}:
    cmd: x
  {}:
    cmd: x
    outs:
    - path: out_{}
      md5: 0
  {}:
    cmd: x
    outs:
    - path: out_{}
      md5: 0
"""


def test_new_stages_are_sorted_after_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path("dvc.lock").write_text("schema: '2.0'\nstages:\n  z:\n    cmd: x\n")
    Path(".gitignore").write_text("/mine\n")
    Path(".dvc").mkdir()
    Lists(Repository(tmp_path), ["a@1", "b", "z"])  # of a killed call
    Path("dvc.lock").write_text(LOCK.format("z", "b", "b", "a@1", "a"))
    Path(".gitignore").write_text("/mine\n/out_b\n/out_a\n")
    lists = Lists(Repository(tmp_path), ["a@1", "b", "z"])
    lists.order()
    assert Path("dvc.lock").read_text() == LOCK.format("z", "a@1", "a", "b", "b")
    assert Path(".gitignore").read_text() == "/mine\n/out_a\n/out_b\n"
    lists.forget()
    Lists(Repository(tmp_path), ["b", "a@1"]).order()
    assert Path("dvc.lock").read_text() == LOCK.format("z", "a@1", "a", "b", "b")


def test_outputs_of_a_stage_that_runs_in_a_folder_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its paths in dvc.lock are relative to its `wdir`, which dvc.lock does not have."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path(".dvc").mkdir()
    below = Path("tasks/below")
    below.mkdir(parents=True)
    (below / "dvc.lock").write_text("schema: '2.0'\nstages:\n  z:\n    cmd: x\n")
    (below / ".gitignore").write_text("/mine\n")
    order = [f"{below}/dvc.yaml:{name}" for name in ("a@1", "b", "z")]
    lists = Lists(Repository(tmp_path), order)
    lock = LOCK.format("z", "b", "b", "a@1", "a").replace("path: ", f"path: {below}/")
    (below / "dvc.lock").write_text(lock)
    (below / ".gitignore").write_text("/mine\n/out_b\n/out_a\n")
    for name in "ab":
        (below / f"out_{name}").touch()
    lists.order()
    assert (below / ".gitignore").read_text() == "/mine\n/out_a\n/out_b\n"
