"""The audit of the published study, and the grid of its runs."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dvc.dependency import ParamsDependency
from dvc.repo import Repo

from replication import audit, cells, charts, conv_block, grid, study, variants, write_report
from replication.study import Grid, break_ties, load_grid, score
from tagging.base.errors import UserError
from tagging.data.classes import Class
from tagging.data.clips import Fold, Index, write_features, write_index
from tagging.data.spec import InputSpec
from tagging.scoring.tables import read_rows
from tests.project import ROOT

PRINTED = (ROOT / "replication/printed.csv").resolve()
SPEC = InputSpec(1, 10, 128, 1 / 256)


@pytest.fixture
def printed(monkeypatch):
    monkeypatch.setattr(cells, "PRINTED", PRINTED)
    return cells.read_printed()


HIT, MISS, REST = math.log1p(math.exp(-1)), math.log1p(math.e), math.log(2)


def test_the_loss_of_a_collapsed_answer_by_hand():
    labels = np.array([[1, 0, 0], [0, 1, 1]])
    # Binary cross-entropy of logit 1 and logits 0: log(1 + e^-1), log(1 + e) and log 2.
    expected = ((HIT + 2 * REST) / 3 + (MISS + 2 * REST) / 3) / 2
    assert audit.collapsed_loss(labels, "msml", 0) == pytest.approx(expected, abs=1e-6)
    # Pairs: (clip 0, class 0), (clip 1, class 1), (clip 1, class 2); clip 1's outputs are halved.
    first = -math.log(math.e / (math.e + 2))
    second = -math.log(1 / (math.exp(0.5) + 2))
    whole = audit.collapsed_loss(labels, "ce", 0)
    assert whole == pytest.approx((first + 2 * second) / 3, abs=1e-6)
    # In batches of one clip, the two clips count alike, however many labels they have.
    batches = [np.array([0]), np.array([1])]
    single = audit.collapsed_loss(labels, "ce", 0, batches)
    assert single == pytest.approx((first + second) / 2, abs=1e-6)
    # By the text, outputs are not halved, and clip 1's loss is.
    undivided = -math.log(1 / (math.e + 2))
    as_written = audit.collapsed_loss_as_written(labels, 0)
    assert as_written == pytest.approx((first + undivided) / 2, abs=1e-6)


def test_batches_of_several_sizes_count_by_their_clips():
    labels = np.array([[1, 0], [0, 1], [0, 1]])
    batches = [np.array([0, 1]), np.array([2])]
    hit, miss = (HIT + REST) / 2, (MISS + REST) / 2
    loss = audit.collapsed_loss(labels, "msml", 0, batches)
    assert loss == pytest.approx((hit + 2 * miss) / 3, abs=1e-6)


@pytest.mark.parametrize("loss", ["msml", "ce"])
def test_no_softmax_output_has_a_loss_below_the_bound(loss):
    labels = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0]])
    bound = audit.lowest_softmax_loss(labels, loss)
    targets = torch.from_numpy(labels).double()
    best = torch.zeros(3, 4, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.Adam([best], lr=0.3)
    for _ in range(400):
        optimizer.zero_grad()
        reached = study.LOSSES[loss](best.softmax(1), targets)
        reached.backward()
        optimizer.step()
    assert bound < reached.item() < bound + 1e-3
    assert float(study.LOSSES[loss](20 * targets - 10, targets)) < bound  # logits have none


def test_ndcg_as_the_text_has_it_by_hand():
    labels, scores = np.array([[0, 1, 0]]), np.array([[3, 2, 1]])
    second, third = 1 / math.log2(3), 1 / math.log2(4)
    # Gains 1/2, 1, 1/2 in the order of the scores, and 1, 1/2, 1/2 ideally.
    expected = (0.5 + second + third / 2) / (1 + second / 2 + third / 2)
    assert audit.ndcg_as_written(labels, scores) == pytest.approx(expected)
    assert audit.ndcg_as_written(labels, scores) > score(labels, scores).ndcg


def test_a_constant_answer_is_told_by_its_precision():
    labels = np.array([[1, 0], [1, 0], [0, 1]])
    assert audit.constant_class(0.666667, labels) == 0
    assert audit.constant_class(0.333333, labels) == 1
    assert audit.constant_class(1.0, labels) is None


def test_selecting_what_is_not_null_drops_no_row():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [1, None, 3], "b": [None, 5, 6]})
    assert len(table[~table.isnull()]) == 3
    assert len(table.dropna()) == 1


def test_the_printed_tables_support_the_audit(printed):
    assert [len(table) for table in printed.values()] == [30, 30, 30]
    assert max(printed["ndcg"].values()) == 0.91656589
    # Always Music: 52.5% of the clips have it, and the other nine outputs are 0.
    loss = (0.525 * 0.3133 + 0.475 * 1.3133 + 9 * 0.6931) / 10
    assert loss == pytest.approx(printed["train_loss"][("msml", 1.0, 50)], abs=2e-4)
    for cell, share in printed["precision_at_1"].items():
        clips = 2260 if cell.epochs == 1000 else 2258
        assert audit.fit_share(share, clips).error < 5e-8
        assert audit.fit_share(share, 4518 - clips).error > 1e-6


def test_ties_in_label_order_rank_tied_classes_by_column():
    outputs = np.array([[0.0, 1.0, 0.0], [0.5, 0.5, 0.7]])
    assert np.argsort(-break_ties(outputs)).tolist() == [[1, 0, 2], [2, 0, 1]]
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
    """Progress that records its calls, and interrupts the training at the call numbered `dies`."""

    def __init__(self, dies: int | None = None):
        self.calls, self.dies = [], dies

    def skip(self, amount: int):
        self.calls.append(("skip", amount))

    def advance(self, amount: int):
        self.calls.append(("advance", amount))
        if len(self.calls) == self.dies:
            raise KeyboardInterrupt


def write_clips(spec: InputSpec = SPEC):
    """Write random clips; 35 train, so that the last batch is smaller."""
    rng = np.random.default_rng(0)
    labels = (rng.random((74, 10)) < 0.2).astype(np.uint8)
    labels[:, 0] |= ~labels.any(axis=1)
    fold = Fold(*np.split(rng.permutation(74), [35, 56]))
    ids = np.array([f"clip {k}" for k in range(74)], "S8")
    classes = [Class(f"/m/{k}", f"class {k}") for k in range(10)]
    write_index(Index(ids, labels, classes, [fold]), study.CLIPS.index)
    folder = study.CLIPS.feature("vggish")
    with write_features(folder, 74, np.uint8, spec, {"name": "vggish"}) as (values, _):
        values[:] = rng.integers(0, 256, values.shape)


@pytest.fixture
def clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clips()
    return tmp_path


STACK = grid.Stack([("msml", 0.01), ("ce", 0.001)], "softmax", 0, 16, [2, 3])


def test_a_killed_stack_resumes_to_the_same_rows(clips):
    torch.manual_seed(123)  # results depend on the seed of the stack alone
    whole = grid.train_stack(STACK, ProgressProxy())
    # The test split is scored at `test_epochs` alone.
    assert {row[2]: len(row) for row in whole} == {1: 7, 2: len(grid.HEADER), 3: len(grid.HEADER)}
    shutil.rmtree(clips / ".resume")
    with pytest.raises(KeyboardInterrupt):
        grid.train_stack(STACK, ProgressProxy(dies=1))
    progress = ProgressProxy()
    assert grid.train_stack(STACK, progress) == whole
    assert progress.calls == [("skip", 2), ("advance", 2), ("advance", 2)]


@pytest.mark.parametrize(
    ("first", "then", "calls"),
    [
        ([1], [1, 2], [("skip", 2), ("advance", 2)]),  # more epochs continue from fewer
        (
            [2],
            [1, 2],
            [("advance", 2), ("advance", 2)],
        ),  # unless the test scores of one are missing
        ([1, 2], [1], [("skip", 2)]),
    ],
)
def test_other_epochs_continue_a_training_where_possible(clips, first, then, calls):
    progress = ProgressProxy()
    before = grid.train_stack(STACK._replace(test_epochs=first), ProgressProxy())
    after = grid.train_stack(STACK._replace(test_epochs=then), progress)
    assert progress.calls == calls
    assert {row[2] for row in after} == set(range(1, then[-1] + 1))
    assert all(row[:7] == earlier[:7] for row, earlier in zip(after, before, strict=False))


def test_state_is_not_resumed_by_other_arithmetic(clips, monkeypatch):
    grid.train_stack(STACK, ProgressProxy())
    progress = ProgressProxy()
    monkeypatch.setattr(grid, "kernels", lambda: None if conv_block.kernels() else "others")
    grid.train_stack(STACK, progress)
    assert progress.calls == [("advance", 2)] * 3


def test_after_fifty_epochs_every_tenth_is_scored():
    scored = [epoch for epoch in range(45, 75) if grid.is_scored(epoch, [3, 57, 61])]
    assert scored == [45, 46, 47, 48, 49, 50, 57, 60, 61, 70]


@pytest.mark.parametrize(
    "spec", [SPEC._replace(bins=96), SPEC._replace(frames=12), SPEC._replace(channels=2)]
)
def test_clips_of_another_shape_are_refused(clips, spec):
    write_clips(spec)
    with pytest.raises(UserError, match="the grid needs clips of 10 frames x 128 bins, got"):
        grid.read_splits(torch.device("cpu"))


SETTINGS = {
    "lrs": [0.1, 0.01, 0.001], "losses": ["msml", "ce"], "heads": ["softmax"], "seeds": [0, 3],
    "epochs": {0: [2], 3: [2, 1]}, "batch_size": 16,
}  # fmt: skip


def write_params(**changed):
    Path("replication").mkdir(exist_ok=True)
    Path("replication/params.yaml").write_text(yaml.safe_dump({"grid": SETTINGS | changed}))
    Path("params.yaml").write_text("runtime: {device: cpu, progress: none}\n")


def test_a_seed_without_epochs_is_refused(clips):
    write_params(epochs={0: [2]})
    with pytest.raises(
        UserError, match=r"grid\.epochs must have an entry for each of grid\.seeds, got \{0: "
    ):
        load_grid()


def test_stacks_side_by_side_are_one_table(clips, monkeypatch):
    monkeypatch.setenv("AUDIOSET_KERNELS", "0")  # nothing to compile
    monkeypatch.setenv("TAGGING_WORKERS", "2")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    conv_block.kernels.cache_clear()
    try:
        write_params()
        grid.main("softmax", "3")
        single = STACK._replace(runs=[("ce", 0.01)], seed=3, test_epochs=[1, 2])
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
    # The result of a run does not depend on its neighbours.
    losses = [float(row[3]) for row in rows if row[:2] == ["ce", "0.01"]]
    assert losses == pytest.approx([row[3] for row in alone], abs=1e-3)


@pytest.mark.parametrize(("device", "stacks"), [("cuda", [6]), ("mps", [3, 3]), ("cpu", [3, 3])])
def test_runs_are_one_stack_on_a_gpu_and_some_on_the_cores(clips, monkeypatch, device, stacks):
    write_params()
    trained = []

    def run_parallel(work, pieces, progress):
        trained.extend(pieces)
        return [[[*run, 1, *[0.5] * 7] for run in stack.runs] for stack in pieces]

    monkeypatch.setattr(grid, "pick_device", lambda name: torch.device(device))
    monkeypatch.setattr(grid, "run_parallel", run_parallel)
    grid.main("softmax", "0")
    assert [len(stack.runs) for stack in trained] == stacks
    assert {stack.device for stack in trained} == {"cuda" if device == "cuda" else "cpu"}
    assert len({stack.number for stack in trained}) == len(trained)


def test_the_stage_of_a_seed_depends_on_its_own_epochs_alone(tmp_path):
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
    assert set(params) == {"report", "variants"} | {
        f"grid@{head}-{seed}" for head in settings.heads for seed in settings.seeds
    }
    for name, tracked in params.items():
        expected = {"report": ["grid"], "variants": []}
        own = sorted([*shared, f"grid.epochs.{name[-1]}"])
        assert sorted(tracked) == expected.get(name, own)


def curves(head: str, values: dict[int, float], **columns: float) -> list[dict]:
    """Return the rows of one cell, with one value per seed."""
    cell = {"head": head, "loss": "ce", "lr": 0.1, "epoch": 50.0}
    names = ("val_ndcg", "val_ndcg_label_order", "test_ndcg", "test_precision_at_1")
    return [
        {**cell, "seed": seed, **dict.fromkeys(names, value), **columns}
        for seed, value in values.items()
    ]


def test_cells_are_means_over_seeds_and_missing_ones_are_named(printed):
    cell, rows = cells.Cell("ce", 0.1, 50), curves("softmax", {0: 0.5, 1: 0.7})
    ours = cells.our_value(rows, "softmax", "ndcg", cell)
    assert ours == (pytest.approx(0.6), 2, pytest.approx(0.02**0.5))
    assert str(ours) == "0.6000 ± 0.1414"
    assert str(cells.our_value(rows[:1], "softmax", "ndcg", cell)) == "0.5000"
    assert cells.our_value(rows, "logits", "ndcg", cell) is None
    assert cells.missing_cells(printed["ndcg"], [], ["softmax"]) == [
        "softmax, 50 epochs: all", "softmax, 200 epochs: all", "softmax, 1000 epochs: all",
    ]  # fmt: skip
    assert cells.differences({cell: 0.5}, rows, "ndcg") == {cell: pytest.approx(0.1)}
    table = write_report.comparison_table({cell: 0.5}, rows, "ndcg")
    assert "| ce | 0.1 | 50 | 0.5000 | 0.6000 ± 0.1414 | +0.1000 | not run |" in table
    later = [{**rows[0], "epoch": epoch} for epoch in (200.0, 1000.0)]
    described = cells.describe_seeds([*rows, *later])
    assert described == "2 at 50 epochs; 1 at 200 and 1000 epochs"


def test_the_best_cell_is_selected_by_its_mean_on_validation(printed):
    # One seed is luckier at 200 epochs; the mean is better at 50.
    rows = curves("softmax", {0: 0.8, 1: 0.8}) + curves("softmax", {0: 0.9, 1: 0.1}, epoch=200.0)
    text = write_report.describe_best(printed["ndcg"], rows + curves("logits", {0: 0.6}))
    assert (
        "from NDCG 0.8000 ± 0.0000 / P@1 0.8000 ± 0.0000 (ce, lr 0.1, 50 epochs, 2 seeds)" in text
    )
    assert "**NDCG 0.6000 / P@1 0.6000 (ce, lr 0.1, 50 epochs, 1 seed)**" in text


def test_the_chart_of_epochs_names_what_it_does_not_show():
    collapsed = {"head": "softmax", "loss": "ce", "lr": 1.0, "seed": 0}
    rising = {"head": "logits", "loss": "msml", "lr": 0.01, "seed": 0}
    rows = [
        {**run, "epoch": epoch, "val_ndcg": ndcg}
        for run, values in ((collapsed, (0.7, 0.69)), (rising, (0.7, 0.94)))
        for epoch, ndcg in enumerate(values, start=1)
    ]
    subtitle = charts.curve_chart(rows)["title"]["subtitle"]
    assert subtitle == "Not shown, as always below 0.75: softmax, lr 1, ce."
    assert charts.curve_chart(rows[2:])["title"]["subtitle"].endswith("0.75: none.")


# --- the sentences of the page ---


@pytest.fixture(scope="module")
def committed() -> cells.Curves:
    """The committed results of all runs."""
    settings = yaml.safe_load((ROOT / "replication/params.yaml").read_text())["grid"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "RESULTS", (ROOT / study.RESULTS).resolve())
        return cells.read_curves(Grid.model_validate(settings))


def test_levels_are_those_of_the_committed_results(printed, committed):
    gaps = cells.differences(printed["ndcg"], committed, "ndcg")
    stable = [gap for cell, gap in gaps.items() if cell.lr <= 0.01]
    assert len(stable) == 18
    assert min(stable) > 0
    assert np.median(stable) == pytest.approx(0.015, abs=5e-4)
    assert sum(gap < 0.01 for gap in stable) == 3
    text = write_report.describe_levels(printed, committed)
    assert "18 of 18 NDCG cells lie above the printed ones (median +0.015; 3 within 0.01)" in text
    assert "the training loss of ce differs by -0.035 to -0.018 in 9 cells" in text


def test_levels_by_hand(printed):
    low, high = (cells.Cell("ce", lr, 50) for lr in (0.01, 0.1))
    rows = [
        {**row, "lr": lr, "train_loss": 2.0}
        for lr, value in ((0.01, 0.905), (0.1, 0.1))
        for row in curves("softmax", {0: value})
    ]
    tables = {metric: {low: 0.9, high: 0.9} for metric in ("ndcg", "precision_at_1")}
    tables["train_loss"] = {low: 2.25, high: 2.25}
    text = write_report.describe_levels(tables, rows)
    assert "1 of 1 NDCG cells lie above the printed ones (median +0.005; 1 within 0.01)" in text
    assert "the training loss of ce differs by -0.250 to -0.250 in 1 cells" in text


def index_of(train: np.ndarray, val: np.ndarray) -> Index:
    """Return an index whose test split is its validation split."""
    labels = np.concatenate([train, val]).astype(np.uint8)
    places = np.arange(len(labels), dtype=np.int32)
    names = ("Music", "Speech", "Water")
    classes = [Class(f"/m/{name}", name) for name in names]
    ids = np.array([f"clip {k}" for k in places], "S8")
    split = np.split(places, [len(train)])
    return Index(ids, labels, classes, [Fold(split[0], split[1], split[1])])


# Half of the clips are Music, two fifths Speech, a tenth Water.
SHARES = np.repeat(np.eye(3), [5, 4, 1], axis=0)


def test_runs_that_end_with_a_constant_answer_are_counted(printed):
    index = index_of(SHARES, SHARES)
    rows = curves("softmax", {0: 0.4, 1: 0.7, 2: 0.5})
    for row in rows:
        row["val_precision_at_1"] = row["val_ndcg"]
    # A run that is constant before its end does not count.
    rows.append({**rows[1], "epoch": 10.0, "val_precision_at_1": 0.5})
    endings = cells.run_endings(rows, "ce", 0.1, SHARES)
    assert [(end.epoch, end.constant_class) for end in endings] == [(50, 1), (50, None), (50, 0)]
    text = write_report.describe_high_rate(printed, rows, index)
    assert "2 of our 3 runs end with one class" in text
    assert "while none of the 6 printed NDCG cells" in text


def test_at_the_high_rate_five_of_six_committed_runs_end_constant(printed, committed):
    # The shares of the classes among the 2,258 clips of validation.
    counts = {"Music": 1173, "Speech": 1138, "pets": 56}
    labels = np.zeros((2258, 3))
    for column, count in enumerate(counts.values()):
        labels[:count, column] = 1
    endings = [
        end.constant_class
        for loss in ("msml", "ce")
        for end in cells.run_endings(committed, loss, 0.1, labels)
    ]
    assert sorted(end for end in endings if end is not None) == [0, 0, 0, 1, 2]
    assert len(endings) == 6
    gaps = cells.differences(printed["ndcg"], committed, "ndcg")
    high = [gap for cell, gap in gaps.items() if cell.lr == 0.1]
    assert (max(high), min(high)) == (
        pytest.approx(-0.07, abs=5e-3),
        pytest.approx(-0.40, abs=5e-3),
    )
    trained = write_report.trained_loss(committed, "ce", 1, labels)
    assert trained == pytest.approx(2.1365, abs=5e-5)


def test_a_logged_loss_is_a_mean_over_batches():
    labels = (np.random.default_rng(0).random((40, 3)) < 0.5).astype(int)
    labels[:, 0] |= ~labels.any(axis=1)
    settings = Grid.model_validate(SETTINGS)
    logged = write_report.logged_loss(labels, "ce", 1, settings)
    by_hand = [
        audit.collapsed_loss(labels[batch], "ce", 1)
        for epoch in range(write_report.AUDIT_EPOCHS)
        for batch in study.epoch_batches(40, 16, 0, epoch)
    ]
    sizes = [16, 16, 8] * write_report.AUDIT_EPOCHS
    assert logged == pytest.approx(np.average(by_hand, weights=sizes), abs=1e-6)


def test_the_collapsed_class_has_the_printed_loss():
    index = index_of(SHARES, SHARES)
    cell = cells.Cell("msml", 1.0, 1000)
    for column in range(3):
        tables = {"train_loss": {cell: audit.collapsed_loss(SHARES, "msml", column) + 1e-5}}
        assert write_report.collapsed_class(tables, index, "msml") == column


def test_the_best_printed_scores_belong_to_different_cells(printed):
    text = write_report.describe_selection(printed)
    assert "0.9166 (msml, lr 0.001, 1000 epochs)" in text
    assert "0.8889 (msml, lr 0.01, 1000 epochs), belong to different cells" in text
    assert "the first has P@1 0.8761, the second NDCG 0.9133" in text


def test_shifts_of_variants_by_hand():
    def row(variant: str, loss: str, *values: float) -> dict[str, str]:
        return dict(
            zip(variants.HEADER, map(str, (variant, loss, 0.001, 10, *values)), strict=True)
        )

    rows = [
        row("grid", "msml", 0.66, 0.65, 0.92, 0.88, 0.91, 0.87),
        row("grid", "ce", 1.83, 1.82, 0.90, 0.88, 0.90, 0.87),
        row("other", "msml", 0.60, 0.65, 0.93, 0.88, 0.91, 0.87),
        row("other", "ce", 1.85, 1.82, 0.89, 0.88, 0.90, 0.87),
    ]
    shifts = write_report.variant_shifts(rows)
    assert str(shifts["ndcg"]) == "-0.0100 to +0.0100"
    assert str(shifts["ce"]) == "+0.0200 to +0.0200"
    assert str(shifts["ndcg_batch_statistics"]) == "-0.0200 to +0.0100"
    assert str(shifts["ce_evaluated"]) == "-0.0300 to -0.0100"


def test_variants_change_one_detail_each(clips, monkeypatch):
    write_params()
    monkeypatch.setattr(variants, "EPOCHS", 1)
    monkeypatch.setenv("TAGGING_WORKERS", "1")
    (clips / "replication/results").mkdir(exist_ok=True)
    variants.main()
    rows = read_rows(study.VARIANTS_CSV)
    assert [(row["variant"], row["loss"]) for row in rows] == [
        (name, loss) for name in variants.VARIANTS for loss in ("msml", "ce")
    ]
    losses = {row["variant"]: row["train_loss"] for row in rows if row["loss"] == "ce"}
    assert len(set(losses.values())) == len(losses)  # none of them is the grid's network
    stack = STACK._replace(runs=variants.RUNS, test_epochs=[1])
    own = {row[0]: row[3] for row in grid.train_stack(stack, ProgressProxy())}
    assert float(losses["as in the grid"]) == pytest.approx(own["ce"], abs=1e-5)


def test_relu_before_normalization_by_hand():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 4, 16, generator=generator)
    weight = torch.randn(1, 3, 2, 3, 3, generator=generator)
    bias, beta = torch.randn(2, 1, 3, generator=generator)
    gamma = torch.rand(1, 3, generator=generator)
    geometry = conv_block.Geometry(padding=(1, 1))
    y, mean, _ = variants.relu_before_norm(x, weight, bias, gamma, beta, geometry)
    image = x[0].permute(3, 0, 1, 2)
    z = torch.nn.functional.conv2d(image, weight[0], bias[0], padding=1).relu()
    expected = torch.nn.functional.batch_norm(z, None, None, gamma[0], beta[0], training=True)
    assert torch.allclose(y[0].permute(3, 0, 1, 2), expected, atol=1e-5)
    assert torch.allclose(mean[0], z.mean((0, 2, 3)), atol=1e-6)


def test_the_committed_page_has_the_computed_sentences(printed, committed):
    text = " ".join((ROOT / "replication/README.md").read_text(encoding="utf-8").split())
    for sentence in (
        write_report.describe_levels(printed, committed),
        write_report.describe_order(printed, committed),
        write_report.describe_best(printed["ndcg"], committed),
        write_report.describe_selection(printed),
        write_report.describe_variants(printed, committed, read_rows(ROOT / study.VARIANTS_CSV)),
    ):
        assert " ".join(sentence.split()) in text
