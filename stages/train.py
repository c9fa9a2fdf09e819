"""Stage `train@<model>`: train one configured model, or student, on the training split.

The test split is never read. A training that is killed goes on at its last epoch.
"""

import sys
from pathlib import Path

import torch
from dvclive import Live
from scmrepo.exceptions import SCMError

from tagging.batches import epoch_batches, to_clips
from tagging.dataset import read_split, split_path
from tagging.device import pick_device
from tagging.errors import UserError, entry_point
from tagging.files import write_json
from tagging.models import Model, Student, build, load_model, save_network, shape_of
from tagging.parameters import Run, load, parse, read_params
from tagging.progress import Progress
from tagging.scores import blend, read_scores, scores_path
from tagging.training import Epoch, Train, state_path, train


def load_settings(name: str) -> tuple[Model, Train]:
    """Return the model's entry and its training settings: `train` with its own on top.

    Raises:
        UserError: naming the key that is wrong, where it stands.
    """
    model = load_model(name)
    load(Train, "train")
    section = "students" if isinstance(model, Student) else "models"
    own = parse(Train, {**read_params()["train"], **model.train}, f"{section}.{name}.train")
    return model, own


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
    shape = shape_of(train_split)
    targets = None
    if isinstance(model, Student):
        paths.append(scores_path("ensembles", model.teacher))
        teacher = read_scores(paths[-1]).outputs["train"]
        targets = blend(train_split.labels, teacher, model.label_weight)

    torch.manual_seed(settings.seed)
    network = build(model, shape, name).to(device)
    state = state_path(name, [model.model_dump(), settings.model_dump(), device.type], paths)
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
            to_clips(train_split, device, targets),
            to_clips(val_split, device),
            state,
            progress,
            log,
        )
    path = Path(f"models/{name}.safetensors")
    save_network(path, trained.weights, model, shape, trained.checkpoints)
    write_json(
        Path(f"metrics/timing/{name}.json"),
        {"train_seconds": round(trained.seconds, 1), "epochs": settings.epochs},
    )
    # The state stays: DVC has not recorded the outputs yet, and may be killed before it does.


if __name__ == "__main__":
    main(*sys.argv[1:])
