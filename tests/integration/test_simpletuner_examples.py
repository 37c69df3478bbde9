"""The image examples that SimpleTuner ships, with the model family changed to hidream."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pytest

from tests.support.trusting import outside
from trainer_core.base_models.known import PUBLISHED
from trainer_core.config.plan.problems import PlanError, texts_of
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.documents import parse_document

VERSION: Final = "4.10.1"
EXAMPLES: Final = "simpletuner/examples/"
OF_OTHER_KINDS: Final = (
    *("ace_step", "audio", "heartmula", "hunyuanvideo", "i2v", "infinitetalk", "longcat-video"),
    *("ltx", "minimaxh3", "music", "s2v", "speech", "t2v", "video", "voice", "wan"),
)
"""Parts of the names of examples that train on video or sound."""
MODEL_PATHS: Final = frozenset(
    {
        "model_flavour",
        "pretrained_model_name_or_path",
        "pretrained_t5_model_name_or_path",
        "pretrained_transformer_model_name_or_path",
        "pretrained_transformer_subfolder",
        "pretrained_unet_model_name_or_path",
        "pretrained_unet_subfolder",
        "pretrained_vae_model_name_or_path",
        "assistant_lora_path",
        "init_lora",
        "revision",
        "vae_path",
        "variant",
    }
)
CONDITIONING: Final = ("controlnet", "conditioning", "conditioning_type", "conditioning_data",
                       "conditioning_multidataset_sampling")  # fmt: skip
OTHER_FAMILIES: Final = ("crepa_enabled", "distillation_method", "tread_config", "dataset_type",
                         "caption_file_extensions", "prediction_type")  # fmt: skip
NAMED_ELSEWHERE: Final = ("optimizer", "lr_scheduler", "base_model_precision",
                          "text_encoder_4_precision", "type", "caption_strategy",
                          "train_batch_size", "caption_key")  # fmt: skip
"""Options of optimizers, precisions and data sources; a batch size of a backend's own."""
LOCAL_BACKEND: Final = [
    {"id": "photos", "type": "local", "instance_data_dir": "photos", "caption_strategy": "filename"}
]
REASONS: Final = frozenset((*CONDITIONING, *OTHER_FAMILIES, *NAMED_ELSEWHERE))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, fetched; nothing of it is kept in the repository."""
    folder = tmp_path_factory.mktemp("simpletuner")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    any_python = ["--python-version", "3.12", "--only-binary=:all:"]
    command = [*pip, "--dest", str(folder), *any_python, f"simpletuner=={VERSION}"]
    done = subprocess.run(
        command, env=outside(), capture_output=True, text=True, timeout=300, check=False
    )
    found = list(folder.glob("*.whl"))
    if not found:
        pytest.skip(f"the wheel cannot be fetched: {done.stderr.strip()[-200:]}")
    return found[0]


class Examples:
    """The examples of a wheel: their configurations and the files that they name."""

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            self._texts = {
                name.removeprefix(EXAMPLES): archive.read(name).decode()
                for name in archive.namelist()
                if name.startswith(EXAMPLES) and name.endswith(".json")
            }

    def configs(self) -> dict[str, dict[str, Any]]:
        """Name → options, of the examples that train on images."""
        return {
            name.partition("/")[0]: self._read(name)
            for name in sorted(self._texts)
            if name.endswith("/config.json") and not any(part in name for part in OF_OTHER_KINDS)
        }

    def named(self, written: str | None) -> Any:
        """The content of a file that an option names; None where it ships none."""
        if not written:
            return None
        tried = (written.removeprefix("config/examples/"), PurePosixPath(written).name)
        return next((self._read(name) for name in tried if name in self._texts), None)

    def _read(self, name: str) -> Any:
        return parse_document(self._texts[name], name=name)


def refused_for(
    config: dict[str, Any], examples: Examples, backends: list[Any] | None = None
) -> list[tuple[str, str]]:
    """Pointer and message of everything that is refused; empty where the example is accepted.

    ``backends``: in place of those that the example names.
    """
    if backends is None:
        backends = examples.named(config.get("data_backend_config")) or LOCAL_BACKEND
    kept = {key: value for key, value in config.items() if key.lstrip("-") not in MODEL_PATHS}
    base = PUBLISHED.as_base("full")
    try:
        imported = import_run(
            config={**kept, "model_family": "hidream"},
            lycoris_config=examples.named(config.get("lycoris_config")),
            data_backends=backends,
            prompt_library=None,
            base_models={base.name: base, "HiDream-ai/HiDream-I1-Full": base},
            source="local",
        )
    except PlanError as error:
        return [(each.pointer, each.message) for each in error.problems]
    assert len(texts_of(imported.notices, "differs")) <= 8
    return []


def reason_of(pointer: str) -> str:
    """The option that a pointer is about; the whole preset where a name in it matches nothing."""
    parts = pointer.split("/")
    return parts[2] if parts[1] == "lycoris_config" else parts[-1]


@pytest.mark.deep
def test_examples_are_accepted_or_refused_for_what_is_not_here(wheel: Path) -> None:
    examples = Examples(wheel)
    results = {name: refused_for(config, examples) for name, config in examples.configs().items()}

    unexpected = {
        name: wrong
        for name, problems in results.items()
        if (wrong := [p for p in problems if reason_of(p[0]) not in REASONS | {"apply_preset"}])
    }
    accepted = [name for name, problems in results.items() if not problems]
    with_files = [
        name
        for name, config in examples.configs().items()
        if not refused_for(config, examples, LOCAL_BACKEND)
    ]
    figures = {"examples": len(results), "accepted": len(accepted)}
    print(json.dumps({**figures, "accepted_with_pictures_as_files": len(with_files)}))
    assert len(results) >= 90
    assert unexpected == {}
    assert {name for name in results if "hidream" in name} == {
        "hidream.peft-lora",
        "hidream.peft-controlnet-lora",
    }
