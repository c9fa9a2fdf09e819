"""Finding a model: by the name that it was published under, by that of this project, or by path."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tagging.base.errors import UserError
from tagging.sources.weights import PUBLISHED

SOUND = "mn04_as"  # what tags recordings unless another is asked for
EMBEDDINGS = Path(__file__).with_name("yac_distilled.safetensors")  # likewise, AudioSet's records
SUFFIX = ".safetensors"


def cache_folder() -> Path:
    """Return where published weights are kept: `tagging` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tagging"


def find(name: str) -> Path:
    """Return the file of a model; published weights are fetched once.

    Args:
        name: a file, a folder of runs (`models/yac`; its first run is taken), the name of published
            weights, or that of a model of the project that the working directory is in (`yac`, or
            `yac/seed1` for one of its runs). What DVC keeps and is not checked out is had from it.

    Raises:
        UserError: if there is none, several tasks have one of that name, or it cannot be kept.
    """
    path = Path(name)
    if path.is_file():
        return path
    if _holds_models(path):
        return _first_run(path)
    if name in PUBLISHED:
        return _published(name)
    root = project()
    named = root and re.fullmatch(r"[\w-]+(/[\w-]+)?", name)
    if named:
        folders = [root / "models", *sorted(root.glob("tasks/*/models"))]
        places = [
            place for folder in folders for place in (folder / name, folder / f"{name}{SUFFIX}")
        ]
        there = [place for place in places if place.is_file() or _holds_models(place)]
        if len(there) > 1:
            shown = ", ".join(str(place.relative_to(root)) for place in there)
            raise UserError(f"several models are called {name!r}: {shown}; give one of these paths")
        if there:
            return there[0] if there[0].is_file() else _first_run(there[0])
    if root and (kept := _from_dvc(root, path, named=bool(named))):
        return kept
    raise UserError(
        f"there is no model {name!r}; it takes a file (*{SUFFIX}), the name of a model of the "
        f"project that you are in, or of published weights: {', '.join(PUBLISHED)}"
    )


def origin(path: Path) -> Path:
    """Return where a model's file lies in its project: a copy of what DVC keeps lies elsewhere."""
    root, copies = project(), cache_folder() / "dvc"
    if root and path.is_relative_to(copies):
        return root.joinpath(*path.relative_to(copies).parts[1:])  # without the hash
    return path.resolve()


def shown(path: Path) -> str:
    """Return what a model's file is called in answers: `mn04_as`, `yac/seed0`."""
    return f"{path.parent.name}/{path.stem}" if _is_run(path) else path.stem


def _holds_models(path: Path) -> bool:
    return path.is_dir() and any(path.glob(f"*{SUFFIX}"))


def _is_run(path: Path) -> bool:
    return re.fullmatch(r"(fold\d+-)?seed\d+", path.stem) is not None


def _order(path: Path) -> tuple[Any, ...]:
    """Sort fold10 behind fold2."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem))


def _first_run(folder: Path) -> Path:
    files = sorted(folder.glob(f"*{SUFFIX}"), key=_order)
    runs = [file for file in files if _is_run(file)]
    if not runs and len(files) != 1:
        held = ", ".join(file.name for file in files)
        raise UserError(f"{folder} holds several models ({held}); give one of these files")
    return (runs or files)[0]


def project() -> Path | None:
    """Return the root of the DVC project that the working directory is in."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), None)


def _published(name: str) -> Path:
    kept = cache_folder() / f"{name}{SUFFIX}"
    if not kept.is_file():
        from stages.weights import bring  # what converts weights is not needed to read them

        with _folder_beside(kept) as folder:
            bring(name, folder, "auto").replace(kept)
    return kept


@contextmanager
def _folder_beside(kept: Path) -> Iterator[Path]:
    """Give an empty folder beside a file that is to be kept: another process may be at it too.

    Raises:
        UserError: if the disk does not take it.
    """
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=kept.parent) as folder:
            yield Path(folder)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and kept.parent.is_dir():
            raise  # of what was to be copied
        raise UserError(
            f"{kept.name} cannot be kept in {kept.parent} ({error.strerror or error}); "
            "XDG_CACHE_HOME may name another folder"
        ) from None


def _from_dvc(root: Path, path: Path, named: bool) -> Path | None:
    """Return a copy of what DVC keeps for `path`, or None where it keeps nothing.

    Args:
        named: whether `path` is a model's name, not a path.

    Raises:
        UserError: if DVC knows the file, but neither its cache nor its remote has it.
    """
    from dvc.api import DVCFileSystem  # takes seconds

    places = []
    with suppress(ValueError):  # on another drive
        places.append(Path(os.path.relpath(path.resolve(), root.resolve())))
    if named:
        tasks = sorted(task.relative_to(root) for task in root.glob("tasks/*") if task.is_dir())
        places += [folder / "models" / path for folder in (Path(), *tasks)]
    try:
        files = DVCFileSystem(str(root))
        kept = {Path(os.path.relpath(out.fs_path, root)) for out in files.repo.index.outs}
        kept |= {out.parent for out in kept}
        for place in places:
            for wanted in (place, place.with_name(f"{place.name}{SUFFIX}")):
                folder = wanted.parent if wanted.suffix == SUFFIX else wanted
                # Of others DVC knows nothing, and of these it tells when they cannot be had.
                if folder not in kept:
                    continue
                runs = [Path(run) for run in files.ls(folder.as_posix(), detail=False)]
                if folder in runs:  # a folder of which DVC has no list
                    raise FileNotFoundError
                runs = sorted((run for run in runs if run.suffix == SUFFIX), key=_order)
                if runs and (folder == wanted or wanted in runs):
                    return _copied(files, (runs[0] if folder == wanted else wanted).as_posix())
    except FileNotFoundError:
        raise UserError(
            f"{path} is neither checked out nor in DVC's cache or remote; run dvc pull or dvc repro"
        ) from None
    except (UserError, OSError):
        raise
    except Exception as error:  # of DVC's libraries, any
        raise UserError(f"DVC cannot give {path} ({error}); run dvc pull or dvc repro") from None
    return None


def _copied(files: Any, wanted: str) -> Path:
    """Copy a file that DVC keeps into a folder of its hash, by its path in the project."""
    about = files.info(wanted).get("dvc_info") or {}
    kept = cache_folder() / "dvc" / str(about.get("md5", "none")) / wanted.lstrip("/")
    if not kept.is_file():
        with _folder_beside(kept) as folder:
            partial = folder / kept.name
            files.get_file(wanted, str(partial))
            shutil.move(partial, kept)
    return kept
