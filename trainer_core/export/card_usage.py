"""The code in a model card that loads the result and generates an image. Imports no torch."""

from collections.abc import Mapping
from typing import Any, Final

from trainer_core.base_models.known import FOURTH_ENCODER
from trainer_core.export.markup import quoted
from trainer_core.export.origin import ADAPTER_NAME


def usage_section(facts: Mapping[str, Any]) -> str:
    """Python code that generates the sample image; ``facts`` is the content of ``card.json``."""
    name = facts["base_model"]["name"]
    body = {"lokr": _LOAD_LOKR, "lora": _LOAD_LORA, "full": _LOAD_FULL}[facts["model_type"]]
    filled = body.format(base=quoted(name), scale=facts["multiplier"] or 1.0, **_call(facts))
    return f"## Use\n\n```python\n{filled}```"


def _call(facts: Mapping[str, Any]) -> dict[str, Any]:
    sample = facts["sample"]
    return {
        "prompt": quoted(sample["prompt"]),
        "steps": sample["steps"],
        "guidance": sample["guidance"],
        "seed": sample["seed"],
        "width": sample["width_px"],
        "height": sample["height_px"],
        "adapter": quoted(ADAPTER_NAME),
        "fourth_encoder": quoted(FOURTH_ENCODER),
    }


_PIPELINE: Final = """\
import torch
from diffusers import HiDreamImagePipeline
from transformers import AutoTokenizer, LlamaForCausalLM

# The fourth text encoder has a licence of its own and is not part of the base model's repository.
# Leave `encoder` out where the base model's folder holds all four.
llama = {fourth_encoder}
encoder = {{
    "text_encoder_4": LlamaForCausalLM.from_pretrained(
        llama, subfolder="text_encoder_4", torch_dtype=torch.bfloat16
    ),
    "tokenizer_4": AutoTokenizer.from_pretrained(llama, subfolder="tokenizer_4"),
}}
"""

_PAINT: Final = """\
image = pipe(
    {prompt},
    width={width},
    height={height},
    num_inference_steps={steps},
    guidance_scale={guidance},
    generator=torch.Generator().manual_seed({seed}),
).images[0]
"""

_LOAD_LOKR: Final = (
    _PIPELINE
    + """\
pipe = HiDreamImagePipeline.from_pretrained({base}, torch_dtype=torch.bfloat16, **encoder)

from lycoris import create_lycoris_from_weights  # pip install lycoris-lora

with torch.no_grad():
    network, _ = create_lycoris_from_weights(1.0, {adapter}, pipe.transformer)
network.merge_to({scale})  # the strength; to quantise the transformer, do it after this
pipe.to("cuda")
"""
    + _PAINT
)

_LOAD_LORA: Final = (
    _PIPELINE
    + """\
pipe = HiDreamImagePipeline.from_pretrained({base}, torch_dtype=torch.bfloat16, **encoder)
pipe.load_lora_weights(".", weight_name={adapter}, adapter_name="default")  # needs peft
pipe.set_adapters("default", {scale})  # the strength
pipe.to("cuda")
"""
    + _PAINT
)

_LOAD_FULL: Final = (
    _PIPELINE.replace(
        "from diffusers import HiDreamImagePipeline",
        "from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel",
    )
    + """\
transformer = HiDreamImageTransformer2DModel.from_pretrained(
    "transformer", torch_dtype=torch.bfloat16  # the folder of this repository
)
pipe = HiDreamImagePipeline.from_pretrained(
    {base}, transformer=transformer, torch_dtype=torch.bfloat16, **encoder
).to("cuda")
"""
    + _PAINT
)
