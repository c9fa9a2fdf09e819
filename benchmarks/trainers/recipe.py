"""Trainer of the published study's recipe: `python -m benchmarks.trainers.recipe <batch size>`.

PyTorch Lightning, a Dataset of single clips, a DataLoader with one worker per core, Adam at a
constant rate, one model per process and PyTorch's default number of threads. Progress bar, log and
checkpoints are off. Seconds do not include validation.
"""

import logging
import sys
import time
import warnings

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.trainers.splits import Split, load_split, make_validation
from benchmarks.workers import Channel
from tagging.base.processes import cores
from tagging.data.spec import InputSpec
from tagging.learning.losses import Msml
from tagging.learning.trainer import Validation
from tagging.networks.yac import Network, Settings

LR = 0.001  # the study's best cell


class ClipDataset(Dataset):
    """Clips in memory, read one by one."""

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


class EpochOnRequest(lightning.Callback):
    """Waits for a request before every epoch and sends its seconds and NDCG."""

    def __init__(self, channel: Channel, validate: Validation) -> None:
        self.channel, self.validate = channel, validate
        self.begin = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: Classifier) -> None:
        self.channel.send()
        self._wait(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Classifier) -> None:
        seconds = time.perf_counter() - self.begin
        self.channel.send(seconds=seconds, ndcg=self.validate(module.network))
        module.network.train()
        self._wait(trainer)

    def _wait(self, trainer: lightning.Trainer) -> None:
        trainer.should_stop = not self.channel.wait()
        self.begin = time.perf_counter()


def main(batch_size: int) -> None:
    channel = Channel()
    warnings.simplefilter("ignore")  # Lightning's advice
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    train = load_split("train")
    loader = DataLoader(ClipDataset(train), batch_size, shuffle=True, num_workers=cores())
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[EpochOnRequest(channel, make_validation())],
    )
    trainer.fit(Classifier(train.spec, train.labels.shape[1]), loader)


if __name__ == "__main__":
    main(int(sys.argv[1]))
