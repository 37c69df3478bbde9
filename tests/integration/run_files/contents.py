"""The files of the runs."""

import os

PICTURE, WEIGHTS = b"not a picture", os.urandom(3 << 20)
RESULT = {"a.safetensors": WEIGHTS, "card.json": b"{}", "samples/0.png": PICTURE}
STATE = {"state.safetensors": os.urandom(1 << 20)}
ADAPTER, LIVE = "pytorch_lora_weights.safetensors", "live/pytorch_lora_weights.safetensors"
ADAPTERS = {
    ADAPTER: b"mean",
    "lycoris_config.json": b"{}",
    LIVE: b"now",
    "live/lycoris_config.json": b"{}",
}
STEPS = (10, 20, 30)
