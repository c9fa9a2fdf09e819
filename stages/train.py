"""Stage `train@<model>`: train one configured model on the training split.

The test split is not even a dependency. A training that is killed goes on at its last epoch.
"""

import sys
from pathlib import Path

import torch
from dvclive import Live
from scmrepo.exceptions import SCMError

from tagging.batches import epoch_batches
from tagging.dataset import Split, read_split, split_path
from tagging.device import pick_device
from tagging.errors import UserError, entry_point
from tagging.files import write_json
from tagging.models import Model, Shape, build, load_model, save_network
from tagging.parameters import Run, load, parse, read_params
from tagging.progress import Progress
from tagging.resume import SCRATCH, identity
from tagging.training import Clips, Epoch, Train, train


def load_settings(name: str) -> tuple[Model, Train]:
    """Return the model's entry and its training settings: `train` with its own on top.

    Raises:
        UserError: naming the key that is wrong, where it stands.
    """
    model = load_model(name)
    load(Train, "train")
    own = f"models.{name}.train"
    return model, parse(Train, {**read_params()["train"], **model.train}, own)


def to_clips(split: Split, device: torch.device) -> Clips:
    """Put a split on the device, embeddings as the bytes they are."""
    return Clips(
        torch.from_numpy(split.embeddings).to(device),
        torch.from_numpy(split.labels).float().to(device),
    )


def start_log(name: str) -> Live:
    """Start the log that DVC and its VS Code extension show while a model trains.

    Raises:
        UserError: if the git repository has no commit yet, which DVCLive takes.
    """
    try:
        # Not the root's dvc.yaml, and no experiment of its own: this is a stage of a pipeline.
        return Live(f"plots/train/{name}", dvcyaml=None, save_dvc_exp=False)
    except SCMError as error:
        raise UserError(f"DVCLive finds no commit in this git repository ({error})") from None


@entry_point
def main(name: str) -> None:
    """Run the stage for the model `name`."""
    run = load(Run, "run")
    model, settings = load_settings(name)
    device = pick_device(run.device)
    paths = [split_path("train"), split_path("val")]
    train_split, val_split = map(read_split, paths)
    shape = Shape(train_split.embeddings.shape[1], train_split.names)

    torch.manual_seed(settings.seed)
    network = build(model, shape, name).to(device)
    key = identity([model.model_dump(), settings.model_dump(), device.type], paths)
    state = SCRATCH / f"{name}-{key}.safetensors"
    for stale in set(SCRATCH.glob(f"{name}-{'?' * len(key)}.safetensors")) - {state}:
        stale.unlink()
    steps = len(epoch_batches(len(train_split.labels), settings.batch_size, settings.seed, 0))
    with (
        start_log(name) as live,
        Progress(f"train {name}", steps * settings.epochs, "step", run.progress) as progress,
    ):

        def log(epoch: Epoch) -> None:
            live.log_metric("train/loss", epoch.train_loss)
            live.log_metric("val/ndcg", epoch.val_ndcg)
            live.log_metric("val/precision_at_1", epoch.val_precision_at_1)
            live.next_step()
            progress.say(
                f"{name}: epoch {live.step}/{settings.epochs}  "
                f"train loss {epoch.train_loss:.4f}  val NDCG {epoch.val_ndcg:.4f}  "
                f"val P@1 {epoch.val_precision_at_1:.4f}"
            )

        trained = train(
            network,
            settings,
            to_clips(train_split, device),
            to_clips(val_split, device),
            state,
            progress,
            log,
        )
    save_network(Path(f"models/{name}.safetensors"), trained.weights, model, shape)
    write_json(
        Path(f"metrics/timing/{name}.json"),
        {"train_seconds": round(trained.seconds, 1), "epochs": settings.epochs},
    )
    # The state stays: DVC has not recorded the outputs yet, and may be killed before it does.


if __name__ == "__main__":
    main(*sys.argv[1:])
