"""Where a path that a configuration names may be meant from."""

from collections.abc import Sequence
from pathlib import Path


def search_folders(config_dir: Path, working_dir: Path) -> tuple[Path, ...]:
    """The folders that a relative path is tried from, in order.

    The parent of the configuration's folder comes first: SimpleTuner's guides write
    ``config/lycoris_config.json`` in ``config/config.json``.
    """
    return config_dir.parent, config_dir, working_dir


def places_of(name: str, folders: Sequence[Path]) -> tuple[Path, ...]:
    """Every place that ``name`` may mean, in order and each once; ``~`` is the home folder."""
    given = _expanded(name)
    return tuple(dict.fromkeys(folder / given for folder in folders))


def _expanded(name: str) -> Path:
    """As it stands where there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def find_folder(name: str, folders: Sequence[Path]) -> Path | None:
    """The first of the places that is a folder."""
    return next((place for place in places_of(name, folders) if is_folder(place)), None)


def is_folder(path: Path) -> bool:
    """No also where the system does not tell: a name too long, a way that may not be entered."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """As ``is_folder``."""
    try:
        return path.is_file()
    except OSError:
        return False
