"""`tagging export --hf-dir` and `--push`: a model as a folder for the Hugging Face hub."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file

from tagging.base.errors import UserError
from tagging.base.files import atomic_write, write_text
from tagging.commands.hub import (
    CONFIG,
    FILES,
    PICTURE,
    WEIGHTS,
    check_repository,
    is_export,
    push_folder,
)
from tagging.commands.model_card import draw_results, render_card
from tagging.commands.models import find_model
from tagging.commands.output_paths import check_parent
from tagging.commands.tagger import Tagger
from tagging.commands.transformers_layout import (
    LAYOUT,
    describe_config,
    describe_features,
    to_transformers,
)
from tagging.data.clips import write_json
from tagging.features import log_mel


def push_model(name: str, repository: str, folder: Path | None = None) -> str:
    """Export a model and upload it; return the address of the commit.

    Args:
        name: of the model, as for `find_model`.
        repository: `user/model`.
        folder: to write; None for a temporary one.

    Raises:
        UserError: if the model or the repository's name is not valid, or the hub refuses it.
    """
    check_repository(repository)
    with TemporaryDirectory() as temporary:
        target = Path(temporary) if folder is None else folder
        export_hub(name, target, repository)
        return push_folder(target, repository)


def export_hub(name: str, folder: Path, repository: str | None = None) -> None:
    """Write the weights, two configuration files, a model card and a chart of its results.

    A network that the library `transformers` knows gets its layout, so that it loads there too.

    Args:
        name: of the model, as for `find_model`.
        folder: to write.
        repository: the place on the hub that the card names.

    Raises:
        UserError: if the model does not exist, or the folder has other files of these names.
        OSError: if the disk is full.
    """
    _check_folder(folder)
    tagger = Tagger(find_model(name))
    architecture = describe_config(tagger.metadata)
    _write_weights(tagger, folder / WEIGHTS, architecture is not None)
    write_json(folder / CONFIG, _describe_model(tagger, architecture))
    features = _describe_features(tagger, architecture is not None)
    write_json(folder / "preprocessor_config.json", features)
    picture = draw_results(tagger)
    if picture is None:
        (folder / PICTURE).unlink(missing_ok=True)
    else:
        with atomic_write(folder / PICTURE) as partial:
            partial.write_bytes(picture)
    library = "tagging" if architecture is None else "transformers"
    write_text(folder / "README.md", render_card(tagger, repository, library, picture is not None))


def _write_weights(tagger: Tagger, path: Path, for_transformers: bool) -> None:
    description = {**tagger.metadata, "saved_epochs": []}
    description.pop("layout", None)
    weights = {key: value.contiguous() for key, value in tagger.network.state_dict().items()}
    metadata = {}
    if for_transformers:
        weights = to_transformers(weights)
        description["layout"] = LAYOUT
        metadata["format"] = "pt"  # older versions of transformers refuse files without it
    with atomic_write(path) as partial:
        save_file(weights, partial, {**metadata, "model": json.dumps(description)})


def _describe_model(tagger: Tagger, architecture: dict[str, Any] | None) -> dict[str, Any]:
    spec, metadata = tagger.model_spec, tagger.metadata
    config = {
        **(
            architecture
            or {
                "model_type": f"tagging-{metadata['architecture']}",
                "architectures": [metadata["architecture"]],
            }
        ),
        "network": metadata["network"],
        "input": spec.spec._asdict(),
        "num_labels": len(tagger.classes),
        "id2label": {str(number): label for number, label in enumerate(tagger.classes)},
        "label2id": {label: number for number, label in enumerate(tagger.classes)},
        "problem_type": "single_label_classification"
        if spec.activation == "softmax"
        else "multi_label_classification",
        "activation": spec.activation,
    }
    decision = ("target_precision", "thresholds", "calibration", "recordings")
    return config | {key: metadata[key] for key in decision if key in metadata}


def _describe_features(tagger: Tagger, for_transformers: bool) -> dict[str, Any]:
    settings = getattr(tagger.frontend, "settings", None)
    if for_transformers and isinstance(settings, log_mel.Settings):
        described = describe_features(settings, tagger.model_spec.spec.frames)
        if described is not None:
            return described
    features = dict(tagger.model_spec.features)
    return {
        "feature_extractor_type": features.pop("name"),
        **({"sampling_rate": tagger.sample_rate} if tagger.frontend is not None else {}),
        # With the numbers of a preset.
        **(features if settings is None else settings.model_dump()),
    }


def _check_folder(folder: Path) -> None:
    """Refuse a folder whose files are not an export's, as they would be lost.

    Raises:
        UserError: naming the files.
    """
    check_parent("--hf-dir", folder / FILES[0])
    existing = [name for name in FILES if os.path.lexists(folder / name)]
    if existing and not is_export(folder / CONFIG):
        raise UserError(
            f"--hf-dir: {folder} must be a new folder or an earlier export, it has "
            f"{', '.join(existing)} of another origin"
        )
