"""Silences libraries that would print into a command's output."""

import logging


def quieten_libraries() -> None:
    """Turn off progress bars and warnings of diffusers and transformers; errors are still shown."""
    # bitsandbytes warns at import that a CPU kernel is missing.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # DeepSpeed sets its log level at import, but keeps filters.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    import diffusers  # noqa: PLC0415 - imports torch
    import transformers  # noqa: PLC0415 - imports torch

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
