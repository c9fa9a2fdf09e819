"""The folder of a task: its parameters, and where the stages leave their outputs."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tagging.base.errors import UserError


@dataclass(frozen=True)
class TaskFolder:
    """Paths of a task's files: of the root's study (`.`) or of a folder of `tasks/`.

    Entries are models, students or ensembles; `section` is the one of params.yaml that has the
    entry. A run is named `seed0` or `fold1-seed0`.
    """

    path: Path

    @property
    def params(self) -> Path:
        """The parameters."""
        return self.path / "params.yaml"

    @property
    def data(self) -> Path:
        """The folder of downloads, clips, features and scores."""
        return self.path / "data"

    @property
    def index(self) -> Path:
        """Clips, labels, classes and folds."""
        return self.path / "data" / "clips.safetensors"

    @property
    def summary(self) -> Path:
        """Counts of records, clips and classes, from prepare or decode."""
        return self.path / "data" / "summary.json"

    def feature(self, name: str) -> Path:
        """Return the folder of a feature of all clips."""
        return self.path / "data" / "features" / name

    def weights(self, name: str) -> Path:
        """Return the file of converted published weights."""
        return self.path / "data" / "weights" / f"{name}.safetensors"

    def model(self, entry: str, run: str) -> Path:
        """Return the file of a trained model."""
        return self.path / "models" / entry / f"{run}.safetensors"

    def scores(self, section: str, entry: str) -> Path:
        """Return the file of an entry's scores of all clips."""
        return self.path / "data" / "scores" / section / f"{entry}.safetensors"

    def resampled(self, section: str, entry: str) -> Path:
        """Return the file of an entry's first metric on each bootstrap resample."""
        return self.path / "data" / "scores" / "resampled" / section / f"{entry}.npy"

    def metrics(self, entry: str) -> Path:
        """Return the file of an entry's headline metrics, which DVC shows and compares."""
        return self.path / "metrics" / f"{entry}.json"

    def evaluation(self, entry: str) -> Path:
        """Return the file of all that evaluate computed of an entry, unrounded."""
        return self.path / "evaluation" / f"{entry}.json"

    def timing(self, entry: str) -> Path:
        """Return the file of the seconds that an entry's trainings took."""
        return self.training_log(entry) / "timing.json"

    def training_log(self, entry: str) -> Path:
        """Return the folder of DVCLive's logs of a model's trainings."""
        return self.path / "plots" / "train" / entry

    @property
    def checkpoints(self) -> Path:
        """The folder of unfinished trainings' checkpoints, which neither git nor DVC tracks."""
        return self.path / ".resume"

    def entry_plots(self, entry: str) -> Path:
        """Return the folder of an entry's tables for plots."""
        return self.path / "plots" / "evaluate" / entry

    @property
    def comparison_plots(self) -> Path:
        """The tables for plots of all entries."""
        return self.path / "plots" / "compare"

    @property
    def leaderboard(self) -> Path:
        """The folder of the task's page."""
        return self.path / "leaderboard"


def require_outputs(paths: Iterable[Path]) -> None:
    """Refuse to go on with a part of the outputs of earlier stages.

    After `dvc repro --pull --allow-missing` a folder that is a dependency may lack files (DVC issue
    11099).

    Raises:
        UserError: naming the first paths that do not exist.
    """
    if missing := [str(path) for path in paths if not path.exists()]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"outputs of earlier stages are missing: {', '.join(missing[:3])}{more}; fetch or "
            "remake them with dvc repro --pull (without --allow-missing)"
        )
