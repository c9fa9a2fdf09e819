"""Show that a change of the code moves no number: `python -m tools.equal_results REVISION`.

Small tasks, whose params.yaml are the files of `tools/equal_results/`, run on generated data with
the code and the parameters of this checkout, and with those of another revision. The hashes of all
tensors and metrics are compared: a difference in the last bit counts; metadata and the keys of
metrics do not.

`python -m tools.equal_results fingerprint OUT.json` writes the hashes of this checkout alone.
"""

import csv
import gc
import hashlib
import importlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import yaml

ROOT = Path(__file__).parents[1]
PARAMETERS = Path(__file__).with_suffix("")
STAGES = ("convert", "decode", "ensemble", "evaluate", "features", "prepare", "train", "weights")
# Imported once: a stage that imports them itself takes seconds.
LIBRARIES = (
    "dulwich.repo", "dvc.repo", "pygit2", "pytorch_metric_learning.losses", "scipy.stats",
    "sklearn.metrics", "sklearn.model_selection", "soundfile", "torch._dynamo",
)  # fmt: skip
# The order of a sum depends on the number of threads. Weights are random, with no known SHA-256.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TAGGING_WORKERS": "1",
    "TAGGING_ALLOW_UNVERIFIED": "mn01_as",
}
WORKERS = 2
AUDIOSET_CLIPS = {"bal_train": 160, "eval": 80}
SHORT_PERCENT = 60  # of these clips
INSTRUMENTS = 3  # of each class of sounds
LOG = "log.txt"  # the output of the stages of a task
# Entries with the first prefix are killed and resumed, and compared with those of the second.
KILLED, UNINTERRUPTED = "killed_", "uninterrupted_"
TWO_PROCESSES = "two_processes"  # the entry that torchrun trains
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def hash_tensors(path: Path) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and bytes of a safetensors file's tensors."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = json.loads(content[8:start])
    tensors.pop("__metadata__", None)
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        first, last = tensor["data_offsets"]
        digest.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
        digest.update(content[start + first : start + last])
    return digest.hexdigest()


def hash_numbers(path: Path) -> str:
    """Return the SHA-256 of the numbers of an evaluation, sorted, whatever their keys are.

    Confidence and calibration are left out: they are metadata of models, fitted after training.
    """
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    evaluation.pop("thresholds", None)
    for key in ("confident", "calibration"):
        evaluation["test"].pop(key, None)
    numbers = sorted(list_numbers(evaluation))
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()


def list_numbers(value: Any) -> Iterator[float]:
    """Yield the numbers in nested lists and mappings."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from list_numbers(item)
    elif isinstance(value, int | float):
        yield float(value)


def hash_outputs(root: Path, task: str) -> dict[str, str]:
    """Return the hash of each result of a task, by names that depend on no folder of the task."""
    hash_functions: dict[str, Callable[[Path], str]] = {
        ".safetensors": hash_tensors,
        ".json": hash_numbers,
        ".npy": lambda path: hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    patterns = {
        "data": ("clips", "clips.safetensors"),
        "data/features": ("features", "**/*.npy"),
        "models": ("train", "*/*.safetensors"),
        "evaluation": ("metrics", "*.json"),
    }
    for section in ("models", "students", "ensembles"):
        patterns[f"data/scores/{section}"] = ("scores", "*.safetensors")
        patterns[f"data/scores/resampled/{section}"] = ("resampled", "*.npy")
    return {
        f"{kind}/{task}/{path.relative_to(root / task / base).with_suffix('')}": (
            hash_functions[path.suffix](path)
        )
        for base, (kind, pattern) in patterns.items()
        for path in (root / task / base).glob(pattern)
    }


def write_sources(root: Path) -> None:
    """Write the generated data, random weights, and the parameters of the root and all tasks."""
    import torch

    from tagging.sources import sounds
    from tagging.sources.audioset import sample
    from tagging.sources.weights import find_published
    from tests.published import as_efficientat, built

    root_params = {"convert": {"subsets": list(AUDIOSET_CLIPS)}, "runtime": {"progress": "none"}}
    (root / "params.yaml").write_text(yaml.safe_dump(root_params), encoding="utf-8")
    data = root / "data"
    with patch.object(sample, "_SHORT_PERCENT", SHORT_PERCENT):
        archive, labels = data / "features.tar.gz", data / "class_labels_indices.csv"
        sample.write_sample(archive, labels, AUDIOSET_CLIPS)
    (data / "ontology.json").write_text(sample.ontology_json(), encoding="utf-8")

    (data / "sounds/audio").mkdir(parents=True)
    files = sounds.sample_files()
    reader = csv.DictReader(io.StringIO(files["clips.csv"].decode()))
    with (data / "sounds/clips.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, [*(reader.fieldnames or ()), "split"])
        writer.writeheader()
        for row in reader:
            if (instrument := int(row["group"].rpartition("_")[2])) < INSTRUMENTS:
                split = ("train", "val", "test")[instrument % 3]
                writer.writerow({**row, "split": split})
                (data / "sounds" / row["file"]).write_bytes(files[row["file"]])

    os.environ["DOWNLOAD_MIRROR"] = str(root / "mirror")
    for task in list_tasks():
        (root / task).mkdir()
        params = read_params(task)
        (root / task / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        for name in params.get("weights", []):
            published = find_published(name)
            path = root / "mirror" / published.address.partition("://")[2]
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.manual_seed(0)
            torch.save(as_efficientat(built(published)), path)


def list_tasks() -> list[str]:
    """Return the names of all tasks, the longest parameters first: these take longest to run."""
    paths = sorted(PARAMETERS.glob("*.yaml"), key=lambda path: (-path.stat().st_size, path))
    return [path.stem for path in paths]


def read_params(task: str) -> dict[str, Any]:
    """Read the parameters of a task; training clips are scored by all entries."""
    params = yaml.safe_load((PARAMETERS / f"{task}.yaml").read_text(encoding="utf-8"))
    for section in ("models", "finetuned", "students"):
        for entry in params.get(section, {}).values():
            entry["score_train"] = True
    return params


def run_stage(root: Path, task: str, stage: str, *arguments: str) -> None:
    """Run a stage of a task in this process, which is a fork of its own."""
    with (root / task / LOG).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(root)
    # The parser in C: the one in Python takes a third of a small stage.
    yaml.safe_load = partial(yaml.load, Loader=yaml.CSafeLoader)
    importlib.import_module(f"stages.{stage}").main(task, *arguments)


def call_stage(root: Path, task: str, stage: str, *arguments: str, killed: bool = False) -> None:
    """Run a stage in a fork of this process, which has loaded PyTorch already.

    With `killed` it is killed as soon as an epoch is saved.

    Raises:
        RuntimeError: if it fails, or ends before it is killed.
    """
    context = multiprocessing.get_context("fork")
    process = context.Process(target=run_stage, args=(root, task, stage, *arguments))
    process.start()
    saved = f".resume/{'-'.join((*arguments, '*'))}/state.safetensors"
    while killed and process.is_alive() and not any((root / task).glob(saved)):
        time.sleep(0.001)
    if killed:
        process.kill()
    process.join()
    if process.exitcode != (-9 if killed else 0):
        log = root / task / LOG
        output = log.read_text(encoding="utf-8")[-4000:] if log.exists() else ""
        call = " ".join((stage, task, *arguments))
        raise RuntimeError(f"{call} ended with exit code {process.exitcode}\n{output}")


def run_task(root: Path, task: str) -> dict[str, str]:
    """Run all stages of a task; return the hash of each result."""
    started = time.perf_counter()
    params = read_params(task)
    call = partial(call_stage, root, task)
    for stage in ("prepare", "decode"):
        if stage in params:
            call(stage)
    for name in params.get("weights", []):
        call("weights", name)
    for name in [*params.get("features", {}), *params.get("embeddings", {})]:
        call("features", name)
    for section in ("models", "finetuned", "ensembles", "students"):
        for entry in params.get(section, {}):
            if section == "ensembles":
                call("ensemble", entry)
                continue
            if entry.startswith(KILLED):
                call("train", entry, killed=True)
            if entry == TWO_PROCESSES:
                command = [*TORCHRUN, "-m", "stages.train", task, entry]
                environment = os.environ | {"PYTHONPATH": str(ROOT)}
                subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
            else:
                call("train", entry)
            call("evaluate", entry)
    print(f"{task}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return hash_outputs(root, task)


def compute_fingerprint() -> dict[str, str]:
    """Run all tasks; return the hash of each result.

    Raises:
        RuntimeError: if a stage fails, or a resumed training differs from an uninterrupted one.
    """
    os.environ |= ENVIRONMENT
    for name in LIBRARIES:
        importlib.import_module(name)
    for stage in STAGES:
        module = importlib.import_module(f"stages.{stage}")
        if not Path(str(module.__file__)).is_relative_to(ROOT):
            raise RuntimeError(f"{module.__file__} is not below {ROOT}")
    gc.freeze()  # garbage collection in a fork would copy the memory of the libraries
    hashes: dict[str, str] = {}
    with TemporaryDirectory() as name:
        root = Path(name)
        # DVCLive requires a repository with a commit.
        author = ["-c", "user.name=A Tester", "-c", "user.email=tester@example.org"]
        commit = [*author, "commit", "--quiet", "--allow-empty", "--message", "Nothing yet"]
        for arguments in (["init", "--quiet"], commit):
            subprocess.run(["git", *arguments], cwd=root, check=True)
        write_sources(root)
        for subset in AUDIOSET_CLIPS:
            call_stage(root, ".", "convert", subset)
        with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as workers:
            for results in workers.map(partial(run_task, root), list_tasks()):
                hashes |= results
    for name in hashes:
        if hashes[name] != hashes[name.replace(f"/{KILLED}", f"/{UNINTERRUPTED}")]:
            raise RuntimeError(f"{name} differs from the result without interruption")
    return dict(sorted(hashes.items()))


def run_fingerprint(checkout: Path) -> dict[str, str]:
    """Return the fingerprint of a checkout, computed by its own tool, code and parameters."""
    if not (checkout / Path(__file__).relative_to(ROOT)).is_file():
        raise SystemExit(f"error: {checkout} has no {Path(__file__).relative_to(ROOT)}")
    with TemporaryDirectory() as folder:
        path = Path(folder, "fingerprint.json")
        command = [sys.executable, "-m", "tools.equal_results", "fingerprint", str(path)]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        subprocess.run(command, cwd=checkout, env=environment, check=True)
        return json.loads(path.read_text(encoding="utf-8"))


def compare_with(revision: str) -> int:
    """Compare this checkout with a revision; print the differences; return the exit status."""
    with TemporaryDirectory() as folder:
        worktree = Path(folder, "worktree")
        git = ["git", "-C", str(ROOT), "worktree"]
        add = [*git, "add", "--quiet", "--detach", str(worktree), revision]
        subprocess.run(add, check=True)
        try:
            before = run_fingerprint(worktree)
        finally:
            subprocess.run([*git, "remove", "--force", str(worktree)], check=True)
    after = run_fingerprint(ROOT)
    differences = [
        f"{'differs' if name in after else 'missing'}: {name}"
        for name in before
        if before[name] != after.get(name)
    ]
    new = [f"new: {name}" for name in after if name not in before]
    print(*differences, *new, sep="\n", end="\n" if differences or new else "")
    if not differences:
        print(f"{len(before)} results are equal")
    return int(bool(differences))


def main() -> int:
    """Write this checkout's fingerprint, or compare it with a revision's."""
    match sys.argv[1:]:
        case ["fingerprint", path]:
            text = json.dumps(compute_fingerprint(), indent=2)
            Path(path).write_text(f"{text}\n", encoding="utf-8")
            return 0
        case [revision] if revision != "fingerprint":
            return compare_with(revision)
    print("usage: python -m tools.equal_results fingerprint OUT.json | REVISION", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
