"""Lays a training result or a checkpoint out as the folder of a model repository."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from services.results.card_pictures import CardPictures, put_pictures
from trainer_core.checkpoint.folders import read_manifest
from trainer_core.checkpoint.matmul import matmul_of
from trainer_core.config.plan import Plan
from trainer_core.errors import CheckpointError
from trainer_core.export.card import render_card
from trainer_core.export.card_facts import card_facts
from trainer_core.export.checkpoint_adapter import write_checkpoint_adapter
from trainer_core.export.lycoris_layout import CONFIG_NAME
from trainer_core.export.origin import ADAPTER_NAME, Origin, weights_of_result

_TAKEN: Final = (ADAPTER_NAME, CONFIG_NAME)
_TAKEN_FOLDERS: Final = ("samples", "transformer")
"""Only what is listed here is published: never an encoder, never an optimizer's state."""


def lay_out(result: Path, repo: Path, pictures: CardPictures | None = None) -> None:
    """Fill ``repo`` (made here) with README.md, the weights and the samples of ``result``.

    ``pictures``: that the run made while it trained.

    Raises FileNotFoundError or ValueError where ``card.json`` is missing or is not JSON.
    """
    facts = json.loads((result / "card.json").read_bytes())
    repo.mkdir(parents=True)
    for name in _TAKEN:
        if (result / name).is_file():
            shutil.copyfile(result / name, repo / name)
    for name in _TAKEN_FOLDERS:
        if (result / name).is_dir():
            shutil.copytree(result / name, repo / name)
    _write_card(repo, facts, pictures)


def lay_out_checkpoint(
    checkpoint: Path, plan: Plan, repo: Path, pictures: CardPictures | None = None
) -> None:
    """Fill ``repo`` (made here) with README.md and the adapter of ``checkpoint``.

    ``pictures``: that the run had made by then.

    Raises CheckpointError where the checkpoint is not one of this plan, or has no adapter.
    """
    adapter = plan.identity.adapter
    if adapter is None:
        raise CheckpointError("full-rank training has no adapter")
    manifest = read_manifest(checkpoint)
    weights = weights_of_result(plan.identity)
    origin = Origin(base_model=plan.identity.base.name, step=manifest.step, weights=weights)
    repo.mkdir(parents=True)
    parameters = write_checkpoint_adapter(checkpoint, adapter, origin, repo)
    before = manifest.scalars.get("probe_before")
    facts = card_facts(
        plan,
        step=manifest.step,
        loss_before=before if isinstance(before, dict) else None,
        loss_after=None,
        trainable_parameters=parameters,
        trainable_modules=len(adapter.modules),
        weights=weights,
        matmul=matmul_of(manifest),
        is_checkpoint=True,
    )
    _write_card(repo, facts, pictures)


def _write_card(repo: Path, facts: Mapping[str, Any], pictures: CardPictures | None) -> None:
    shown = {} if pictures is None else {"pictures": put_pictures(repo, pictures)}
    (repo / "README.md").write_text(render_card({**facts, **shown}), encoding="utf-8")


def keep_apart(repo: Path, name: str) -> None:
    """Put the same files into a folder of ``repo`` too, where later ones do not replace them."""
    paths = list(repo.iterdir())
    (repo / name).mkdir()
    for path in paths:
        (repo / name / path.name).hardlink_to(path)
