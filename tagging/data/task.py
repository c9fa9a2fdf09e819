"""The section `task` of a params.yaml: what labels clips have, and which metrics count."""

from typing import Literal

from pydantic import Field, model_validator

from tagging.data.parameters import Int, Section


class MetricSettings(Section):
    """A metric: the name of a file in tagging/scoring/metrics, and its parameters if it has any."""

    name: str
    k: Int | None = Field(None, ge=1)  # number of ranked classes or of nearest clips

    @property
    def key(self) -> str:
        """The metric's key in JSON files, tables and logs: `ndcg`, `recall_at_8`."""
        return self.name if self.k is None else f"{self.name}_at_{self.k}"


class Task(Section):
    """The section `task`."""

    # A clip has one label or more; exactly one; or clips with shared labels get near embeddings.
    type: Literal["multi_label", "single_label", "similarity"]
    # DVC's headline metrics. The first selects epochs and models on the validation split.
    metrics: list[MetricSettings] = Field(min_length=1)
    report_metrics: list[MetricSettings] = Field([])  # further metrics on pages
    features: str = "vggish"  # of models that name no other
    # Windows of a recording are scored as one, by their mean probability. Validation during
    # training scores each window alone.
    aggregate: Literal["recording"] | None = "recording"

    @model_validator(mode="after")
    def _refuse_duplicates(self) -> "Task":
        keys = [metric.key for metric in (*self.metrics, *self.report_metrics)]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"must name each metric once: {key} is repeated")
        return self

    @property
    def selection_metric(self) -> MetricSettings:
        """The metric that selects epochs and models on the validation split."""
        return self.metrics[0]

    @property
    def is_similarity(self) -> bool:
        """Whether networks return embeddings instead of classes."""
        return self.type == "similarity"

    @property
    def complete_splits(self) -> tuple[str, ...]:
        """The splits, of train, val and test, in which every class must have clips."""
        if self.is_similarity:  # queries may have classes that were never trained on
            return ()
        # With several labels a clip, rare ones may lack validation clips: metrics skip them.
        return ("train", "val", "test") if self.type == "single_label" else ("train", "test")
