"""Finding a model's file: by path, by the name of published weights, or by name in a project."""

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tagging.base.errors import UserError
from tagging.commands import hub
from tagging.commands.project import find_project
from tagging.sources.weights import PUBLISHED, require_verified

DEFAULT_SOUND_MODEL = "mn04_as"
DEFAULT_EMBEDDING_MODEL = Path(__file__).with_name("yac_distilled.safetensors")
SUFFIX = ".safetensors"
_WITHOUT_DVC = " (DVC is not installed; with it, models in its cache and remote are used as well)"


def cache_folder() -> Path:
    """Return the folder of downloaded models: `tagging` in XDG_CACHE_HOME or ~/.cache.

    Raises:
        UserError: if neither is known.
    """
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "tagging"
    try:
        return Path.home() / ".cache" / "tagging"
    except RuntimeError:  # no HOME, and the system does not know the user
        raise UserError(
            "the folder of downloaded models is unknown, because this user has no home folder; set "
            "XDG_CACHE_HOME to a folder"
        ) from None


def find_model(name: str) -> Path:
    """Return the file of a model; published weights and models of the hub are downloaded once.

    Args:
        name: `hf:user/model` or `hf:user/model@revision` on the Hugging Face hub; a file; a folder
            of runs (`models/yac`), whose first run is returned; published weights (`mn04_as`); or a
            model of the project around the working directory (`yac`, or one of its runs,
            `yac/seed1`). A model that is not checked out comes from DVC's cache or remote.

    Raises:
        UserError: if the model does not exist, several tasks have a model of this name, or the
            disk is not writable.
    """
    if name.startswith(hub.PREFIX):
        return hub.fetch_model(name)
    path = Path(name)
    if path.is_file():
        return path
    if _has_models(path):
        return _first_run(path)
    if name in PUBLISHED:
        return _published_model(name)
    root = find_project()
    is_name = bool(re.fullmatch(r"[\w-]+(/[\w-]+)?", name))
    if root and is_name:
        folders = [root / "models", *sorted(root.glob("tasks/*/models"))]
        candidates = [
            candidate
            for folder in folders
            for candidate in (folder / name, folder / f"{name}{SUFFIX}")
            if candidate.is_file() or _has_models(candidate)
        ]
        if len(candidates) > 1:
            listed = ", ".join(str(candidate.relative_to(root)) for candidate in candidates)
            raise UserError(f"several models are called {name!r}: {listed}; use one of these paths")
        if candidates:
            return candidates[0] if candidates[0].is_file() else _first_run(candidates[0])
    has_dvc = importlib.util.find_spec("dvc") is not None
    if root and has_dvc and (copy := _copy_from_dvc(root, path, is_name)):
        return copy
    raise UserError(
        f"model {name!r} does not exist; use a file (*{SUFFIX}), a model of the project around the "
        f"working directory{_WITHOUT_DVC if root and not has_dvc else ''}, of the Hugging Face hub "
        f"({hub.PREFIX}user/model), or published weights: {', '.join(PUBLISHED)}"
    )


def path_in_project(path: Path) -> Path:
    """Return the path of a model's file in its project, also of a copy that came from DVC."""
    with suppress(UserError):  # without a cache there are no copies
        root, copies = find_project(), cache_folder() / "dvc"
        if root and path.is_relative_to(copies):
            return root.joinpath(*path.relative_to(copies).parts[1:])  # without the hash
    return path.resolve()


def display_name(path: Path) -> str:
    """Return the name of a model in results: `mn04_as`, `yac/seed0`, `user/model` of the hub.

    A file of an exported folder is named by the folder.
    """
    if path.name == hub.WEIGHTS:
        folder = path.absolute().parent
        cached = re.fullmatch(r"models--([^/]+)", folder.parent.parent.name)
        return cached[1].replace("--", "/", 1) if cached else folder.name
    return f"{path.parent.name}/{path.stem}" if _is_run(path) else path.stem


def _has_models(path: Path) -> bool:
    return path.is_dir() and any(path.glob(f"*{SUFFIX}"))


def _is_run(path: Path) -> bool:
    return re.fullmatch(r"(fold\d+-)?seed\d+", path.stem) is not None


def _natural_order(path: Path) -> tuple[Any, ...]:
    """Sort fold10 after fold2."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem))


def _first_run(folder: Path) -> Path:
    files = sorted(folder.glob(f"*{SUFFIX}"), key=_natural_order)
    runs = [file for file in files if _is_run(file)]
    if not runs and len(files) != 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"{folder} has several models ({names}); use one of these files")
    return (runs or files)[0]


def _published_model(name: str) -> Path:
    require_verified(name)
    cached = cache_folder() / f"{name}{SUFFIX}"
    if not cached.is_file():
        # Imported here, as only a download needs what converts weights.
        from tagging.learning.published_models import fetch_published

        with _temporary_folder(cached) as folder:
            fetch_published(name, folder, "auto").replace(cached)
    return cached


@contextmanager
def _temporary_folder(cached: Path) -> Iterator[Path]:
    """Create a folder beside a file of the cache, as another process may write the same file.

    Raises:
        UserError: if the disk is not writable.
    """
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cached.parent) as folder:
            yield Path(folder)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and cached.parent.is_dir():
            raise  # of the file that was to be copied
        raise UserError(
            f"{cached.name} cannot be written to {cached.parent} ({error.strerror or error}); "
            "set XDG_CACHE_HOME to another folder"
        ) from None


def _copy_from_dvc(root: Path, path: Path, is_name: bool) -> Path | None:
    """Return a copy of a model that DVC tracks, or None where DVC does not track it.

    Args:
        root: of the project.
        path: a model's path or name.
        is_name: whether `path` may be a name.

    Raises:
        UserError: if DVC tracks the file, but neither its cache nor its remote has it.
    """
    from dvc.api import DVCFileSystem  # its import takes seconds

    candidates = []
    with suppress(ValueError):  # on another drive
        candidates.append(Path(os.path.relpath(path.resolve(), root.resolve())))
    if is_name:
        tasks = sorted(task.relative_to(root) for task in root.glob("tasks/*") if task.is_dir())
        candidates += [folder / "models" / path for folder in (Path(), *tasks)]
    try:
        files = DVCFileSystem(str(root))
        tracked = {Path(os.path.relpath(out.fs_path, root)) for out in files.repo.index.outs}
        tracked |= {out.parent for out in tracked}
        for candidate in candidates:
            for model in (candidate, candidate.with_name(f"{candidate.name}{SUFFIX}")):
                folder = model.parent if model.suffix == SUFFIX else model
                # DVC knows only tracked folders, and lists them unless their content is missing.
                if folder not in tracked:
                    continue
                runs = [Path(run) for run in files.ls(folder.as_posix(), detail=False)]
                if folder in runs:  # a folder without a list of its files
                    raise FileNotFoundError
                runs = sorted((run for run in runs if run.suffix == SUFFIX), key=_natural_order)
                if runs and (folder == model or model in runs):
                    return _cache_copy(files, (runs[0] if folder == model else model).as_posix())
    except FileNotFoundError:
        raise UserError(
            f"{path} is neither checked out nor in DVC's cache or remote; run dvc pull or dvc repro"
        ) from None
    except (UserError, OSError):
        raise
    except Exception as error:  # DVC's libraries raise any
        raise UserError(f"DVC cannot read {path} ({error}); run dvc pull or dvc repro") from None
    return None


def _cache_copy(files: Any, path: str) -> Path:
    """Copy a file that DVC tracks into the cache, to a folder of its hash.

    Args:
        files: a `DVCFileSystem`.
        path: of the file in the project.
    """
    md5 = (files.info(path).get("dvc_info") or {}).get("md5", "none")
    cached = cache_folder() / "dvc" / str(md5) / path.lstrip("/")
    if not cached.is_file():
        with _temporary_folder(cached) as folder:
            partial = folder / cached.name
            files.get_file(path, str(partial))
            shutil.move(partial, cached)
    return cached
