"""What a task asks: labels, one a clip or several, or what is similar; and which metrics tell."""

from typing import Literal

from pydantic import Field

from tagging.parameters import Section, load

METRIC = "the name of a file in tagging/scoring/metrics, without its .py"


class Task(Section):
    """The section `task`."""

    kind: Literal["multi_label", "single_label", "similarity"] = Field(
        description="multi_label (a clip has one label or more), single_label (exactly one) or "
        "similarity (embeddings, of which near ones are to share labels)"
    )
    chooses: str = Field(
        description=f"{METRIC}: by it validation chooses epochs and models, and intervals are given"
    )
    shown: list[str] = Field(description=f"a list of such names, {METRIC}", min_length=1)
    features: str = Field(
        "vggish", description="the name of the feature that models take where they name no other"
    )
    pooled: bool = Field(
        True,
        strict=True,
        description="true (clips that are windows of one recording are scored as one, by their "
        "mean probability; during training each validates alone) or false (each is scored alone)",
    )

    @property
    def embeds(self) -> bool:
        """Whether networks answer with embeddings, not with classes."""
        return self.kind == "similarity"

    @property
    def complete(self) -> tuple[str, ...]:
        """The parts, of train, val and test, in which every class must have clips."""
        if self.embeds:  # what is similar is asked of classes never seen as well
            return ()
        # Of several labels a clip, a rare one need not validate: metrics are means over the others.
        return ("train", "val", "test") if self.kind == "single_label" else ("train", "test")


def load_task() -> Task:
    """Read the section `task` of params.yaml.

    Raises:
        UserError: if it is missing or not as it should be.
    """
    return load(Task, "task")
