"""A training in two processes, started by torchrun: it ends as one process does, also resumed."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from stages import train as stage
from tagging.learning import distributed
from tests.archives import stage_environment
from tests.generated import example_fold, make_repository, multi_hot, write_clips, write_params

# No batch normalization, no dropout. 61 clips train, in batches of 7: the last one has 5, and the
# parts of the processes differ in size. The loss ce weighs clips by their labels; masks and mixup
# are random.
SMALL = {
    "architecture": "cnn",
    "network": {"channels": [4, 4], "batch_norm": False, "input_norm": False, "dropout": 0},
    "train": {
        "batch_size": 7, "epochs": 20, "lr": 0.002, "loss": "ce", "mixup_prob": 0.5,
        "augment": {"roll": 0.5, "masks": {}}, "weight_averaging": "ema", "ema_decay": 0.9,
    },
}  # fmt: skip
WEIGHTS = Path("models/small/seed0.safetensors")
LOSSES = Path("plots/train/small/seed0/plots/metrics/train/loss.tsv")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*TORCHRUN, "-m", "stages.train", ".", "small"],
        cwd=folder,
        env=stage_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def losses() -> np.ndarray:
    return np.loadtxt(LOSSES, skiprows=1)[:, 1]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task of clips, some of them short."""
    monkeypatch.chdir(tmp_path)
    lengths = np.random.default_rng(0).integers(5, 11, 122)
    write_clips(multi_hot(122, 6), [example_fold(122)], frames=lengths)
    write_params(models={"small": SMALL}, runtime={"device": "cpu", "progress": "lines"})
    make_repository()
    return tmp_path


def test_resumed_after_a_kill_of_one_of_two_it_ends_as_one_process_does(task: Path) -> None:
    running = start(task)
    while not list(task.glob(".resume/*/state.safetensors")):
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.002)
    psutil.Process(running.pid).children()[-1].kill()
    output = running.communicate(timeout=300)[0]  # the other ends by itself
    assert running.returncode != 0, output
    assert not WEIGHTS.exists()

    running = start(task)
    output = running.communicate(timeout=300)[0]
    assert running.returncode == 0, output
    assert "resumed after epoch" in output
    assert output.count("epoch 20/20") == 1  # one of them writes
    assert json.loads(Path("plots/train/small/timing.json").read_text())["epochs"] == 20
    together = losses(), load_file(WEIGHTS)

    shutil.rmtree("models")
    stage.main(".", "small")
    alone = losses(), load_file(WEIGHTS)
    assert len(alone[0]) == 20
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-5)
    assert together[1].keys() == alone[1].keys()
    for name, weights in alone[1].items():
        np.testing.assert_allclose(together[1][name], weights, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [2, 3, 7])
def test_processes_own_a_batch_together_and_each_computes_two_clips_or_more(
    size: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: size)
    owned_by_all = []
    for rank in range(size):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        owned, computed = distributed.owned_rows(batch), distributed.computed_rows(batch)
        assert 0 <= computed.start <= owned.start <= owned.stop <= computed.stop <= batch
        assert computed.stop - computed.start >= 2
        owned_by_all += range(owned.start, owned.stop)
    assert owned_by_all == list(range(batch))
