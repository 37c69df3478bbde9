"""Obtain a base model's weights: a folder on this machine that can be loaded.

``resolve`` decides which model a name refers to. HiDream-I1's repository has no fourth text
encoder, so that part comes from another repository or folder.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from trainer_core.base_models import fetch as hub
from trainer_core.base_models.compose import compose, composed_folder
from trainer_core.base_models.describe import (
    BaseModel,
    described_files,
    home_of,
    listed_base_models,
    read_base_model,
)
from trainer_core.base_models.hash_once import describe_folder, digest_folder
from trainer_core.base_models.known import FOURTH_ENCODER, TEST_MODELS
from trainer_core.base_models.layout import (
    fourth_parts,
    has_fourth,
    main_parts,
    transformer_config,
)
from trainer_core.base_models.resolve import (
    HubName,
    Known,
    Listed,
    LocalFolder,
    NoModel,
    NotFound,
    is_hub_name,
    resolve,
)
from trainer_core.base_models.shape import check_transformer
from trainer_core.base_models.unchanged import check_described, check_downloaded
from trainer_core.config.plan.frozen import digest_of
from trainer_core.errors import BaseModelError
from trainer_core.paths import find_folder, places_of
from trainer_core.progress import Reporter, SilentReporter


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundBase:
    """A base model that exists; its weights may not be on this machine yet."""

    name: str
    transformer_config: Mapping[str, Any]
    obtain: Callable[[Reporter, str | None], BaseModel]
    """Downloads, hashes and composes the model as needed.

    Its second argument is the repository or folder of the fourth text encoder; None: the model's
    own, or ``FOURTH_ENCODER``. Raises BaseModelError."""

    def provisional(self) -> BaseModel:
        """The model with a digest of zeros, to check a plan before a long download."""
        return BaseModel(
            name=self.name,
            folder=Path(),
            digest="0" * 64,
            transformer_config=self.transformer_config,
        )


def obtain_base(
    name: str,
    *,
    env: Mapping[str, str],
    folders: Sequence[Path],
    fourth_encoder: str | None = None,
    reporter: Reporter | None = None,
) -> BaseModel:
    """The base model on this machine, with its digest; its folder can be loaded.

    Args:
        name: a model in REVERIE_MODELS_DIR, a folder, a test model, or ``owner/name`` on the Hub.
        env: REVERIE_MODELS_DIR and REVERIE_HOME (``~/.reverie``) are read.
        folders: a relative path is looked up in each of these, in order.
        fourth_encoder: repository or folder of Llama and its tokenizer; None: the model's, or
            ``FOURTH_ENCODER``.
        reporter: gets progress, and can stop the work.

    Raises:
        BaseModelError: the model cannot be obtained; the message says what to do.
        StopRequestedError: ``reporter`` raised it.
    """
    found = find_base(name, env=env, folders=folders)
    return found.obtain(reporter or SilentReporter(), fourth_encoder)


def transformer_folder(
    name: str, *, env: Mapping[str, str], folders: Sequence[Path], reporter: Reporter | None = None
) -> Path:
    """As ``obtain_base``, for callers that need only the transformer; returns the folder.

    A local folder is used directly: it is not hashed and may have no text encoders.
    """
    meaning = resolve(name, listed_base_models(env), folders)
    if isinstance(meaning, LocalFolder):
        return meaning.folder
    return obtain_base(name, env=env, folders=folders, reporter=reporter).folder


def find_base(name: str, *, env: Mapping[str, str], folders: Sequence[Path]) -> FoundBase:
    """As ``obtain_base``, without the weights: downloads a few small files at most."""
    home = home_of(env)
    meaning = resolve(name, listed_base_models(env), folders)
    match meaning:
        case Listed(model):
            return _present(model, home)
        case LocalFolder(_, folder):
            return _in_folder(folder, home, folders)
        case Known(known) if known in TEST_MODELS:
            made = _made(known, home)
            return _present(made, home, way_on=f"Delete {made.folder}: it is written again")
        case Known(published):
            return _on_the_hub(published, home, folders)
        case HubName(repository):
            return _on_the_hub(repository, home, folders)
        case NoModel() | NotFound():
            raise meaning.error()
    assert_never(meaning)


def write_test_model(folder: Path, shape: str) -> None:
    """Write a test model with random weights; does nothing if it exists.

    A child process writes it, because this package imports no torch.

    Args:
        folder: must be empty, or not exist yet.
        shape: ``tiny`` or ``wide``.

    Raises:
        BaseModelError: the process failed; the message has its last line on stderr.
    """
    command = (sys.executable, "-m", "trainer_core", "make-tiny", str(folder), "--shape", shape)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it printed nothing"]
        raise BaseModelError(
            f"{folder}: the test model could not be written (exit status {done.returncode}): "
            f"{lines[-1]}"
        )


def _present(model: BaseModel, home: Path, *, way_on: str = "") -> FoundBase:
    def obtain(reporter: Reporter, _: str | None) -> BaseModel:
        check_described(model, home, reporter, way_on=way_on)
        return model

    return FoundBase(name=model.name, transformer_config=model.transformer_config, obtain=obtain)


def _made(name: str, home: Path) -> BaseModel:
    """A test model; written if it does not exist yet."""
    folder = home / "models" / name
    try:
        return read_base_model(folder)
    except BaseModelError:
        write_test_model(folder, TEST_MODELS[name])
    return read_base_model(folder)


def _in_folder(folder: Path, home: Path, folders: Sequence[Path]) -> FoundBase:
    config = transformer_config(folder)
    check_transformer(config, folder)

    def obtain(reporter: Reporter, fourth_encoder: str | None) -> BaseModel:
        parts = main_parts(folder)
        if has_fourth(folder) and fourth_encoder is None:
            return describe_folder(folder, home, reporter)
        obtain_fourth = _find_fourth(fourth_encoder, home, folders)
        main = describe_folder(folder, home, reporter)
        fourth, source = obtain_fourth(reporter)
        digest = digest_of({"base": main.digest, "text_encoder_4": source})
        return compose(
            composed_folder(home, main.name, digest),
            main.name,
            {**parts, **fourth},
            {**described_files(main.folder), "text_encoder_4": source},
            digest,
        )

    return FoundBase(name=folder.resolve().name, transformer_config=config, obtain=obtain)


def _on_the_hub(name: str, home: Path, folders: Sequence[Path]) -> FoundBase:
    repo = hub.find_repo(name, home)
    config = transformer_config(repo.folder)
    check_transformer(config, repo.folder)
    has_own = (repo.folder / "text_encoder_4" / "config.json").is_file()

    def obtain(reporter: Reporter, fourth_encoder: str | None) -> BaseModel:
        if has_own and fourth_encoder is None:
            folder = hub.fetch_main_and_fourth(repo, reporter)
            parts = main_parts(folder)
            fourth, source = fourth_parts(folder), repo.commit
        else:
            # Before the long download: whether the other repository may be read at all.
            obtain_fourth = _find_fourth(fourth_encoder, home, folders)
            folder = hub.fetch_main(repo, reporter)
            parts = main_parts(folder)
            fourth, source = obtain_fourth(reporter)
        sources = {"base": f"{name}@{repo.commit}", "text_encoder_4": source}
        digest = digest_of({"base": repo.commit, "text_encoder_4": source})
        target = composed_folder(home, name, digest)
        check_downloaded({**parts, **fourth}, home, reporter)
        return compose(target, name, {**parts, **fourth}, sources, digest)

    return FoundBase(name=name, transformer_config=config, obtain=obtain)


_ObtainFourth = Callable[[Reporter], tuple[dict[str, Path], str]]
"""Returns the two parts → folders, and their commit or digest for the base model's digest."""


def _find_fourth(written: str | None, home: Path, folders: Sequence[Path]) -> _ObtainFourth:
    """Check that the fourth text encoder exists; returns a function that obtains its files.

    ``written``: its folder or repository; None: ``FOURTH_ENCODER``.
    """
    name = written or FOURTH_ENCODER
    folder = find_folder(name, folders)
    if folder is not None:
        parts = fourth_parts(folder)
        return lambda reporter: (parts, digest_folder(folder, home, reporter))
    if not is_hub_name(name):
        tried = ", ".join(str(place) for place in places_of(name, folders))
        raise BaseModelError(f"there is no text encoder {name}; these places were tried: {tried}")
    repo = hub.find_repo(name, home)
    return lambda reporter: (fourth_parts(hub.fetch_fourth(repo, reporter)), repo.commit)
