"""The published study's audit and grid."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dvc.dependency import ParamsDependency
from dvc.repo import Repo

from replication import audit, conv_block, grid, report
from replication.scoring import score, ties_in_label_order
from replication.settings import Grid, load_grid
from tagging.base.errors import UserError
from tagging.data.classes import Class
from tagging.data.clips import Fold, Index, write_features, write_index
from tagging.data.spec import InputSpec
from tests.project import ROOT

PRINTED = (ROOT / "replication/printed.csv").resolve()
SPEC = InputSpec(1, 10, 128, 1 / 256)


@pytest.fixture
def printed(monkeypatch):
    monkeypatch.setattr(report, "PRINTED", PRINTED)
    return report.read_printed()


def test_the_loss_of_a_collapsed_answer_by_hand():
    labels = np.array([[1, 0, 0], [0, 1, 1]])
    # Binary cross-entropy of logit 1 and logits 0: log(1 + e^-1), log(1 + e) and log 2.
    hit, miss, rest = math.log1p(math.exp(-1)), math.log1p(math.e), math.log(2)
    expected = ((hit + 2 * rest) / 3 + (miss + 2 * rest) / 3) / 2
    assert audit.one_hot_loss(labels, "msml", 0) == pytest.approx(expected, abs=1e-6)
    # Pairs: (clip 0, class 0), (clip 1, class 1), (clip 1, class 2); clip 1's outputs are halved.
    first = -math.log(math.e / (math.e + 2))
    second = -math.log(1 / (math.exp(0.5) + 2))
    assert audit.one_hot_loss(labels, "ce", 0) == pytest.approx((first + 2 * second) / 3, abs=1e-6)


def test_the_printed_tables_say_what_the_audit_reads_in_them(printed):
    assert [len(table) for table in printed.values()] == [30, 30, 30]
    assert max(printed["ndcg"].values()) == 0.91656589
    # Always Music: 52.5% of the clips have it, and the other nine outputs are 0.
    loss = (0.525 * 0.3133 + 0.475 * 1.3133 + 9 * 0.6931) / 10
    assert loss == pytest.approx(printed["train_loss"][("msml", 1.0, 50)], abs=2e-4)
    for cell, share in printed["precision_at_1"].items():
        right = 2260 if cell.epochs == 1000 else 2258
        assert audit.fit_share(share, right).error < 5e-8
        assert audit.fit_share(share, 4518 - right).error > 1e-6


def test_ties_in_label_order_rank_tied_classes_by_column():
    outputs = np.array([[0.0, 1.0, 0.0], [0.5, 0.5, 0.7]])
    assert np.argsort(-ties_in_label_order(outputs)).tolist() == [[1, 0, 2], [2, 0, 1]]
    scored = score(np.array([[1, 0, 0], [0, 1, 0]]), outputs)
    second, third = 1 / math.log2(3), 1 / math.log2(4)
    assert scored == pytest.approx(((second + third) / 2, (second + third) / 2, 0))
    assert score(np.array([[1, 0, 0]]), outputs[:1]).ndcg_label_order == pytest.approx(second)


def test_ndcg_over_a_flattened_batch_by_hand():
    labels, scores = np.array([[1, 0], [0, 1]]), np.array([[0.9, 0.1], [0.8, 0.2]])
    # One list: scores 0.9 (hit), 0.8, 0.2 (hit), 0.1; ideally both hits come first.
    gain, ideal = 1 + 1 / math.log2(4), 1 + 1 / math.log2(3)
    assert audit.flattened_ndcg(labels, scores, 2) == pytest.approx(gain / ideal)
    assert audit.flattened_ndcg(labels, scores, 1) == pytest.approx(score(labels, scores).ndcg)


class ProgressProxy:
    """Progress that keeps what it was told; at `dies` epochs it is the training's end."""

    def __init__(self, dies: int | None = None):
        self.calls, self.dies = [], dies

    def skip(self, amount: int):
        self.calls.append(("skip", amount))

    def advance(self, amount: int):
        self.calls.append(("advance", amount))
        if len(self.calls) == self.dies:
            raise KeyboardInterrupt


def write_clips(spec: InputSpec = SPEC):
    """Write random clips; 35 that train leave a batch that is not whole."""
    rng = np.random.default_rng(0)
    labels = (rng.random((74, 10)) < 0.2).astype(np.uint8)
    labels[:, 0] |= ~labels.any(axis=1)
    fold = Fold(*np.split(rng.permutation(74), [35, 56]))
    ids = np.array([f"clip {k}" for k in range(74)], "S8")
    write_index(Index(ids, labels, [Class(f"/m/{k}", f"class {k}") for k in range(10)], [fold]))
    shape = (74, *spec[:3])
    with write_features("vggish", (shape, np.uint8), spec, {"name": "vggish"}) as (values, _):
        values[:] = rng.integers(0, 256, shape)


@pytest.fixture
def clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clips()
    return tmp_path


STACK = grid.Stack([("msml", 0.01), ("ce", 0.001)], "softmax", 0, 16, [2, 3])


def test_a_killed_stack_resumes_to_the_same_rows(clips):
    torch.manual_seed(123)  # results come from the stack's seed, not from what ran before
    whole = grid.train_stack(STACK, ProgressProxy())
    # The test split is scored only where runs are looked at.
    assert {row[2]: len(row) for row in whole} == {1: 7, 2: len(grid.HEADER), 3: len(grid.HEADER)}
    for state in (clips / ".resume").iterdir():
        state.unlink()
    with pytest.raises(KeyboardInterrupt):
        grid.train_stack(STACK, ProgressProxy(dies=1))
    told = ProgressProxy()
    assert grid.train_stack(STACK, told) == whole
    assert told.calls == [("skip", 2), ("advance", 2), ("advance", 2)]


@pytest.mark.parametrize(
    ("first", "then", "calls"),
    [
        ([1], [1, 2], [("skip", 2), ("advance", 2)]),  # more epochs go on from fewer
        ([2], [1, 2], [("advance", 2), ("advance", 2)]),  # unless one lacks the test split's scores
        ([1, 2], [1], [("skip", 2)]),
    ],
)
def test_other_epochs_go_on_where_they_can(clips, first, then, calls):
    told = ProgressProxy()
    before = grid.train_stack(STACK._replace(looks=first), ProgressProxy())
    after = grid.train_stack(STACK._replace(looks=then), told)
    assert told.calls == calls
    assert {row[2] for row in after} == set(range(1, then[-1] + 1))
    assert all(mine[:7] == other[:7] for mine, other in zip(after, before, strict=False))


def test_state_is_not_resumed_by_other_arithmetic(clips, monkeypatch):
    grid.train_stack(STACK, ProgressProxy())
    told = ProgressProxy()
    monkeypatch.setattr(grid, "kernels", lambda: None if conv_block.kernels() else "others")
    grid.train_stack(STACK, told)
    assert told.calls == [("advance", 2)] * 3


def test_epochs_after_the_fiftieth_are_shown_by_tens():
    shown = [epoch for epoch in range(45, 75) if grid.shown(epoch, [3, 57, 61])]
    assert shown == [45, 46, 47, 48, 49, 50, 57, 60, 61, 70]


@pytest.mark.parametrize(
    "spec", [SPEC._replace(bins=96), SPEC._replace(frames=12), SPEC._replace(channels=2)]
)
def test_clips_of_another_shape_are_refused(clips, spec):
    write_clips(spec)
    with pytest.raises(UserError, match="the grid takes clips of 10 x 128"):
        grid.read_clips(torch.device("cpu"))


SETTINGS = {
    "lrs": [0.1, 0.01, 0.001], "losses": ["msml", "ce"], "heads": ["softmax"], "seeds": [0, 3],
    "epochs": {0: [2], 3: [2, 1]}, "batch_size": 16,
}  # fmt: skip


def write_params(**changed):
    Path("replication").mkdir(exist_ok=True)
    Path("replication/params.yaml").write_text(yaml.safe_dump({"grid": SETTINGS | changed}))
    Path("params.yaml").write_text("run: {device: cpu, progress: none}\n")


def test_a_seed_without_epochs_is_refused(clips):
    write_params(epochs={0: [2]})
    with pytest.raises(UserError, match=r"grid.epochs is \{0: .*it takes for each of grid.seeds"):
        load_grid()


def test_stacks_side_by_side_are_one_table(clips, monkeypatch):
    monkeypatch.setenv("AUDIOSET_KERNELS", "0")  # nothing to compile
    monkeypatch.setenv("TAGGING_WORKERS", "2")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    conv_block.kernels.cache_clear()
    try:
        write_params()
        grid.main("softmax", "3")
        single = STACK._replace(runs=[("ce", 0.01)], seed=3, looks=[1, 2])
        alone = grid.train_stack(single, ProgressProxy())
    finally:
        conv_block.kernels.cache_clear()
    lines = Path("replication/results/softmax-3.csv").read_text().splitlines()
    assert lines[0].split(",") == list(grid.HEADER)
    runs = [
        (loss, lr, epoch) for loss in ("ce", "msml") for lr in (1e-3, 0.01, 0.1) for epoch in (1, 2)
    ]
    rows = [line.split(",") for line in lines[1:]]
    assert [(row[0], float(row[1]), int(row[2])) for row in rows] == runs
    # What a run computes does not depend on its neighbours.
    losses = [float(row[3]) for row in rows if row[:2] == ["ce", "0.01"]]
    assert losses == pytest.approx([row[3] for row in alone], abs=1e-3)


@pytest.mark.parametrize(("device", "stacks"), [("cuda", [6]), ("mps", [3, 3]), ("cpu", [3, 3])])
def test_runs_are_one_stack_on_a_gpu_and_some_on_the_cores(clips, monkeypatch, device, stacks):
    write_params()
    given = []

    def run_parallel(work, pieces, progress):
        given.extend(pieces)
        return [[[*run, 1, *[0.5] * 7] for run in stack.runs] for stack in pieces]

    monkeypatch.setattr(grid, "pick_device", lambda name: torch.device(device))
    monkeypatch.setattr(grid, "run_parallel", run_parallel)
    grid.main("softmax", "0")
    assert [len(stack.runs) for stack in given] == stacks
    assert {stack.device for stack in given} == {"cuda" if device == "cuda" else "cpu"}
    assert len({stack.number for stack in given}) == len(given)


def test_a_seed_s_stage_has_its_own_epochs_alone(tmp_path):
    (tmp_path / "replication").mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / "replication" / name, tmp_path / "replication" / name)
    with Repo.init(tmp_path, no_scm=True) as repo:
        params = {
            stage.name: [
                p for dep in stage.deps if isinstance(dep, ParamsDependency) for p in dep.params
            ]
            for stage in repo.index.stages
        }
    shared = ["grid.lrs", "grid.losses", "grid.batch_size"]
    settings = Grid.model_validate(
        yaml.safe_load((ROOT / "replication/params.yaml").read_text())["grid"]
    )
    assert set(params) == {"report"} | {
        f"grid@{head}-{seed}" for head in settings.heads for seed in settings.seeds
    }
    for name, tracked in params.items():
        own = f"grid.epochs.{name[-1]}"
        assert sorted(tracked) == (["grid"] if name == "report" else sorted([*shared, own]))


def curves(head: str, values: dict[int, float], **columns: float) -> list[dict]:
    """Rows of one cell: a value a seed."""
    cell = {"head": head, "loss": "ce", "lr": 0.1, "epoch": 50.0}
    names = ("val_ndcg", "val_ndcg_label_order", "test_ndcg", "test_precision_at_1")
    return [
        {**cell, "seed": seed, **dict.fromkeys(names, value), **columns}
        for seed, value in values.items()
    ]


def test_cells_are_means_over_seeds_and_missing_ones_are_named(printed):
    cell, rows = report.Cell("ce", 0.1, 50), curves("softmax", {0: 0.5, 1: 0.7})
    mine = report.ours(rows, "softmax", "ndcg", cell)
    assert mine == (pytest.approx(0.6), 2, pytest.approx(0.02**0.5))
    assert str(mine) == "0.6000 ± 0.1414"
    assert str(report.ours(rows[:1], "softmax", "ndcg", cell)) == "0.5000"
    assert report.ours(rows, "logits", "ndcg", cell) is None
    assert report.missing(printed["ndcg"], [], ["softmax"]) == [
        "softmax, 50 epochs: all", "softmax, 200 epochs: all", "softmax, 1000 epochs: all",
    ]  # fmt: skip
    table = report.comparison({cell: 0.5}, rows, "ndcg")
    assert "| ce | 0.1 | 50 | 0.5000 | 0.6000 ± 0.1414 | +0.1000 | not run |" in table
    later = [{**rows[0], "epoch": epoch} for epoch in (200.0, 1000.0)]
    assert report.seeds_told([*rows, *later]) == "2 at 50 epochs; 1 at 200 and 1000 epochs"


def test_the_best_cell_is_chosen_by_the_mean_of_validation(printed):
    # One seed is luckier at 200 epochs; the mean is better at 50.
    rows = curves("softmax", {0: 0.8, 1: 0.8}) + curves("softmax", {0: 0.9, 1: 0.1}, epoch=200.0)
    said = report.best_sentence(printed["ndcg"], rows + curves("logits", {0: 0.6}))
    assert (
        "from NDCG 0.8000 ± 0.0000 / P@1 0.8000 ± 0.0000 (ce, lr 0.1, 50 epochs, 2 seeds)" in said
    )
    assert "**NDCG 0.6000 / P@1 0.6000 (ce, lr 0.1, 50 epochs, 1 seed)**" in said


def test_the_chart_of_epochs_says_what_it_does_not_show():
    collapsed = {"head": "softmax", "loss": "ce", "lr": 1.0, "seed": 0}
    rose = {"head": "logits", "loss": "msml", "lr": 0.01, "seed": 0}
    rows = [
        {**run, "epoch": epoch, "val_ndcg": ndcg}
        for run, of_run in ((collapsed, (0.7, 0.69)), (rose, (0.7, 0.94)))
        for epoch, ndcg in enumerate(of_run, start=1)
    ]
    said = report.curve_chart(rows)["title"]["subtitle"]
    assert said == "Always below 0.75, so not seen: softmax, lr 1, ce."
    assert report.curve_chart(rows[2:])["title"]["subtitle"].endswith("not seen: none.")
