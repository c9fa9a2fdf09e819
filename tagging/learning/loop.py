"""Training of one network: the settings, the loop, and resuming after an interruption."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.data.augmentation import Augment, augment, from_copies
from tagging.data.batches import Clips, Sampling, count_batches, epoch_batches, mix, sample_order
from tagging.learning import distributed
from tagging.learning.losses import LOSSES, Loss, parse_loss
from tagging.learning.metric_losses import MetricLoss
from tagging.learning.model import Activation, log_odds, compute_outputs, score
from tagging.learning.resume import load_state, save_state
from tagging.parameters import Float, Int, Section
from tagging.scoring.metric import Metric

MIXING, CHANGING = 1, 2  # tell the random numbers of mixup and augmentation from the order's
DIVERGED = "the training diverged: {} not finite; a lower train.lr may help"


def _loss(value: object, info: ValidationInfo) -> Loss:
    return parse_loss(value, f"{info.context or 'train'}.loss")


class Train(Section):
    """How a network is trained (`train`, and what `models.<name>.train` replaces of it)."""

    loss: SerializeAsAny[Annotated[Loss, BeforeValidator(_loss)]] = Field(
        description=f"{', '.join(LOSSES)}, or a mapping of such a name and its parameters"
    )
    optimizer: Literal["adam", "adamw"] = Field(description="adam or adamw")
    lr: Float = Field(description="a learning rate above 0 (the highest of the schedule)", gt=0)
    weight_decay: Float = Field(description="a number of 0 or more", ge=0)
    schedule: Literal["constant", "one_cycle", "cosine", "exponential"] = Field(
        description="constant, one_cycle (up for 30% of the steps, then down to nothing), cosine "
        "(up for the share warmup of the steps, then down to nothing) or exponential (times decay "
        "an epoch, after decay_after epochs)"
    )
    warmup: Float = Field(
        description="the share of the steps, 0 to below 1 (of the schedule cosine)", ge=0, lt=1
    )
    decay: Float = Field(
        0.85, description="a number above 0, at most 1 (of the schedule exponential)", gt=0, le=1
    )
    decay_after: Int = Field(
        5, description="a whole number of epochs, 0 or more (of the schedule exponential)", ge=0
    )
    epochs: Int = Field(description="a whole number of 1 or more", ge=1)
    batch_size: Int = Field(description="a whole number of clips, 2 or more", ge=2)
    sampling: Sampling = Field(
        description="uniform (each clip once an epoch), balanced (labels in turn) or "
        "inverse_frequency (clips with rare labels more often)"
    )
    mixup_rate: Float = Field(description="the share of clips mixed, from 0 to 1", ge=0, le=1)
    mixup_alpha: Float = Field(description="a number above 0", gt=0)
    augment: Augment = Field(
        Augment(),
        description="a mapping of roll, gain and masks, changes of spectrograms, and of changed, "
        "the share of clips whose waveform was changed",
    )
    average: Literal["none", "ema", "epochs"] = Field(
        description="none, ema (a moving average of the weights of every step) or epochs (the mean "
        "of the weights after each of the last average_epochs epochs)"
    )
    ema_decay: Float = Field(description="a number above 0 and below 1", gt=0, lt=1)
    average_epochs: Int = Field(description="a whole number of 1 or more", ge=1)
    keep: Literal["best", "last"] = Field(
        description="best (weights of the epoch that validation finds best) or last"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="float32 or bfloat16 (autocast: multiplications are rounded, which is faster "
        "where the processor has them; results then hang on the processor)",
    )
    checkpoints: Int = Field(
        description="a whole number of 0 or more: of the last so many epochs weights are kept too",
        ge=0,
    )
    sure: Float = Field(
        0.8,
        description="a precision above 0 and below 1: labels are sure from the threshold on that "
        "keeps it on validation",
        gt=0,
        lt=1,
    )


class Validation(NamedTuple):
    """How a network is judged after each epoch: on which clips, by which metric."""

    clips: Clips
    metric: Metric
    activation: Activation  # turns the network's outputs into probabilities, or is a distance

    def __call__(self, network: nn.Module) -> float | None:
        """Return the metric; None where there are no clips to validate on.

        Raises:
            UserError: if outputs are not finite numbers, or no clip has a value.
        """
        if not len(self.clips.places):
            return None
        outputs = score(network, self.clips, self.activation)
        if not outputs.isfinite().all():
            raise UserError(DIVERGED.format("outputs are"))
        value = self.metric.value(self.clips.labels, log_odds(outputs, self.activation))
        if value is None:
            raise UserError(
                f"no clip of the validation split has a value of {self.metric.title}; it takes "
                "clips with labels"
            )
        return value


class Epoch(NamedTuple):
    """What an epoch gave: the mean training loss a clip, and the metric on validation after it."""

    train_loss: float
    val: float | None


class Outcome(NamedTuple):
    """What a training gave.

    `weights` are those to be kept, `history` is every epoch's scores, `seconds` what all epochs
    took together, `checkpoints` the weights after the last epochs by their numbers.
    """

    weights: dict[str, torch.Tensor]
    history: list[Epoch]
    seconds: float
    checkpoints: dict[int, dict[str, torch.Tensor]]


def train(
    network: nn.Module,
    settings: Train,
    seed: int,
    clips: Clips,
    validate: Validation,
    state: Path,
    progress: Progress,
    on_epoch: Callable[[Epoch], None],
    copies: Sequence[Clips] = (),
) -> Outcome:
    """Train `network` in place and return what is to be kept.

    Every epoch draws its order and its dropout from (seed, epoch), so that a run resumed from
    `state` ends with the same bytes as one that was never interrupted.

    Args:
        network: freshly built, on the clips' device.
        settings: of the training.
        seed: of the run.
        clips: to train on.
        validate: what is asked after each epoch.
        state: file of the unfinished training; read if there, replaced after every epoch.
        progress: advanced by a unit a step.
        on_epoch: told every epoch's scores, those before an interruption included.
        copies: the clips with changed waveforms.

    Raises:
        UserError: if the training diverges, or there is nothing to choose the best epoch by.
    """
    if not any(True for _ in network.parameters()):  # nothing to learn
        return Outcome(_copy(network), [], 0.0, {})
    if settings.keep == "best" and not len(validate.clips.places):
        raise UserError("train.keep is best, but no clip validates; it takes last")
    optimizer = _optimizer(network, settings)
    steps = count_batches(len(clips.places), settings.batch_size)
    schedule = _schedule(optimizer, settings, steps)
    # A classifier is judged by its embedding, but trained by its outputs.
    learned = validate.activation if isinstance(settings.loss, MetricLoss) else "none"
    if learned != "none" and distributed.size() > 1:
        raise UserError(f"torchrun takes losses of classes; {settings.loss.name} is of embeddings")
    averaged = _averaged(network, settings)
    scored = network if averaged is None else averaged.module
    history: list[Epoch] = []
    kept = _copy(scored)
    checkpoints: dict[int, dict[str, torch.Tensor]] = {}
    seconds = 0.0
    if (saved := load_state(state)) is not None:
        tensors, record = saved
        network.load_state_dict(_under(tensors, "network"))
        if averaged is not None:
            averaged.load_state_dict(_under(tensors, "averaged"))
        device = clips.device
        kept = _to(device, _under(tensors, "kept"))
        checkpoints = {
            epoch: _to(device, _under(tensors, f"checkpoint {epoch}"))
            for epoch in record["checkpoints"]
        }
        optimizer.load_state_dict(_unflatten(_under(tensors, "optimizer"), record["groups"]))
        schedule.load_state_dict(record["schedule"])
        history = [Epoch(*epoch) for epoch in record["history"]]
        seconds = record["seconds"]
        for epoch in history:
            on_epoch(epoch)
        progress.skip(steps * len(history))
        progress.say(f"resumed after epoch {len(history)} of {settings.epochs}")
    learning = distributed.divided(network)
    for number in range(len(history), settings.epochs):
        started = time.perf_counter()
        loss = _train_epoch(
            learning, settings, seed, number, clips, copies, learned, optimizer, schedule, averaged,
            progress,
        )  # fmt: skip
        if settings.average == "epochs" and number >= settings.epochs - settings.average_epochs:
            averaged.update_parameters(network)
        elif settings.average == "epochs":
            averaged.module.load_state_dict(network.state_dict())  # nothing to average yet
        seconds += time.perf_counter() - started
        if not math.isfinite(loss):
            raise UserError(DIVERGED.format("the loss is"))
        epoch = Epoch(loss, validate(scored))
        if settings.keep == "last" or all(
            validate.metric.better(epoch.val, old.val) for old in history
        ):
            kept = _copy(scored)
        history.append(epoch)
        if len(history) > settings.epochs - settings.checkpoints:
            checkpoints[len(history)] = _copy(scored)
        tensors = (
            _over("network", network.state_dict())
            | _over("averaged", averaged.state_dict() if averaged is not None else {})
            | _over("kept", kept)
            | _over("optimizer", _flatten(optimizer.state_dict()))
        )
        for of_epoch, weights in checkpoints.items():
            tensors |= _over(f"checkpoint {of_epoch}", weights)
        record = {
            "groups": optimizer.state_dict()["param_groups"],
            "schedule": schedule.state_dict(),
            "history": history,
            "seconds": seconds,
            "checkpoints": list(checkpoints),
        }
        if distributed.rank() == 0:
            save_state(state, tensors, record)
        on_epoch(epoch)
    return Outcome(kept, history, seconds, checkpoints)


def _train_epoch(
    network, settings, seed, number, clips, copies, learned, optimizer, schedule, averaged, progress
) -> float:
    network.train()
    dropping = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    torch.manual_seed(dropping + distributed.rank())
    mixing = np.random.default_rng([seed, number, MIXING])
    changing = torch.Generator().manual_seed(
        int(np.random.SeedSequence([seed, number, CHANGING]).generate_state(1)[0])
    )
    order = sample_order(clips.labels, settings.sampling, seed, number)
    rate, alpha = settings.mixup_rate, settings.mixup_alpha
    total = torch.zeros((), device=clips.device)
    seen = 0
    for chosen in epoch_batches(len(clips.places), settings.batch_size, seed, number, order):
        batch = distributed.read(clips, chosen, rate, alpha, mixing)
        if share := settings.augment.changed:
            batch = from_copies(batch, chosen, copies, share, changing)
        changed = augment(batch.x, batch.frames, settings.augment, changing)
        batch = batch._replace(x=changed)
        if rate > 0:
            batch = mix(batch, rate, alpha, mixing)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            clips.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"
        ):
            outputs = compute_outputs(network, batch, learned)
        loss = settings.loss(outputs.float(), batch.labels)
        loss.backward()
        optimizer.step()
        schedule.step()
        if settings.average == "ema":
            averaged.update_parameters(network)
        total += loss.detach() * len(chosen)
        seen += len(chosen)
        progress.advance()
    return float(total / seen)


def _optimizer(network: nn.Module, settings: Train) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(
        network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
    )


def _schedule(optimizer, settings: Train, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if settings.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    total = steps * settings.epochs
    if settings.schedule == "exponential":
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: settings.decay ** max(0, step // steps + 1 - settings.decay_after),
        )
    if settings.schedule == "one_cycle":
        # Smith and Topin (2018), "Super-convergence", arXiv 1708.07120.
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=total + 1)
    rise = settings.warmup * total

    def rate(step: int) -> float:
        # Loshchilov and Hutter (2016), SGDR, arXiv 1608.03983, without restarts.
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def _averaged(network: nn.Module, settings: Train) -> AveragedModel | None:
    """Return the network whose weights and batch statistics are means of those trained."""
    if settings.average == "none":
        return None
    if settings.average == "epochs":
        # Izmailov et al. (2018), "Averaging weights leads to wider optima", arXiv 1803.05407.
        return AveragedModel(network, use_buffers=True)
    average = get_ema_multi_avg_fn(settings.ema_decay)
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def _copy(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _to(device: torch.device, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _over(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    start = f"{prefix}/"
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }


def _flatten(optimizer_state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the optimizer's tensors under names like `3/exp_avg`."""
    return {
        f"{place}/{name}": tensor
        for place, values in optimizer_state["state"].items()
        for name, tensor in values.items()
    }


def _unflatten(tensors: dict[str, torch.Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        place, name = key.split("/")
        state.setdefault(int(place), {})[name] = tensor
    return {"state": state, "param_groups": groups}
