"""Look up the paths that a configuration file names."""

from collections.abc import Sequence
from pathlib import Path


def search_folders(config_dir: Path, working_dir: Path) -> tuple[Path, ...]:
    """The folders in which a relative path is looked up, in order.

    The parent of the configuration's folder comes first: SimpleTuner's guides write
    ``config/lycoris_config.json`` in ``config/config.json``.
    """
    return config_dir.parent, config_dir, working_dir


def places_of(name: str, folders: Sequence[Path]) -> tuple[Path, ...]:
    """Every place where ``name`` is looked up, in order, without repetition; ``~`` is expanded."""
    given = expanded(name)
    return tuple(dict.fromkeys(folder / given for folder in folders))


def expanded(name: str | Path) -> Path:
    """The path with ``~`` expanded; unchanged if there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def find_folder(name: str, folders: Sequence[Path]) -> Path | None:
    """The first of ``places_of`` that is a folder; None if none is."""
    return next((place for place in places_of(name, folders) if is_folder(place)), None)


def find_file(name: str, folders: Sequence[Path]) -> Path | None:
    """The first of ``places_of`` that is a file; None if none is."""
    return next((place for place in places_of(name, folders) if is_file(place)), None)


def is_folder(path: Path) -> bool:
    """Whether the path is a folder; False if it cannot be read or its name is too long."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether the path is a file; False if it cannot be read or its name is too long."""
    try:
        return path.is_file()
    except OSError:
        return False
