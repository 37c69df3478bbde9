"""Libraries that would print among our lines."""

import logging


def quieten_libraries() -> None:
    """No bars and no notes of diffusers and transformers from here on; errors stay."""
    # Of a kernel that a CPU could have; said at import.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Sets its own level when it is imported; a filter stays.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    import diffusers  # noqa: PLC0415 - imports torch
    import transformers  # noqa: PLC0415 - the same

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
