"""What of the published study is trained again: the section `grid` of replication/params.yaml."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from tagging.parameters import Float, Int, Section, parse, read_params

FOLDER = Path("replication")
RESULTS = FOLDER / "results"

LearningRate = Annotated[Float, Field(gt=0)]
Count = Annotated[Int, Field(ge=1)]
Seed = Annotated[Int, Field(ge=0)]
Looks = Annotated[list[Count], Field(min_length=1)]


class Grid(Section):
    """Every combination of a learning rate, loss, head and seed is one run."""

    lrs: list[LearningRate] = Field(description="a list of learning rates above 0", min_length=1)
    losses: list[Literal["msml", "ce"]] = Field(description="a list of msml, ce", min_length=1)
    heads: list[Literal["softmax", "logits"]] = Field(
        description="a list of softmax, logits", min_length=1
    )
    seeds: list[Seed] = Field(description="a list of whole numbers of 0 or more", min_length=1)
    epochs: dict[Seed, Looks] = Field(
        description="for each of grid.seeds a list of epochs, 1 or more, at which its runs are "
        "looked at"
    )
    batch_size: Int = Field(description="a whole number of clips, 2 or more", ge=2)

    @field_validator("epochs")
    @classmethod
    def _for_all_seeds(
        cls, epochs: dict[int, list[int]], info: ValidationInfo
    ) -> dict[int, list[int]]:
        if not set(info.data.get("seeds", ())) <= set(epochs):
            raise ValueError("a seed has none")
        return epochs


def load_grid() -> Grid:
    """Read the settings.

    Raises:
        UserError: naming the key that is wrong.
    """
    return parse(Grid, read_params(FOLDER / "params.yaml").get("grid"), "grid")
