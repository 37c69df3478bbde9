"""The similarity of a picture to training pictures, with diffusers and transformers alone."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, CLIPModel

from trainer_core.data.entry_files import entry_name
from trainer_core.process.job import Job


def training_pictures(job: Job) -> list[Image.Image]:
    """As the VAE decodes the means in the cache; held-out photographs are not among them."""
    vae = AutoencoderKL.from_pretrained(job.base_model_dir, subfolder="vae")
    images = []
    for sample in job.index.samples:
        if not sample.held_out:
            entry = job.index.entries[sample.latents].digest
            mean = load_file(Path(job.shards_dir) / entry_name(entry))["mean"]
            with torch.no_grad():
                decoded = vae.decode(mean, return_dict=False)[0][0]
            levels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            images.append(Image.fromarray(levels.permute(1, 2, 0).numpy()))
    return images


def cosines(clip: Path, picture: Path, others: Sequence[Image.Image]) -> torch.Tensor:
    """Of the picture in a file and each of the others, [N]."""
    with Image.open(picture) as image:
        image_1D, others_ND = _embedded(clip, [image]), _embedded(clip, others)
    return torch.nn.functional.cosine_similarity(image_1D, others_ND)


def _embedded(clip: Path, images: Sequence[Image.Image]) -> torch.Tensor:
    model = CLIPModel.from_pretrained(clip).eval()
    processor = CLIPImageProcessor.from_pretrained(clip)
    with torch.no_grad():
        found = [
            model.get_image_features(**processor(images=image, return_tensors="pt"))
            for image in images
        ]
    return torch.cat([each.pooler_output for each in found])
