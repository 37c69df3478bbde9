"""From the name of a base model to a folder that can be loaded.

A name is looked for, in this order: among the models of REVERIE_MODELS_DIR; as a local folder in
diffusers' layout; among the built-in test shapes; on the Hugging Face Hub. The fourth text encoder,
which HiDream-I1's repository leaves out, comes from a repository or folder of its own.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainer_core.base_models import fetch as hub
from trainer_core.base_models.compose import (
    check_main,
    compose,
    composed_folder,
    describe_folder,
    digest_folder,
    fourth_parts,
    has_fourth,
    main_parts,
    transformer_config,
)
from trainer_core.base_models.describe import (
    BaseModel,
    home_of,
    listed_base_models,
    read_base_model,
)
from trainer_core.config.plan.frozen import digest_of
from trainer_core.errors import BaseModelError
from trainer_core.paths import find_folder, places_of
from trainer_core.progress import Reporter, SilentReporter

FOURTH_ENCODER: Final = "terminusresearch/HiDream-I1-Llama-3.1-8B-Instruct"
"""An ungated copy of Llama 3.1 8B Instruct in sub-folders text_encoder_4 and tokenizer_4."""
_TEST_SHAPES: Final = {"hidream-tiny": "tiny", "hidream-wide": "wide"}
"""Name of a test model → the ``--shape`` of `python -m trainer_core make-tiny` that writes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundBase:
    """A base model that is known to exist; its weights may not be here yet."""

    name: str
    transformer_config: Mapping[str, Any]
    bring: Callable[[Reporter, str | None], BaseModel]
    """Fetch, hash and compose what is needed; with the repository or folder of the fourth encoder,
    or None for the model's own or ``FOURTH_ENCODER``. Raises BaseModelError."""

    def provisional(self) -> BaseModel:
        """As a plan needs it, but for the digest: to find what is wrong before a long download."""
        return BaseModel(
            name=self.name,
            folder=Path(),
            digest="0" * 64,
            transformer_config=self.transformer_config,
        )


def resolve_base(
    name: str,
    *,
    env: Mapping[str, str],
    folders: Sequence[Path],
    fourth_encoder: str | None = None,
    watch: Reporter | None = None,
) -> BaseModel:
    """The base model, on this machine and described; its folder can be loaded as it is.

    Args:
        name: entry of REVERIE_MODELS_DIR, folder, test shape, or ``owner/name`` on the Hub.
        env: REVERIE_MODELS_DIR and REVERIE_HOME (``~/.reverie``) are looked at.
        folders: what a relative path is tried from.
        fourth_encoder: repository or folder of Llama and its tokenizer; None: the model's own, or
            ``FOURTH_ENCODER``.
        watch: is told of long work, and may stop it.

    Raises:
        BaseModelError: in one sentence, with the way out.
        StopRequestedError: ``watch`` asked for it.
    """
    found = find_base(name, env=env, folders=folders)
    return found.bring(watch or SilentReporter(), fourth_encoder)


def transformer_folder(
    name: str, *, env: Mapping[str, str], folders: Sequence[Path], watch: Reporter | None = None
) -> Path:
    """The folder of a base model of which only the transformer is needed; else as ``resolve_base``.

    A local folder is taken as it stands: nothing is hashed, and it may lack encoders.
    """
    folder = find_folder(name, folders)
    if name not in listed_base_models(env) and folder and (folder / "transformer").is_dir():
        return folder
    return resolve_base(name, env=env, folders=folders, watch=watch).folder


def find_base(name: str, *, env: Mapping[str, str], folders: Sequence[Path]) -> FoundBase:
    """As ``resolve_base``, but only what a plan needs to be checked: a small file at most."""
    home = home_of(env)
    listed = listed_base_models(env)
    if name in listed:
        return _as_it_is(listed[name])
    folder = find_folder(name, folders)
    if folder is not None and (folder / "transformer").is_dir():
        return _in_folder(folder, home, folders)
    if name in _TEST_SHAPES:
        return _as_it_is(_made(name, home))
    if folder is not None:
        raise BaseModelError(
            f"{folder} is no base model in diffusers' layout: it has no transformer"
        )
    if _is_path(name):
        tried = ", ".join(str(place) for place in places_of(name, folders))
        raise BaseModelError(f"there is no base model {name}; these places were tried: {tried}")
    return _on_the_hub(name, home, folders)


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") != 1


def _as_it_is(model: BaseModel) -> FoundBase:
    return FoundBase(
        name=model.name, transformer_config=model.transformer_config, bring=lambda *_: model
    )


def _made(name: str, home: Path) -> BaseModel:
    """A test shape, made where it is not there yet."""
    folder = home / "models" / name
    try:
        return read_base_model(folder)
    except BaseModelError:
        _write_test_model(folder, _TEST_SHAPES[name])
    return read_base_model(folder)


def _write_test_model(folder: Path, shape: str) -> None:
    """In a process of its own: this room imports no torch."""
    command = (sys.executable, "-m", "trainer_core", "make-tiny", str(folder), "--shape", shape)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise BaseModelError(f"{folder}: the test model could not be written: {reason[0]}")


def _in_folder(folder: Path, home: Path, folders: Sequence[Path]) -> FoundBase:
    def bring(watch: Reporter, fourth_encoder: str | None) -> BaseModel:
        fourth = _Fourth(fourth_encoder, home, folders)
        check_main(folder)
        if has_fourth(folder) and not fourth.is_written:
            return describe_folder(folder, home, watch)
        bring_fourth = fourth.find()
        main = describe_folder(folder, home, watch)
        parts, source = bring_fourth(watch)
        digest = digest_of({"base": main.digest, "text_encoder_4": source})
        return compose(
            composed_folder(home, main.name, digest),
            main.name,
            {**main_parts(folder), **parts},
            {"base": main.digest, "text_encoder_4": source},
            digest,
        )

    return FoundBase(
        name=folder.resolve().name, transformer_config=transformer_config(folder), bring=bring
    )


def _on_the_hub(name: str, home: Path, folders: Sequence[Path]) -> FoundBase:
    repo = hub.find_repo(name, home)
    has_own = (repo.folder / "text_encoder_4" / "config.json").is_file()

    def bring(watch: Reporter, fourth_encoder: str | None) -> BaseModel:
        fourth = _Fourth(fourth_encoder, home, folders)
        own = has_own and not fourth.is_written
        # Before the long download: whether the other repository may be read at all.
        bring_fourth = None if own else fourth.find()
        folder = hub.fetch_main(repo, watch, with_fourth=own)
        check_main(folder)
        parts, source = bring_fourth(watch) if bring_fourth else (fourth_parts(folder), repo.commit)
        sources = {"base": f"{name}@{repo.commit}", "text_encoder_4": source}
        digest = digest_of({"base": repo.commit, "text_encoder_4": source})
        target = composed_folder(home, name, digest)
        return compose(target, name, {**main_parts(folder), **parts}, sources, digest)

    return FoundBase(name=name, transformer_config=transformer_config(repo.folder), bring=bring)


@dataclass(frozen=True, slots=True)
class _Fourth:
    """Where the fourth encoder comes from, where the base model does not bring it."""

    written: str | None
    home: Path
    folders: Sequence[Path]

    @property
    def is_written(self) -> bool:
        return self.written is not None

    def find(self) -> "_BringFourth":
        """Make sure that it is there; what is returned brings it here."""
        name = self.written or FOURTH_ENCODER
        folder = find_folder(name, self.folders)
        if folder is not None:
            parts = fourth_parts(folder)
            return lambda watch: (parts, digest_folder(folder, self.home, watch))
        if _is_path(name):
            tried = ", ".join(str(place) for place in places_of(name, self.folders))
            raise BaseModelError(f"there is no text encoder {name}; these were tried: {tried}")
        repo = hub.find_repo(name, self.home)
        return lambda watch: (fourth_parts(hub.fetch_fourth(repo, watch)), repo.commit)


_BringFourth = Callable[[Reporter], tuple[dict[str, Path], str]]
"""Gives the two parts, and what goes into the base model's digest."""
