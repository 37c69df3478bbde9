"""Download models from the Hugging Face Hub: data only, pinned to one commit, once.

HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and HF_HOME work as in huggingface_hub. No other server is
contacted.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainer_core.base_models.layout import FOURTH, OTHERS, WEIGHTS
from trainer_core.disk import writing
from trainer_core.errors import BaseModelError
from trainer_core.progress import Reporter
from trainer_core.whole_file import replace_text

_KINDS: Final = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
"""Weights, configurations, tokenizers. Never pickles, never code."""
_NEVER: Final = ("*.fp16.*", "*.non_ema.*")
"""Other versions of the same weights."""
_PINS: Final = "hub-commits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repo:
    """One commit of a repository."""

    name: str
    """``owner/name``."""
    commit: str
    folder: Path
    """Its snapshot in the Hub's cache. Holds a few small files until more are downloaded."""


def find_repo(name: str, home: Path) -> Repo:
    """The pinned commit of a repository, with its small configuration files.

    The newest commit of the default branch is looked up once, recorded under ``home`` and used from
    then on. So a run can be resumed after the repository changed.

    Raises BaseModelError if the repository does not exist or cannot be accessed or reached.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - takes a second, and is not always needed

    note = home / _PINS / name.replace("/", "--")
    pinned = _read_pin(note)
    few = ["transformer/config.json", "config.json", "text_encoder_4/config.json"]
    with _hub_errors_as_ours(name, note if pinned else None):
        folder = Path(snapshot_download(name, revision=pinned, allow_patterns=few))
    if pinned is None:
        note.parent.mkdir(parents=True, exist_ok=True)
        replace_text(note, f"{folder.name}\n")
    return Repo(name=name, commit=folder.name, folder=folder)


def _read_pin(note: Path) -> str | None:
    try:
        return note.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeError):
        return None


def fetch_main(repo: Repo, reporter: Reporter) -> Path:
    """The snapshot with all parts of a base model except the fourth text encoder."""
    return _fetch(repo, _files_of(*WEIGHTS, *OTHERS), [], reporter)


def fetch_main_and_fourth(repo: Repo, reporter: Reporter) -> Path:
    """The snapshot with all parts, from a repository that includes a fourth text encoder."""
    return _fetch(repo, _files_of(*WEIGHTS, *OTHERS, *FOURTH), [], reporter)


def fetch_fourth(repo: Repo, reporter: Reporter) -> Path:
    """The snapshot with a text encoder and its tokenizer, in sub-folders or at the top."""
    if (repo.folder / "text_encoder_4").is_dir():
        return _fetch(repo, _files_of(*FOURTH), [], reporter)
    return fetch_top(repo, reporter)


def fetch_top(repo: Repo, reporter: Reporter) -> Path:
    """The snapshot with what a repository of one model has at its top."""
    return _fetch(repo, list(_KINDS), ["*/*"], reporter)


def _files_of(*parts: str) -> list[str]:
    """Glob patterns of the files to download for these parts."""
    return [f"{part}/{kind}" for part in parts for kind in _KINDS]


def _fetch(repo: Repo, wanted: Sequence[str], never: Sequence[str], reporter: Reporter) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415

    class StoppableBar(tqdm):
        """The Hub's progress bar, updated for each chunk of a file, with a check for a stop."""

        def update(self, n: float | None = 1) -> Any:
            reporter.check_control()
            return super().update(n)

    reporter.log(f"{repo.name} at commit {repo.commit[:12]}: downloading the missing files")
    with _hub_errors_as_ours(repo.name, None):
        return Path(
            snapshot_download(
                repo.name,
                revision=repo.commit,
                allow_patterns=list(wanted),
                ignore_patterns=[*never, *_NEVER],
                tqdm_class=StoppableBar,
            )
        )


@contextmanager
def _hub_errors_as_ours(name: str, pin: Path | None) -> Iterator[None]:
    """Raise the Hub's errors as BaseModelError, each with a sentence on how to fix it.

    ``pin``: the file that records the commit; None if none is recorded.
    """
    from huggingface_hub import constants, errors  # noqa: PLC0415

    endpoint = constants.ENDPOINT
    elsewhere = "or name a local folder that has the model"
    try:
        with writing(Path(constants.HF_HUB_CACHE)):
            yield
    except errors.GatedRepoError as error:
        raise BaseModelError(
            f"{name} on {endpoint} is gated: accept its terms there and set HF_TOKEN to a token of "
            f"that account, {elsewhere}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BaseModelError(
            f"{endpoint} has no repository {name} that you can read: check the name, set HF_TOKEN "
            f"if it is private, {elsewhere}"
        ) from error
    except errors.RevisionNotFoundError as error:
        hint = f": delete {pin} to take the newest commit" if pin else ""
        raise BaseModelError(f"{name} no longer has the commit recorded here{hint}") from error
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise BaseModelError(
                f"{name} is incomplete in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE "
                f"forbids downloads: unset it once, {elsewhere}"
            ) from error
        raise BaseModelError(
            f"{name} is incomplete in the cache {constants.HF_HUB_CACHE}, and {endpoint} cannot be "
            f"reached: check the connection or HF_ENDPOINT, {elsewhere}"
        ) from error
    except errors.HFValidationError as error:
        raise BaseModelError(
            f"{name} is neither a folder here nor a repository's name (owner/name)"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise BaseModelError(
            f"{endpoint} answered {status} to a request for {name}: try again later, {elsewhere}"
        ) from error
