"""The token of this machine's user for the Hugging Face Hub, and what to do without one."""

from typing import Final

NOT_THERE: Final = "this machine has no token for the Hugging Face Hub"
WAY_TO_ONE: Final = "Set HF_TOKEN or run `hf auth login`"


def hub_token() -> str | None:
    """The token in HF_TOKEN or of `hf auth login`; None without one."""
    from huggingface_hub import get_token  # only where something is published: it is slow

    return get_token()
