"""What of the published study is trained again: the section `published` of params.yaml."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tagging.parameters import Float, Int, Section

RESULTS = Path("published/results")

LearningRate = Annotated[Float, Field(gt=0)]
Count = Annotated[Int, Field(ge=1)]
Seed = Annotated[Int, Field(ge=0)]


class Published(Section):
    """Every combination of these is one run."""

    lrs: list[LearningRate] = Field(description="a list of learning rates above 0", min_length=1)
    losses: list[Literal["msml", "ce"]] = Field(description="a list of msml, ce", min_length=1)
    heads: list[Literal["softmax", "logits"]] = Field(
        description="a list of softmax, logits", min_length=1
    )
    epochs: list[Count] = Field(
        description="a list of epochs, 1 or more, at which runs are looked at", min_length=1
    )
    seeds: list[Seed] = Field(description="a list of whole numbers of 0 or more", min_length=1)
    batch_size: Int = Field(description="a whole number of clips, 2 or more", ge=2)
