"""`tagging export --hub`: a model as a folder for the Hugging Face hub."""

import json
import os
from pathlib import Path

from safetensors.torch import save_file

from tagging.base.errors import UserError
from tagging.base.files import atomic_write, write_text
from tagging.commands.model_card import render_card
from tagging.commands.models import find_model
from tagging.commands.output_paths import check_parent
from tagging.commands.tagger import Tagger
from tagging.data.clips import write_json

FILES = ("model.safetensors", "config.json", "preprocessor_config.json", "README.md")
MODEL_TYPE_PREFIX = "tagging-"


def export_hub(name: str, folder: Path) -> None:
    """Write the weights, two configuration files and a model card.

    Raises:
        UserError: if the model does not exist, or the folder has other files of these names.
        OSError: if the disk is full.
    """
    _check_folder(folder)
    tagger = Tagger(find_model(name))
    with atomic_write(folder / "model.safetensors") as partial:
        metadata = {**tagger.metadata, "saved_epochs": []}
        weights = {key: value.contiguous() for key, value in tagger.network.state_dict().items()}
        save_file(weights, partial, {"model": json.dumps(metadata)})
    spec = tagger.model_spec
    config = {
        "model_type": f"{MODEL_TYPE_PREFIX}{tagger.metadata['architecture']}",
        "architectures": [tagger.metadata["architecture"]],
        "network": tagger.metadata["network"],
        "input": spec.spec._asdict(),
        "num_labels": len(tagger.classes),
        "id2label": {str(number): label for number, label in enumerate(tagger.classes)},
        "label2id": {label: number for number, label in enumerate(tagger.classes)},
        "problem_type": "single_label_classification"
        if spec.activation == "softmax"
        else "multi_label_classification",
        "activation": spec.activation,
    }
    if "thresholds" in tagger.metadata:
        config |= {key: tagger.metadata[key] for key in ("target_precision", "thresholds")}
    write_json(folder / "config.json", config)
    features = dict(spec.features)
    settings = getattr(tagger.frontend, "settings", None)
    write_json(
        folder / "preprocessor_config.json",
        {
            "feature_extractor_type": features.pop("name"),
            **({"sampling_rate": tagger.sample_rate} if tagger.frontend is not None else {}),
            # With the numbers of a preset.
            **(features if settings is None else settings.model_dump()),
        },
    )
    write_text(folder / "README.md", render_card(tagger))


def _check_folder(folder: Path) -> None:
    """Refuse a folder whose files are not an export's, as they would be lost.

    Raises:
        UserError: naming the files.
    """
    check_parent("--hub", folder / FILES[0])
    try:
        config = json.loads((folder / "config.json").read_bytes())
        is_export = config["model_type"].startswith(MODEL_TYPE_PREFIX)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        is_export = False
    existing = [name for name in FILES if os.path.lexists(folder / name)]
    if existing and not is_export:
        raise UserError(
            f"--hub: {folder} must be a new folder or an earlier export, it has "
            f"{', '.join(existing)} of another origin"
        )
