"""What a finished run leaves: trained weights, a picture, and the facts of its card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from PIL import Image
from pydantic import JsonValue

from trainer_core.adapters.lokr import LokrNetwork
from trainer_core.checkpoint.write import WrittenFolder, write_result
from trainer_core.config.plan import LokrAdapter, Plan
from trainer_core.engine.setup import Parts
from trainer_core.export.full_rank import write_transformer
from trainer_core.export.lycoris_file import write_lycoris_files

SAMPLE_NAME: Final = "samples/0.png"


def write_run_result(
    result_dir: Path,
    *,
    plan: Plan,
    parts: Parts,
    parameters: Mapping[str, torch.Tensor],
    sample: Image.Image,
    facts: Mapping[str, JsonValue],
) -> WrittenFolder:
    """Write the result folder.

    Args:
        result_dir: where it is to stand.
        plan: the run.
        parts: for the adapter, or the transformer whose weights were all trained.
        parameters: trained parameters by logical name, whole.
        sample: the picture.
        facts: of the card; see ``card_facts``.
    """
    identity = plan.identity

    def fill(folder: Path) -> None:
        if isinstance(parts.adapter, LokrNetwork) and isinstance(identity.adapter, LokrAdapter):
            write_lycoris_files(
                folder,
                parts.adapter,
                identity.adapter,
                base_model=identity.base.name,
                step=identity.max_train_steps,
            )
        else:
            write_transformer(folder / "transformer", parts.transformer.config, parameters)
        (folder / SAMPLE_NAME).parent.mkdir()
        sample.save(folder / SAMPLE_NAME)
        body = json.dumps(facts, indent=2, allow_nan=False, ensure_ascii=False)
        (folder / "card.json").write_text(body + "\n", encoding="utf-8")

    return write_result(result_dir, identity.max_train_steps, fill)
