"""Find the CLIP model that scores pictures: a folder, or a repository of the Hub.

Imports no torch; ``validation.clip_score`` loads it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from trainer_core.base_models import fetch as hub
from trainer_core.base_models.describe import home_of
from trainer_core.base_models.layout import read_config
from trainer_core.base_models.resolve import is_hub_name
from trainer_core.config.plan.frozen import digest_of
from trainer_core.digests import sha256_of
from trainer_core.errors import BaseModelError
from trainer_core.paths import find_folder, places_of
from trainer_core.progress import Reporter

_CONFIG: Final = "config.json"
_PROCESSORS: Final = ("preprocessor_config.json", "processor_config.json")
"""How pictures are read; transformers 5 writes the second one."""
_LOADED: Final = (".json", ".safetensors", ".txt")
"""Files that the model, its tokenizer and its image processor may be loaded from."""
_MODEL_TYPE: Final = "clip"


def find_clip(
    name: str, env: Mapping[str, str], folders: Sequence[Path]
) -> Callable[[Reporter], Path]:
    """Check that the model exists; returns a function that obtains its files, and their folder.

    Args:
        name: a folder, or ``owner/name`` on the Hub.
        env: REVERIE_HOME is read, where the commit of a repository is recorded.
        folders: a relative path is looked up in each of these, in order.

    Raises BaseModelError, as the function does; the message says what to do.
    """
    folder = find_folder(name, folders)
    if folder is not None:
        found = folder.absolute()
        check_clip_folder(found)
        return lambda _: found
    if not is_hub_name(name):
        tried = ", ".join(str(place)[:300] for place in places_of(name, folders))
        raise BaseModelError(
            f"pretrained_evaluation_model_name_or_path: there is no CLIP model {name[:200]}; these "
            f"places were tried: {tried}"
        )
    repo = hub.find_repo(name, home_of(env))
    _check_kind(repo.folder)

    def obtain(reporter: Reporter) -> Path:
        fetched = hub.fetch_top(repo, reporter)
        check_clip_folder(fetched)
        return fetched

    return obtain


def check_clip_folder(folder: Path) -> None:
    """Raise BaseModelError where a file is missing that the model is loaded from."""
    _check_kind(folder)
    if not any(folder.glob("*.safetensors")):
        raise BaseModelError(
            f"{folder} has no weights in safetensors, and no others are read: pickled weights can "
            "run code. Name another CLIP model in pretrained_evaluation_model_name_or_path"
        )
    if not any((folder / name).is_file() for name in _PROCESSORS):
        raise BaseModelError(f"{folder} lacks {_PROCESSORS[0]}, which says how pictures are read")
    has_words = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if not has_words and not (folder / "tokenizer.json").is_file():
        raise BaseModelError(
            f"{folder} has no tokenizer: it needs tokenizer.json, or vocab.json and merges.txt"
        )


def clip_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of the files that the model is loaded from.

    Raises OSError. Hashing takes seconds where the weights have gigabytes.
    """
    files = sorted(each for each in folder.iterdir() if each.suffix in _LOADED)
    return digest_of({each.name: sha256_of(each) for each in files})


def _check_kind(folder: Path) -> None:
    try:
        kind = read_config(folder / _CONFIG).get("model_type")
    except BaseModelError as error:
        raise BaseModelError(
            f"{error.message}; pretrained_evaluation_model_name_or_path has to name the folder of "
            "a CLIP model"
        ) from error
    if kind != _MODEL_TYPE:
        raise BaseModelError(
            f"{folder} is no CLIP model: the model_type in its {_CONFIG} is {str(kind)[:60]}"
        )
