"""Models on the Hugging Face hub: `hf:user/model` is fetched, and exported folders are uploaded.

The library `huggingface_hub` does both, so its cache, tokens, HF_ENDPOINT and offline mode apply.
Only `config.json` and tensors are fetched, so nothing is unpickled.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tagging.base.errors import UserError

PREFIX = "hf:"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
PICTURE = "results.png"
FILES = (WEIGHTS, CONFIG, "preprocessor_config.json", "README.md", PICTURE)  # of an export
EXPORT_KEYS = {"network", "input", "activation"}  # of an export's configuration
_REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?", re.ASCII)
_EXPECTED = "use a folder that tagging export --hf-dir wrote"


def is_export(config: Path) -> bool:
    """Return whether a configuration file is that of an exported model."""
    try:
        content = json.loads(config.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.keys() >= EXPORT_KEYS


def fetch_model(name: str) -> Path:
    """Return the file of a model on the hub, in the hub's cache; it is downloaded once.

    Args:
        name: `hf:user/model`, or `hf:user/model@revision` with a branch, a tag or a commit.

    Raises:
        UserError: if it does not exist, cannot be fetched, or is of another program.
    """
    match = _REPOSITORY.fullmatch(name.removeprefix(PREFIX))
    if match is None:
        raise UserError(
            f"the model must be {PREFIX}user/model or {PREFIX}user/model@revision, got {name!r}"
        )
    repository, revision = match.groups()
    with _hub_errors(name):
        from huggingface_hub import hf_hub_download

        config = Path(hf_hub_download(repository, CONFIG, revision=revision))
        if not is_export(config):
            raise UserError(f"{name} is a model of another program; {_EXPECTED}")
        # The folder is named by the commit: the weights are those of this configuration.
        return Path(hf_hub_download(repository, WEIGHTS, revision=config.parent.name))


def check_repository(name: str) -> None:
    """Refuse a name that is not a repository's.

    Raises:
        UserError: if it is not `user/model`.
    """
    match = _REPOSITORY.fullmatch(name)
    if match is None or match[2]:
        raise UserError(f"--push must be user/model, got {name!r}")


def push_folder(folder: Path, repository: str) -> str:
    """Upload an exported folder in one commit, to a repository that is created if it is new.

    Returns:
        The address of the commit.

    Raises:
        UserError: if the hub refuses it or cannot be reached.
    """
    with _hub_errors(repository):
        from huggingface_hub import HfApi

        api = HfApi(library_name="tagging")
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message="Export by tagging",
        )
        return str(commit.commit_url)


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn the library's errors into sentences.

    Raises:
        UserError: naming the model or repository.
    """
    try:
        from huggingface_hub import constants, errors
    except ImportError:
        raise UserError(
            "huggingface_hub is not installed; run pip install huggingface_hub"
        ) from None
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError:
        raise UserError(
            f"{name} is gated: accept its conditions on its page at {constants.ENDPOINT}, and set "
            "HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{name} does not exist at {constants.ENDPOINT}, or this user may not read it; check "
            "the name, or set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name} does not exist: the repository has no such revision") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        where = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "cannot be reached"
        reason = where if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} {where}"
        raise UserError(f"{name} is not in the hub's cache, and {reason}") from None
    except errors.EntryNotFoundError as error:
        missing = next((file for file in (CONFIG, WEIGHTS) if file in str(error)), "such file")
        raise UserError(f"{name} has no {missing}; {_EXPECTED}") from None
    except Exception as error:  # the HTTP library's own, which differ between versions
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"{name}: the hub's answer is an error: {reason}") from None
