"""The trainer: steps, epochs, schedule, weight averaging, and the choice of the best epoch.

An epoch depends only on the seed of the run, its own number and the state before it. So a resumed
training ends with the same bytes as an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tagging.base.errors import UserError
from tagging.layers.base import Activation, TaggingNetwork
from tagging.learning import distributed
from tagging.learning.checkpoint import Checkpoint
from tagging.learning.dataset import Batch, ClipDataset
from tagging.learning.inference import compute_outputs, log_odds, score
from tagging.learning.loader import BatchLoader
from tagging.learning.metric import Metric
from tagging.learning.settings import Train

DIVERGED = "the training diverged: {} not finite; a lower train.lr may help"

Weights = dict[str, torch.Tensor]


class Epoch(NamedTuple):
    """The results of an epoch: the mean training loss, and the metric on validation after it."""

    train_loss: float
    val: float | None


class TrainingResult(NamedTuple):
    """The result of a training.

    `weights` are those of the best epoch on validation, or of the last one, by `train.restore`.
    `saved_epochs` has weights after each of the last epochs by its number, from 1: with
    `weight_averaging: ema` the moving average, else the trained weights. `seconds` is the time that
    training took, without validation.
    """

    weights: Weights
    saved_epochs: dict[int, Weights]
    history: list[Epoch]
    seconds: float


@dataclass(frozen=True)
class Hooks:
    """Functions that are called during a training.

    `on_resume` gets the number of complete epochs; `on_epoch` the results of each epoch, also of
    those before an interruption; `on_step` is called after each step.
    """

    on_resume: Callable[[int], None] = lambda epochs: None
    on_step: Callable[[], None] = lambda: None
    on_epoch: Callable[[Epoch], None] = lambda epoch: None


class Validation(NamedTuple):
    """Computes a metric on the validation split.

    `activation` turns the outputs of the network into probabilities; where the outputs are
    embeddings, it names the distance between two of them.
    """

    dataset: ClipDataset
    metric: Metric
    activation: Activation

    def __call__(self, network: TaggingNetwork) -> float | None:
        """Return the metric; None if the split is empty.

        Raises:
            UserError: if outputs are not finite, or no clip has a value.
        """
        if not len(self.dataset):
            return None
        outputs = score(network, self.dataset, self.activation)
        if not outputs.isfinite().all():
            raise UserError(DIVERGED.format("outputs are"))
        value = self.metric.value(self.dataset.labels, log_odds(outputs, self.activation))
        if value is None:
            raise UserError(
                f"the validation split must have clips with labels: {self.metric.title} is "
                "undefined"
            )
        return value


class Trainer:
    """Trains a network in place.

    Args:
        network: freshly built or pretrained, on the device of the clips.
        settings: of the training.
        seed: of the run.
        loader: the batches of each epoch.
        validation: called after each epoch.
        hooks: for logging and progress.
    """

    def __init__(
        self,
        network: TaggingNetwork,
        settings: Train,
        seed: int,
        loader: BatchLoader,
        validation: Validation,
        hooks: Hooks | None = None,
    ) -> None:
        if settings.restore == "best" and not len(validation.dataset):
            raise UserError("train.restore must be last, as no clip validates, got best")
        self.network = network
        self.settings = settings
        self.seed = seed
        self.loader = loader
        self.validation = validation
        self.hooks = hooks or Hooks()
        self.optimizer = build_optimizer(network, settings)
        self.schedule = build_schedule(self.optimizer, settings, len(loader))
        self.average = build_average(network, settings)
        self.history: list[Epoch] = []
        self.result = copy_weights(self.scored)
        self.saved_epochs: dict[int, Weights] = {}
        self.seconds = 0.0
        # A loss of labels needs logits, even if validation compares embeddings.
        self._activation = settings.loss.training_activation(validation.activation)
        self._parallel = distributed.wrap(network, settings.loss)

    @property
    def scored(self) -> TaggingNetwork:
        """The network whose weights are validated and kept: the average, if there is one."""
        return self.network if self.average is None else cast(TaggingNetwork, self.average.module)

    def fit(self, checkpoint: Checkpoint) -> TrainingResult:
        """Train all epochs, from the checkpoint on if there is one.

        The checkpoint is saved after each epoch. A finished run has all epochs: nothing is trained
        again.

        Raises:
            UserError: if the training diverges, or validation is undefined.
        """
        self.resume(checkpoint)
        while len(self.history) < self.settings.epochs:
            epoch = self.train_epoch(len(self.history))
            checkpoint.save(*self.state_dict())
            self.hooks.on_epoch(epoch)
        return TrainingResult(self.result, self.saved_epochs, self.history, self.seconds)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from the state of a checkpoint, if there is one."""
        if (state := checkpoint.load()) is None:
            return
        self.load_state_dict(*state)
        for epoch in self.history:
            self.hooks.on_epoch(epoch)
        self.hooks.on_resume(len(self.history))

    def train_epoch(self, number: int) -> Epoch:
        """Train and validate an epoch, `number` from 0; keep weights as `train.restore` says."""
        started = time.perf_counter()
        loss = self._train_batches(number)
        self._average_epoch(number)
        self.seconds += time.perf_counter() - started
        if not math.isfinite(loss):
            raise UserError(DIVERGED.format("the loss is"))
        epoch = Epoch(loss, self.validation(self.scored))
        if self.settings.restore == "last" or self._is_best(epoch):
            self.result = copy_weights(self.scored)
        self.history.append(epoch)
        if len(self.history) > self.settings.epochs - self.settings.save_last_epochs:
            # SWA averages trained weights. They are kept, to compare the mean with each of them.
            is_swa = self.settings.weight_averaging == "swa"
            self.saved_epochs[len(self.history)] = copy_weights(
                self.network if is_swa else self.scored
            )
        return epoch

    def _train_batches(self, number: int) -> float:
        """Train on all batches of an epoch; return the mean loss of a clip."""
        self.network.train()
        dropout_seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        torch.manual_seed(dropout_seed + distributed.rank())
        total = torch.zeros((), device=self.validation.dataset.device)
        clips = 0
        for batch in self.loader:
            total += self.step(batch) * len(batch.x)
            clips += len(batch.x)
            self.hooks.on_step()
        return float(total / clips)

    def step(self, batch: Batch) -> torch.Tensor:
        """Train on one batch; return its mean loss."""
        self.optimizer.zero_grad(set_to_none=True)
        is_bfloat16 = self.settings.precision == "bfloat16"
        with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=is_bfloat16):
            outputs = compute_outputs(self._parallel, batch, self._activation)
        loss = self.settings.loss(outputs.float(), batch.targets)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None and self.settings.weight_averaging == "ema":
            self.average.update_parameters(self.network)
        return loss.detach()

    def _average_epoch(self, number: int) -> None:
        """With `swa`, add the weights after one of the last epochs to their mean."""
        if self.average is None or self.settings.weight_averaging != "swa":
            return
        if number >= self.settings.epochs - self.settings.swa_epochs:
            self.average.update_parameters(self.network)
        else:  # before the last epochs, the current weights stand in for their mean
            self.average.module.load_state_dict(self.network.state_dict())

    def _is_best(self, epoch: Epoch) -> bool:
        """Return whether an epoch is better on validation than all before it."""
        is_better = self.validation.metric.is_better
        return all(
            is_better(cast(float, epoch.val), cast(float, other.val)) for other in self.history
        )

    def state_dict(self) -> tuple[Weights, dict[str, Any], dict[int, Weights]]:
        """Return tensors, a JSON-able record, and the weights of saved epochs."""
        optimizer = self.optimizer.state_dict()
        tensors = {
            **add_prefix("network", self.network.state_dict()),
            **add_prefix("average", self.average.state_dict() if self.average else {}),
            **add_prefix("result", self.result),
        }
        for place, values in optimizer["state"].items():
            tensors |= add_prefix(f"optimizer/{place}", values)
        record = {
            "optimizer_groups": optimizer["param_groups"],
            "schedule": self.schedule.state_dict(),
            "loader": self.loader.state_dict(),
            "history": self.history,
            "seconds": self.seconds,
        }
        return tensors, record, self.saved_epochs

    def load_state_dict(
        self, tensors: Weights, record: dict[str, Any], saved_epochs: dict[int, Weights]
    ) -> None:
        """Restore what `state_dict` returned."""
        device = self.validation.dataset.device
        self.network.load_state_dict(remove_prefix("network", tensors))
        if self.average is not None:
            self.average.load_state_dict(remove_prefix("average", tensors))
        self.result = to_device(remove_prefix("result", tensors), device)
        self.saved_epochs = {
            epoch: to_device(weights, device) for epoch, weights in saved_epochs.items()
        }
        state: dict[int, Weights] = {}
        for key, tensor in remove_prefix("optimizer", tensors).items():
            place, name = key.split("/")
            state.setdefault(int(place), {})[name] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": record["optimizer_groups"]})
        self.schedule.load_state_dict(record["schedule"])
        self.loader.load_state_dict(record["loader"])
        self.history = [Epoch(*epoch) for epoch in record["history"]]
        self.seconds = record["seconds"]


def train(
    network: TaggingNetwork,
    settings: Train,
    seed: int,
    loader: BatchLoader,
    validation: Validation,
    checkpoint: Checkpoint,
    hooks: Hooks | None = None,
) -> TrainingResult:
    """Train a network in place; one without parameters is returned unchanged.

    Args:
        network: freshly built or pretrained, on the device of the clips.
        settings: of the training.
        seed: of the run.
        loader: the batches of each epoch.
        validation: called after each epoch.
        checkpoint: that the training resumes from, replaced after every epoch.
        hooks: for logging and progress.

    Raises:
        UserError: as `Trainer.fit`.
    """
    if not list(network.parameters()):
        return TrainingResult(copy_weights(network), {}, [], 0.0)
    return Trainer(network, settings, seed, loader, validation, hooks).fit(checkpoint)


def build_optimizer(network: nn.Module, settings: Train) -> torch.optim.Optimizer:
    """Return the optimizer of all parameters."""
    optimizers = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return optimizers[settings.optimizer](
        network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
    )


def build_schedule(
    optimizer: torch.optim.Optimizer, settings: Train, steps_per_epoch: int
) -> LRScheduler:
    """Return the schedule of the learning rate (default: one_cycle), which advances each step.

    A first phase replaces the rates of the first epochs; the schedule still counts their steps.

    Raises:
        UserError: if there is a first phase with one_cycle.
    """
    steps, first = steps_per_epoch * settings.epochs, settings.first_phase
    if settings.schedule == "constant" and first is None:
        return ConstantLR(optimizer, factor=1)
    if settings.schedule == "one_cycle":
        if first is not None:
            raise UserError(
                "train.first_phase must be left out with train.schedule one_cycle, got "
                f"{first.epochs} epochs at {first.lr:g}"
            )
        # Smith and Topin (2018), "Super-convergence", arXiv 1708.07120.
        # The schedule advances after each step, also after the last one.
        return OneCycleLR(optimizer, settings.lr, total_steps=steps + 1)
    rise = settings.warmup * steps

    def exponential(step: int) -> float:
        return settings.decay ** max(0, step // steps_per_epoch + 1 - settings.decay_after)

    def cosine(step: int) -> float:
        # Loshchilov and Hutter (2016), SGDR, arXiv 1608.03983, without restarts.
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))

    factors = {"constant": lambda step: 1.0, "exponential": exponential, "cosine": cosine}
    factor = factors[settings.schedule]

    def with_first_phase(step: int) -> float:
        if first is not None and step < first.epochs * steps_per_epoch:
            return first.lr / settings.lr
        return factor(step)

    return LambdaLR(optimizer, with_first_phase)


def build_average(network: nn.Module, settings: Train) -> AveragedModel | None:
    """Return the network whose weights and batch statistics are averages of the trained ones."""
    if settings.weight_averaging == "none":
        return None
    if settings.weight_averaging == "swa":
        # Izmailov et al. (2018), "Averaging weights leads to wider optima", arXiv 1803.05407.
        return AveragedModel(network, use_buffers=True)
    average = get_ema_multi_avg_fn(settings.ema_decay)
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def copy_weights(network: nn.Module) -> Weights:
    """Return a copy of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def to_device(weights: Weights, device: torch.device) -> Weights:
    """Return weights on a device."""
    return {name: tensor.to(device) for name, tensor in weights.items()}


def add_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Weights:
    """Return tensors under the names `<prefix>/<name>`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def remove_prefix(prefix: str, tensors: Weights) -> Weights:
    """Return the tensors that `add_prefix` renamed, under their own names."""
    start = f"{prefix}/"
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }
