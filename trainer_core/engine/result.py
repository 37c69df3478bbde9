"""The result folder of a finished run: trained weights, a sample image, facts for the card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from PIL import Image
from pydantic import JsonValue

from trainer_core.checkpoint.write import WrittenFolder, write_result
from trainer_core.config.plan import Plan
from trainer_core.export.origin import Origin, Weights
from trainer_core.export.safetensors_file import Parameters
from trainer_core.export.transformer_folder import TRANSFORMER, file_type_of, write_full_rank
from trainer_core.export.write_adapter import write_adapter

SAMPLE_NAME: Final = "samples/0.png"


def write_run_result(
    result_dir: Path,
    *,
    plan: Plan,
    step: int,
    transformer_config: Mapping[str, Any],
    parameters: Parameters,
    weights: Weights,
    sample: Image.Image,
    facts: Mapping[str, JsonValue],
) -> WrittenFolder:
    """Write the result folder.

    Args:
        result_dir: the folder to write.
        plan: the plan of the run.
        step: its last step.
        transformer_config: of the base model; written only for full rank.
        parameters: the values to publish. Those of full rank are read once each, by name.
        weights: which values they are.
        sample: the sample image.
        facts: for the model card, from ``card_facts``.
    """
    identity = plan.identity

    def fill(folder: Path) -> None:
        origin = Origin(base_model=identity.base.name, step=step, weights=weights)
        if identity.adapter is None:
            dtype = file_type_of(identity.precision.model_dump())
            write_full_rank(folder / TRANSFORMER, transformer_config, parameters, origin, dtype)
        else:
            write_adapter(folder, identity.adapter, parameters, origin)
        (folder / SAMPLE_NAME).parent.mkdir()
        sample.save(folder / SAMPLE_NAME)
        body = json.dumps(facts, indent=2, allow_nan=False, ensure_ascii=False)
        (folder / "card.json").write_text(body + "\n", encoding="utf-8")

    return write_result(result_dir, step, fill)
