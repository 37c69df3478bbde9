"""`python -m trainer_core COMMAND`: the training library as processes of its own.

Exit status: 0 done; 1 (check-device) a GPU does not work; 2 wrong usage; 70 the supervisor died; 75
(train) stopped on request.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer_core.process.supervision import (
    EXIT_ORPHANED,
    SupervisorGoneError,
    parse_supervisor,
    start_watch,
)

_DEFAULT_INSPECT_BYTES = 2 << 30
"""Four copies of the largest picture allowed, and the interpreter."""
_DEFAULT_FETCH_BYTES = 4 << 30
"""As that, and the pages of a parquet file that rows are read from."""
_EXAMPLES = """\
A run by hand, with the job file of an earlier `reverie train`:
  python -m trainer_core train --job output/job.json --events events.jsonl --control control
  echo stop > control         stops it after the step, with a checkpoint
  tail -n 1 events.jsonl      its last event is the outcome

With 8 GPUs; the options before `-m` are torchrun's:
  python -m trainer_core launch --standalone --nproc-per-node 8 \\
      -m trainer_core train --job output/job.json --events output/events.jsonl

A base model for trying things out:
  python -m trainer_core make-tiny models/hidream-tiny

One that learns to paint simple shapes; its recipe is not good enough yet (--help has figures):
  python -m trainer_core make-painter painter

`encode`, `inspect` and `fetch` are started by the cache builder and answer its requests.
`python -m trainer_core COMMAND --help` shows the options of one command.
"""


def main(argv: Sequence[str]) -> int:
    """Run one command. Each imports what it needs itself: ``inspect`` never sees torch."""
    if argv[:1] == ["train"]:
        from trainer_core.commands.train import main as train  # noqa: PLC0415 - imports the job

        return train(argv[1:])
    if argv[:1] == ["launch"]:
        from trainer_core.commands.launch import main as launch  # noqa: PLC0415 - the same

        return launch(argv[1:])
    args = _parser().parse_args(argv)
    if "supervisor" in args and args.supervisor is not None:
        try:
            start_watch(*args.supervisor)
        except SupervisorGoneError as error:
            print(error.message, file=sys.stderr)  # noqa: T201 - nobody reads events here
            return EXIT_ORPHANED
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    match args.command:
        case "make-tiny":
            from trainer_core.commands import make_tiny  # noqa: PLC0415 - may import torch

            return make_tiny.make(args.folder, args.shape)
        case "make-painter":
            from trainer_core.commands import make_painter  # noqa: PLC0415 - imports torch

            return make_painter.run(
                args.folder,
                scale=args.scale,
                device=args.device,
                processes=args.processes,
                train_s=args.train_seconds,
            )
        case "inspect":
            from trainer_core.commands import inspect  # noqa: PLC0415 - imports Pillow

            return inspect.serve(reply_fd=args.reply_fd, memory_bytes=args.memory_bytes)
        case "fetch":
            from trainer_core.commands import fetch  # noqa: PLC0415 - imports Pillow

            return fetch.serve(
                reply_fd=args.reply_fd,
                memory_bytes=args.memory_bytes,
                hub_endpoint=args.hub_endpoint,
            )
        case "encode":
            from trainer_core.commands import encode  # noqa: PLC0415 - imports torch

            return encode.serve(
                models_dir=args.models_dir, reply_fd=args.reply_fd, device=args.device
            )
        case "check-device":
            from trainer_core.commands import check_device  # noqa: PLC0415 - imports torch

            return check_device.check(args.device)
    raise AssertionError(args.command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer_core",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Only here to be listed: their arguments are parsed where the engine is.
    commands.add_parser("train", help="train one run as its job file says", add_help=False)
    commands.add_parser("launch", help="train one run with several processes", add_help=False)
    encode = _server(commands, "encode", "encode pictures and captions into cache shards")
    encode.add_argument(
        "--models-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of base models, each with its reverie-base.json",
    )
    encode.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda where it is"
    )
    inspect = _server(commands, "inspect", "decode pictures and report their sizes")
    _add_memory(inspect, _DEFAULT_INSPECT_BYTES)
    fetch = _server(
        commands, "fetch", "fetch pictures from lists of addresses, the Hub and tar files"
    )
    _add_memory(fetch, _DEFAULT_FETCH_BYTES)
    fetch.add_argument(
        "--hub-endpoint", metavar="URL", help="address of the Hub (default: huggingface.co)"
    )
    check = commands.add_parser(
        "check-device", help="check that every GPU of this machine computes"
    )
    check.add_argument(
        "--device", choices=("auto", "cuda"), default="auto", help="cuda: there has to be one"
    )
    _add_supervisor(check)
    tiny = commands.add_parser("make-tiny", help="write a tiny random base model")
    tiny.add_argument("folder", type=Path, metavar="DIR", help="where to; nothing may be there yet")
    tiny.add_argument(
        "--shape",
        choices=("tiny", "wide"),
        default="tiny",
        help="wide: fewer and wider blocks, whose sides are multiples of 16",
    )
    _add_painter(commands)
    return parser


def _add_painter(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    painter = commands.add_parser(
        "make-painter",
        help="train a small base model that paints, from nothing",
        description="Draws pictures, trains a VAE and a transformer on them, and counts how many "
        "of its pictures show what was asked for. So far they do not: after 1,051 steps on an H200 "
        "(303 s in all) background and place were right in 99 and 89 of 100 pictures, and colour "
        "and shape together in none.",
    )
    painter.add_argument("folder", type=Path, metavar="DIR", help="gets model/ and report.json")
    painter.add_argument(
        "--scale",
        choices=("whole", "trial"),
        default="whole",
        help="trial: fewer scenes and a smaller model, for a CPU",
    )
    painter.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda where it is"
    )
    painter.add_argument(
        "--processes", type=int, metavar="N", help="that draw pictures (default: one a core)"
    )
    painter.add_argument(
        "--train-seconds",
        type=float,
        metavar="S",
        help="train the transformer for about so long, instead of a fixed number of steps, and the "
        "VAE for a quarter of it at most",
    )


def _server(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, what: str
) -> argparse.ArgumentParser:
    """A command that answers JSON lines on stdin until it is closed."""
    parser = commands.add_parser(
        name,
        help=what,
        description=f"Answers requests (one JSON object a line on stdin) to {what}.",
    )
    parser.add_argument(
        "--reply-fd",
        type=int,
        required=True,
        metavar="N",
        help="open descriptor for the replies, one JSON object a line",
    )
    _add_supervisor(parser)
    return parser


def _add_memory(parser: argparse.ArgumentParser, default_bytes: int) -> None:
    parser.add_argument(
        "--memory-bytes",
        type=int,
        default=default_bytes,
        metavar="N",
        help=f"address space of the process (default: {default_bytes >> 30} GiB)",
    )


def _add_supervisor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--supervisor",
        type=parse_supervisor,
        metavar="PID:START_TICKS",
        help="process to end with; start time as in field 22 of /proc/PID/stat",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
