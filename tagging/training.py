"""Training of one network: the settings, the loop, and resuming after an interruption."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import nn

from tagging.batches import as_input, epoch_batches
from tagging.losses import LOSSES
from tagging.models import score
from tagging.parameters import Float, Int, Section
from tagging.progress import Progress
from tagging.ranking import ndcg, precision_at_1
from tagging.resume import load_state, save_state


class Train(Section):
    """How a network is trained (`train`, and what `models.<name>.train` replaces of it)."""

    loss: Literal[tuple(LOSSES)] = Field(description=" or ".join(LOSSES))
    optimizer: Literal["adam", "adamw"] = Field(description="adam or adamw")
    lr: Float = Field(description="a learning rate above 0 (the highest of the schedule)", gt=0)
    weight_decay: Float = Field(description="a number of 0 or more", ge=0)
    schedule: Literal["constant", "one_cycle"] = Field(
        description="constant or one_cycle (up for 30% of the steps, then down to nothing)"
    )
    epochs: Int = Field(description="a whole number of 1 or more", ge=1)
    batch_size: Int = Field(description="a whole number of clips, 2 or more", ge=2)
    keep: Literal["best", "last"] = Field(
        description="best (weights of the epoch with the highest validation NDCG) or last"
    )
    seed: Int = Field(description="a whole number of 0 or more", ge=0)


class Clips(NamedTuple):
    """Embeddings uint8 (clips, seconds, 128) and labels float32 (clips, labels), on one device."""

    embeddings: torch.Tensor
    labels: torch.Tensor


class Epoch(NamedTuple):
    """What an epoch gave: the mean training loss a clip, and validation scores after it."""

    train_loss: float
    val_ndcg: float
    val_precision_at_1: float


class Trained(NamedTuple):
    """The kept weights, every epoch's scores, and the seconds all epochs took together."""

    weights: dict[str, torch.Tensor]
    history: list[Epoch]
    seconds: float


def train(
    network: nn.Module,
    settings: Train,
    train_clips: Clips,
    val_clips: Clips,
    state: Path,
    progress: Progress,
    on_epoch: Callable[[Epoch], None],
) -> Trained:
    """Train `network` in place and return what is to be kept.

    Every epoch draws its order and its dropout from (seed, epoch), so that a run resumed from
    `state` ends with the same bytes as one that was never interrupted.

    Args:
        network: freshly built, on the clips' device.
        state: file of the unfinished training; read if there, replaced after every epoch.
        progress: advanced by a unit a step.
        on_epoch: told every epoch's scores, those before an interruption included.
    """
    optimizer = _optimizer(network, settings)
    steps = len(epoch_batches(len(train_clips.labels), settings.batch_size, settings.seed, 0))
    schedule = _schedule(optimizer, settings, steps)
    history: list[Epoch] = []
    kept = _copy(network)
    seconds = 0.0
    if (saved := load_state(state)) is not None:
        tensors, record = saved
        network.load_state_dict(_under(tensors, "network"))
        kept = {name: tensor.to(train_clips.labels.device)
                for name, tensor in _under(tensors, "kept").items()}  # fmt: skip
        optimizer.load_state_dict(_unflatten(_under(tensors, "optimizer"), record["groups"]))
        schedule.load_state_dict(record["schedule"])
        history = [Epoch(*epoch) for epoch in record["history"]]
        seconds = record["seconds"]
        for epoch in history:
            on_epoch(epoch)
        progress.skip(steps * len(history))
        progress.say(f"resumed after epoch {len(history)} of {settings.epochs}")
    for number in range(len(history), settings.epochs):
        started = time.perf_counter()
        loss = _train_epoch(network, settings, number, train_clips, optimizer, schedule, progress)
        seconds += time.perf_counter() - started
        epoch = Epoch(loss, *validate(network, val_clips))
        if settings.keep == "last" or all(epoch.val_ndcg > old.val_ndcg for old in history):
            kept = _copy(network)
        history.append(epoch)
        save_state(
            state,
            _over("network", network.state_dict())
            | _over("kept", kept)
            | _over("optimizer", _flatten(optimizer.state_dict())),
            {
                "groups": optimizer.state_dict()["param_groups"],
                "schedule": schedule.state_dict(),
                "history": history,
                "seconds": seconds,
            },
        )
        on_epoch(epoch)
    return Trained(kept, history, seconds)


def validate(network: nn.Module, clips: Clips) -> tuple[float, float]:
    """Return NDCG and precision at 1, means over the clips."""
    labels = clips.labels.cpu().numpy()
    scores = score(network, clips.embeddings).cpu().numpy()
    return float(ndcg(labels, scores).mean()), float(precision_at_1(labels, scores).mean())


def _train_epoch(network, settings, number, clips, optimizer, schedule, progress) -> float:
    loss_of = LOSSES[settings.loss]
    network.train()
    torch.manual_seed(int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0]))
    total = torch.zeros((), device=clips.labels.device)
    seen = 0
    for batch in epoch_batches(len(clips.labels), settings.batch_size, settings.seed, number):
        places = torch.from_numpy(batch).to(clips.labels.device)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(network(as_input(clips.embeddings[places])), clips.labels[places])
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.detach() * len(batch)
        seen += len(batch)
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
    # Smith and Topin (2018), "Super-convergence", arXiv 1708.07120.
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=steps * settings.epochs + 1
    )


def _copy(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


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
