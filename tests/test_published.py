"""The published study's audit and grid."""

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from published import audit, grid, report
from tagging.dataset import Split, split_path, write_split
from tagging.labels import Label
from tagging.ranking import ndcg
from tests.project import ROOT


def test_the_loss_of_a_collapsed_answer_by_hand():
    labels = np.array([[1, 0, 0], [0, 1, 1]])
    # Binary cross-entropy of logit 1 and logits 0: log(1 + e^-1), log(1 + e) and log 2.
    hit, miss, rest = math.log1p(math.exp(-1)), math.log1p(math.e), math.log(2)
    expected = ((hit + 2 * rest) / 3 + (miss + 2 * rest) / 3) / 2
    assert audit.one_hot_loss(labels, "msml", 0) == pytest.approx(expected, abs=1e-6)
    # Pairs: (clip 0, label 0), (clip 1, label 1), (clip 1, label 2); clip 1's outputs are halved.
    first = -math.log(math.e / (math.e + 2))
    second = -math.log(1 / (math.exp(0.5) + 2))
    expected = (first + 2 * second) / 3
    assert audit.one_hot_loss(labels, "ce", 0) == pytest.approx(expected, abs=1e-6)


def test_the_printed_loss_at_lr_1_is_that_of_always_music():
    # 52.5% of the clips have Music; every clip has 1.276 labels, which is in "rest".
    loss = (0.525 * 0.3133 + 0.475 * 1.3133 + 9 * 0.6931) / 10
    assert loss == pytest.approx(report.read_printed()["train_loss"][("msml", 1.0, 50)], abs=2e-4)


def test_printed_precisions_are_shares_of_2258_or_2260_clips():
    for cell, share in report.read_printed()["precision_at_1"].items():
        fits = {n: audit.fit_share(share, n).error for n in (2258, 2260)}
        right = 2260 if cell.epochs == 1000 else 2258
        assert fits[right] < 5e-8
        assert fits[4518 - right] > 1e-6


def test_the_printed_tables_are_whole():
    tables = report.read_printed()
    assert {name: len(table) for name, table in tables.items()} == {
        "train_loss": 30,
        "ndcg": 30,
        "precision_at_1": 30,
    }
    assert max(tables["ndcg"].values()) == 0.91656589


def test_ties_in_label_order_rank_tied_labels_by_column():
    scores = np.array([[0.0, 1.0, 0.0], [0.5, 0.5, 0.7]])
    assert np.argsort(-audit.ties_in_label_order(scores)).tolist() == [[1, 0, 2], [2, 0, 1]]


def test_ndcg_over_a_flattened_batch_by_hand():
    labels = np.array([[1, 0], [0, 1]])
    scores = np.array([[0.9, 0.1], [0.8, 0.2]])
    # One list: scores 0.9 (hit), 0.8, 0.2 (hit), 0.1; ideally both hits come first.
    gain = 1 + 1 / math.log2(4)
    ideal = 1 + 1 / math.log2(3)
    assert audit.flattened_ndcg(labels, scores, 2) == pytest.approx(gain / ideal)
    assert audit.flattened_ndcg(labels, scores, 1) == pytest.approx(ndcg(labels, scores).mean())


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A project folder with splits of random clips; 35 of them leave a batch that is not whole."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = [Label(k, f"/m/{k}", f"label {k}") for k in range(10)]
    for split, clips in (("train", 35), ("val", 21), ("test", 18)):
        labels = (rng.random((clips, 10)) < 0.2).astype(np.uint8)
        labels[:, 0] |= ~labels.any(axis=1)
        embeddings = rng.integers(0, 256, (clips, 10, 128), np.uint8)
        ids = rng.integers(65, 90, (clips, 11), np.uint8)
        frames = np.full(clips, 10, np.uint8)
        write_split(split_path(split), Split(embeddings, frames, labels, ids, names))
    return tmp_path


STACK = grid.Stack([("msml", 0.01), ("ce", 0.001)], "softmax", 0, 16)


def test_a_stack_of_the_grid_resumes_to_the_same_rows(prepared):
    torch.manual_seed(123)  # results come from the stack's seed, not from what ran before
    whole = grid.train_stack(STACK, [2, 3])
    for state in (prepared / ".resume").iterdir():
        state.unlink()

    class Killed(Exception):
        pass

    def die(epochs, before):
        raise Killed

    with pytest.raises(Killed):
        grid.train_stack(STACK, [2, 3], die)
    told = []
    assert grid.train_stack(STACK, [2, 3], lambda *epochs: told.append(epochs)) == whole
    # The epoch before the kill is told of, not trained again.
    assert told == [(2, True), (2, False), (2, False)]


def test_more_epochs_go_on_from_fewer(prepared):
    short = grid.train_stack(STACK, [1])
    told = []
    longer = grid.train_stack(STACK, [1, 2], lambda *epochs: told.append(epochs))
    assert longer[: len(short)] == short
    assert told == [(2, True), (2, False)]


def test_the_test_split_is_scored_only_where_runs_are_looked_at(prepared):
    rows = grid.train_stack(STACK, [2])
    widths = {row[2]: len(row) for row in rows}
    assert widths == {1: 7, 2: len(grid.HEADER)}


def test_missing_cells_are_named_and_not_filled_in():
    printed = report.read_printed()["ndcg"]
    assert report.missing(printed, [], ["softmax"]) == [
        "softmax, 50 epochs: all",
        "softmax, 200 epochs: all",
        "softmax, 1000 epochs: all",
    ]
    cell = report.Cell("ce", 0.1, 50)
    curves = [
        {"head": "softmax", "seed": seed, "loss": "ce", "lr": 0.1, "epoch": 50.0}
        | {"val_ndcg_label_order": value}
        for seed, value in ((0, 0.5), (1, 0.7))
    ]
    value, seeds, spread = report.ours(curves, "softmax", "ndcg", cell)
    assert (value, seeds, spread) == (pytest.approx(0.6), 2, pytest.approx(0.02**0.5))
    assert report.ours(curves, "logits", "ndcg", cell) is None


def test_another_look_at_epochs_already_done_trains_again(prepared):
    grid.train_stack(STACK, [2])
    told = []
    rows = grid.train_stack(STACK, [1, 2], lambda *epochs: told.append(epochs))
    assert told == [(2, False), (2, False)]
    assert {row[2]: len(row) for row in rows} == {1: len(grid.HEADER), 2: len(grid.HEADER)}


def test_epochs_after_the_fiftieth_are_shown_by_tens():
    looks = [3, 57, 61]
    assert [epoch for epoch in range(45, 75) if grid.shown(epoch, looks)] == [
        45, 46, 47, 48, 49, 50, 57, 60, 61, 70,
    ]  # fmt: skip


def test_state_is_not_resumed_by_other_arithmetic(prepared, monkeypatch):
    paths = [split_path("train")]
    names = {grid.state_path(STACK, paths, grid.CPU)}
    names.add(grid.state_path(STACK, paths, torch.device("cuda")))
    monkeypatch.setattr(grid, "kernels", lambda: None)
    names.add(grid.state_path(STACK, paths, grid.CPU))
    (prepared / "conv_block.c").write_text("other kernels")
    monkeypatch.setattr(grid, "SOURCE", prepared / "conv_block.c")
    names.add(grid.state_path(STACK, paths, grid.CPU))
    assert len(names) == 4


# In a script of its own, so that signals reach it as they reach the stage.
RUN_TWO_STACKS = """
import sys
from published import grid
from tagging.errors import entry_point
from tagging.progress import Progress

@entry_point
def main():
    stack = grid.Stack([("msml", 0.01)], "softmax", 0, 16)
    other = stack._replace(head="logits", runs=[(sys.argv[1], 0.01)])
    grid.train_stacks([stack, other], [1_000_000], Progress("grid", None, "epoch", "none"))

if __name__ == "__main__":
    main()
"""


@contextmanager
def two_stacks(folder, loss="msml"):
    """A process that trains two stacks for ever, at once, and the ids of its workers."""
    script = folder / "two_stacks.py"
    script.write_text(RUN_TWO_STACKS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CC": "false"}
    command = [sys.executable, str(script), loss]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def workers_of(process, number):
    """Return the process's workers once so many of them have kept a state."""
    while len(list(Path(".resume").glob("*.safetensors"))) < number:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    children = psutil.Process(process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("sent", "to", "code", "said"),
    [
        (signal.SIGKILL, "worker", 1, "error: a training process was killed"),
        (signal.SIGINT, "parent", 130, ""),
    ],
)
def test_the_grid_ends_at_once_with_its_workers(prepared, sent, to, code, said):
    with two_stacks(prepared) as process:
        workers = workers_of(process, 2)
        assert len(workers) == 2
        (workers[0] if to == "worker" else process).send_signal(sent)
        assert process.wait() == code
        lines = process.stderr.read().splitlines()
        assert not psutil.wait_procs(workers, timeout=60)[1]
    assert len(lines) == bool(said)
    assert all(line.startswith(said) for line in lines)


def test_an_error_in_one_stack_ends_the_other(prepared):
    with two_stacks(prepared, loss="unknown") as process:
        said = process.communicate()[1]
    assert process.returncode == 1
    assert said.splitlines()[-1] == "KeyError: 'unknown'"


def test_workers_do_not_outlive_a_killed_grid(prepared):
    with two_stacks(prepared) as process:
        workers = workers_of(process, 2)
        process.kill()
        assert not psutil.wait_procs(workers, timeout=60)[1]


@pytest.mark.parametrize(("device", "stacks"), [("cuda", [10]), ("mps", [5, 5]), ("cpu", [5, 5])])
def test_runs_are_one_stack_on_a_gpu_and_some_on_the_cores(prepared, monkeypatch, device, stacks):
    (prepared / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    trained = []

    def rows(stack):
        trained.append(len(stack.runs))
        return [[*run, 1, *[0.5] * 7] for run in stack.runs]

    def on_gpu(stack, looks, on_epochs, where):
        assert where.type == "cuda"
        return rows(stack)

    def on_cores(stacks, looks, progress):
        return [row for stack in stacks for row in rows(stack)]

    monkeypatch.setattr(grid, "pick_device", lambda name: torch.device(device))
    monkeypatch.setattr(grid, "train_stack", on_gpu)
    monkeypatch.setattr(grid, "train_stacks", on_cores)
    grid.main("softmax", "0")
    assert trained == stacks
    lines = (prepared / "published/results/softmax-0.csv").read_text().splitlines()
    assert len(lines) == 1 + 10
    assert lines[1:] == sorted(lines[1:], key=lambda line: (line[:2], float(line.split(",")[1])))


def test_the_chart_of_epochs_says_what_it_does_not_show():
    collapsed = {"head": "softmax", "loss": "ce", "lr": 1.0}
    rose = {"head": "logits", "loss": "msml", "lr": 0.01}
    curves = [
        {**run, "epoch": epoch, "val_ndcg": ndcg}
        for run, of_run in ((collapsed, (0.7, 0.69)), (rose, (0.7, 0.94)))
        for epoch, ndcg in enumerate(of_run, start=1)
    ]
    chart = report.curve_chart(curves)
    assert chart["title"]["subtitle"] == "Always below 0.75, so not seen: softmax, lr 1, ce."
    assert report.curve_chart(curves[2:])["title"]["subtitle"].endswith("not seen: none.")
