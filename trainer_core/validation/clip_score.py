"""How well a picture fits a text, by a CLIP model: the cosine of the angle of their embeddings.

It runs on the CPU in fp32, beside whatever the device trains: it needs no memory of a card, and a
picture has the same score on every machine but for rounding.
"""

from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from trainer_core.errors import TrainerError


class BadClipModelError(TrainerError):
    """The folder's files are no whole CLIP model."""

    code = "bad_clip_model"


class ClipScorer:
    """A CLIP model in memory. Neither loading nor scoring changes torch's random state."""

    def __init__(self, folder: Path) -> None:
        """Load the model; no code of its folder is run, and no pickle is read.

        Raises BadClipModelError where weights are missing, and what transformers raises.
        """
        with torch.random.fork_rng(devices=[]):  # parts without weights would be drawn
            self._model = _loaded(folder)
        self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        self._processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        self._max_tokens = min(
            self._model.config.text_config.max_position_embeddings,
            self._tokenizer.model_max_length,
        )

    def score(self, image_D: torch.Tensor, text: str) -> float:
        """-1 to 1; pictures that show their text well have about 0.3 with OpenAI's models.

        ``image_D``: from ``embed``. A text of more tokens than the model takes (77) is cut, as
        transformers cuts it.
        """
        return float((image_D * self._of_text(text)).sum())

    @torch.no_grad()
    def embed(self, image: Image.Image) -> torch.Tensor:
        """The embedding of a picture, [D], of length 1."""
        pixels = self._processor(images=image.convert("RGB"), return_tensors="pt")
        found = self._model.get_image_features(pixel_values=pixels["pixel_values"])
        return _unit(found.pooler_output)

    @torch.no_grad()
    def _of_text(self, text: str) -> torch.Tensor:
        """The embedding of a text, [D], of length 1."""
        tokens = self._tokenizer(
            text, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        found = self._model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return _unit(found.pooler_output)


def _loaded(folder: Path) -> CLIPModel:
    model, info = CLIPModel.from_pretrained(
        folder,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise BadClipModelError(
            f"the CLIP model in {folder} lacks {len(missing)} of its weights, such as {missing[0]}"
        )
    return model.eval()


def _unit(embedding_1D: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embedding_1D[0].float(), dim=0)
