"""Trainer: the published study's recipe, as `python -m benchmarks.trainers.recipe <batch size>`.

PyTorch Lightning, a Dataset that gives a clip at a time, a DataLoader with a worker a core, Adam at
a constant rate, one model a process, PyTorch's own number of threads. What only costs time
(progress bar, log, checkpoints) is off. A turn is an epoch; its validation is not in its seconds.
"""

import logging
import sys
import time
import warnings

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.trainers.splits import Split, in_memory, validation
from benchmarks.turns import Turns
from tagging.base.processes import cores
from tagging.data.spec import InputSpec
from tagging.learning.losses import Msml
from tagging.learning.trainer import Validation
from tagging.networks.yac import Network, Settings

LR = 0.001  # the study's best cell


class ClipDataset(Dataset):
    """Clips in memory, one at a time."""

    def __init__(self, clips: Split) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips.labels)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.clips.spec.as_input(self.clips.stored[place]), self.clips.labels[place]


class Classifier(lightning.LightningModule):
    """The study's network, loss and optimizer."""

    def __init__(self, spec: InputSpec, labels: int) -> None:
        super().__init__()
        self.network = Network(Settings(head="softmax"), spec, labels)
        self.loss = Msml()

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        x, labels = batch
        return self.loss(self.network(x), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LR)


class OneEpochATurn(lightning.Callback):
    """Waits for a turn before every epoch and tells what it gave."""

    def __init__(self, turns: Turns, validate: Validation) -> None:
        self.turns, self.validate = turns, validate
        self.begin = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: Classifier) -> None:
        self.turns.tell()
        self._wait(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Classifier) -> None:
        seconds = time.perf_counter() - self.begin
        self.turns.tell(seconds=seconds, ndcg=self.validate(module.network))
        module.network.train()
        self._wait(trainer)

    def _wait(self, trainer: lightning.Trainer) -> None:
        trainer.should_stop = not self.turns.wait()
        self.begin = time.perf_counter()


def main(batch_size: int) -> None:
    turns = Turns()
    warnings.simplefilter("ignore")  # Lightning's advice
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    train = in_memory("train")
    loader = DataLoader(ClipDataset(train), batch_size, shuffle=True, num_workers=cores())
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[OneEpochATurn(turns, validation())],
    )
    trainer.fit(Classifier(train.spec, train.labels.shape[1]), loader)


if __name__ == "__main__":
    main(int(sys.argv[1]))
