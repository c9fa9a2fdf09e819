"""The log of a training: DVCLive's, for DVC and its VS Code extension, and lines for people."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dvclive import Live
from scmrepo.exceptions import SCMError

from tagging.base.errors import UserError
from tagging.base.processes import ProgressProxy
from tagging.base.progress import Progress
from tagging.learning.trainer import Epoch, Hooks


class TrainingLog:
    """Logs the epochs of a training.

    Args:
        live: DVCLive's log, or None in processes that do not write.
        progress: of all runs, in steps.
        label: what lines begin with.
        epochs: their number in the training.
        steps: of an epoch.
        metric: key and title of the metric on validation.
    """

    def __init__(
        self,
        live: Live | None,
        progress: Progress | ProgressProxy,
        label: str,
        epochs: int,
        steps: int,
        metric: tuple[str, str],
    ) -> None:
        self._live = live
        self._progress = progress
        self._label = label
        self._epochs = epochs
        self._steps = steps
        self._metric = metric

    @property
    def hooks(self) -> Hooks:
        """The functions that the trainer calls."""
        return Hooks(self.resume, self._progress.advance, self.log_epoch)

    def log(self, values: Mapping[str, float]) -> None:
        """Log values under their keys."""
        if self._live is not None:
            for key, value in values.items():
                self._live.log_metric(key, value)

    def resume(self, epochs: int) -> None:
        """Report the epochs that were complete before."""
        self._progress.skip(self._steps * epochs)
        self._progress.say(f"resumed after epoch {epochs} of {self._epochs}")

    def log_epoch(self, epoch: Epoch) -> None:
        """Log the results of an epoch, and print them."""
        if self._live is None:
            return
        key, title = self._metric
        line = f"{self._label}: epoch {self._live.step + 1}/{self._epochs}"
        line += f"  train loss {epoch.train_loss:.4f}"
        self._live.log_metric("train/loss", epoch.train_loss)
        if epoch.val is not None:
            self._live.log_metric(f"val/{key}", epoch.val)
            line += f"  val {title} {epoch.val:.4f}"
        self._live.next_step()
        self._progress.say(line)


@contextmanager
def open_live(folder: Path, writes: bool) -> Iterator[Live | None]:
    """Open DVCLive's log in a folder; None in processes that do not write.

    Raises:
        UserError: if the git repository has no commit, which DVCLive needs.
    """
    if not writes:
        yield None
        return
    try:
        # Neither the root's dvc.yaml nor an experiment is written: this is a stage of a pipeline.
        live = Live(str(folder), dvcyaml=None, save_dvc_exp=False)
    except SCMError as error:
        raise UserError(f"DVCLive must find a commit in the git repository ({error})") from None
    with live:
        yield live
