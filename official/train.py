"""Stages `train@<model>` and `train_enhanced@<model>`: train one model.

The two differ in the labels they learn: AudioSet's, or the enhanced ones. Validation is against
AudioSet's, and the test split is not read. A training that is killed goes on at its last epoch.
"""

import sys

import torch

from official.settings import (
    DATA,
    ENHANCED,
    METRICS,
    MODELS,
    Official,
    Trained,
    find_trained,
    read_official,
)
from tagging.batches import epoch_batches, to_clips
from tagging.dataset import read_split, split_path
from tagging.device import pick_device
from tagging.errors import UserError, entry_point
from tagging.files import write_json
from tagging.models import Model, build, save_network, shape_of
from tagging.parameters import Run, load, parse, read_params
from tagging.progress import Progress
from tagging.training import Epoch, Train, state_path, train


def load_settings(official: Official, found: Trained, name: str) -> tuple[Model, Train]:
    """Return the entry, and its settings: `train`, `official.train` and its own, one on another.

    Raises:
        UserError: naming the key that is wrong, where it stands.
    """
    key = f"official.{found.section}.{name}"
    model = parse(Model, found.entry, key)
    load(Train, "train")
    common = {**read_params()["train"], **official.train}
    parse(Train, common, "official.train")
    return model, parse(Train, {**common, **model.train}, f"{key}.train")


@entry_point
def main(name: str) -> None:
    """Run the stage for the model `name`."""
    run = load(Run, "run")
    official = read_official()
    found = find_trained(official, name)
    model, settings = load_settings(official, found, name)
    device = pick_device(run.device)
    paths = [ENHANCED if found.enhanced else split_path("train", DATA), split_path("val", DATA)]
    train_split, val_split = map(read_split, paths)
    shape = shape_of(train_split)
    torch.manual_seed(settings.seed)
    try:
        network = build(model, shape, name).to(device)
    except UserError as error:
        raise UserError(f"official.{found.section}: {error}") from None

    description = [model.model_dump(), settings.model_dump(), device.type]
    state = state_path(f"official-{name}", description, paths)
    steps = len(epoch_batches(len(train_split.labels), settings.batch_size, settings.seed, 0))
    epochs = 0
    with Progress(f"train {name}", steps * settings.epochs, "step", run.progress) as progress:

        def log(epoch: Epoch) -> None:
            nonlocal epochs
            epochs += 1
            progress.say(
                f"{name}: epoch {epochs}/{settings.epochs}  train loss {epoch.train_loss:.5f}  "
                f"val NDCG {epoch.val_ndcg:.4f}"
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
    save_network(MODELS / f"{name}.safetensors", trained.weights, model, shape)
    write_json(
        METRICS / "timing" / f"{name}.json",
        {"train_seconds": round(trained.seconds, 1), "epochs": settings.epochs},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
