"""A method on a model: whether the model can take it, and what is then trained."""

from ablation.settings import Ablation, Method
from tagging.errors import UserError
from tagging.models import Model, load_model
from tagging.parameters import load, parse, read_params
from tagging.training import Train


def applies(method: Method, model: Model) -> bool:
    """Tell whether a model's network has all the settings that the method changes."""
    return method.network.keys() <= model.network.keys()


def find(model_name: str, method_name: str, ablation: Ablation) -> tuple[Model, Method]:
    """Return a model and a method by their names.

    Raises:
        UserError: if `ablation` has no such model or method, or no model can take the method.
    """
    for section, name in (("models", model_name), ("methods", method_name)):
        there = getattr(ablation, section)
        if name not in there:
            raise UserError(
                f"params.yaml: ablation.{section} has no {name!r}; it has {', '.join(there)}"
            )
    method = ablation.methods[method_name]
    models = [load_model(name) for name in ablation.models]
    if not any(applies(method, model) for model in models):
        settings = ", ".join(sorted({key for model in models for key in model.network}))
        raise UserError(
            f"params.yaml: ablation.methods.{method_name}.network has settings that no model of "
            f"ablation.models has together; the settings there are {settings}"
        )
    return load_model(model_name), method


def change_network(model: Model, method: Method) -> Model:
    """Return a model with what the method changes of its network."""
    return model.model_copy(update={"network": {**model.network, **method.network}})


def train_settings(model_name: str, method_name: str, ablation: Ablation, seed: int) -> Train:
    """Return how a model is trained with a method.

    On top of `train` comes the model's own, on top of that the ablation's epochs, the method and
    the seed.

    Raises:
        UserError: naming the key that is wrong, where it stands.
    """
    load(Train, "train")
    own = {**read_params()["train"], **load_model(model_name).train}
    parse(Train, own, f"models.{model_name}.train")
    method = ablation.methods[method_name].train
    values = {**own, "epochs": ablation.epochs, **method, "seed": seed}
    return parse(Train, values, f"ablation.methods.{method_name}.train")
