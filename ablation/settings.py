"""What is tried on which models: the section `ablation` of params.yaml."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tagging.errors import UserError
from tagging.parameters import Int, Section, check_names, load, parse, read_models, read_params

RESULTS = Path("ablation/results")
BASELINE = "none"  # the method that the others are compared with
SHARED = {"epochs": "epochs", "seed": "seeds"}  # of `train`, and what sets it here for all methods


def _all_different(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError("an item comes twice")
    return values


Seed = Annotated[Int, Field(ge=0)]


class Method(Section):
    """What a method changes of any model."""

    train: dict[str, Any] = Field({}, description="a mapping of what replaces entries of train")
    network: dict[str, Any] = Field(
        {}, description="a mapping of what replaces entries of a model's network"
    )


class Ablation(Section):
    """Every combination of a model, a method that it can take and a seed is one training."""

    models: Annotated[list[str], AfterValidator(_all_different)] = Field(
        description="a list of names of models, each once", min_length=1
    )
    seeds: Annotated[list[Seed], AfterValidator(_all_different)] = Field(
        description="a list of whole numbers of 0 or more, each once", min_length=1
    )
    epochs: Int = Field(description="a whole number of 1 or more", ge=1)
    methods: dict[str, Method] = Field(
        description="a mapping of names, each with a mapping of train, network or nothing"
    )


def load_ablation() -> Ablation:
    """Read and check the section.

    Raises:
        UserError: naming what is wrong, where it stands.
    """
    section = read_params().get("ablation")
    methods = section.get("methods") if isinstance(section, dict) else None
    if isinstance(methods, dict):
        check_names("ablation.methods", methods)
        for name, method in methods.items():
            parse(Method, method, f"ablation.methods.{name}")  # so that an error names its keys
    ablation = load(Ablation, "ablation")
    if ablation.methods.get(BASELINE) != Method():
        raise UserError(
            f"params.yaml: ablation.methods lacks {BASELINE}: {{}}, which the other methods are "
            "compared with"
        )
    for name, method in ablation.methods.items():
        for setting, here in SHARED.items():
            if setting in method.train:
                raise UserError(
                    f"params.yaml: ablation.methods.{name}.train.{setting} is not for a method to "
                    f"set; ablation.{here} is for all alike"
                )
    models = read_models()
    for name in ablation.models:
        if name not in models:
            raise UserError(
                f"params.yaml: ablation.models has {name!r}; the models are {', '.join(models)}"
            )
    return ablation
