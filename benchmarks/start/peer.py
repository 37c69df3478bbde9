"""A peer's start, in a process of its own: from the start of the process to its first step.

    python -m benchmarks.start.peer --base DIR --name simpletuner --precision 8bit --edge-px 1024

As SimpleTuner 4.10.1 starts: diffusers' ``from_pretrained``, to the card, int8-quanto there,
LyCORIS, Lion. Its text encoders, data and validation are left out. Prints one JSON line.
"""

import argparse
import json
from pathlib import Path

from trainer_core.engine.start_times import StartTimes


def main() -> None:
    times = StartTimes()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--name", choices=("simpletuner", "diffusers"), required=True)
    parser.add_argument("--precision", choices=("8bit", "bf16"), required=True)
    parser.add_argument("--edge-px", type=int, required=True)
    args = parser.parse_args()

    import torch  # noqa: PLC0415 - its import is a part of the start

    from benchmarks.step.cases import Case  # noqa: PLC0415 - the same
    from benchmarks.step.peers import Peer, transformer_class  # noqa: PLC0415 - the same
    from benchmarks.step.setting import tiny_setting, true_setting  # noqa: PLC0415 - the same

    on_card = torch.cuda.is_available()
    setting = true_setting() if on_card else tiny_setting()
    model_class, extra = transformer_class(args.name)
    times.end("imports_s")
    model = model_class.from_pretrained(
        args.base / "transformer", torch_dtype=setting.dtype, use_safetensors=True, **extra
    )
    times.end("weights_s")
    model.to(setting.device)
    times.end("move_s")
    model.requires_grad_(False).train()
    peer = Peer(args.name, args.precision, "attention", setting, model)
    times.end("network_s")
    size_px = (args.edge_px, args.edge_px)
    case = Case("start", size_px, args.precision, checkpointing=True)
    peer.set_checkpointing(on=True)
    peer.step(setting.batch(case))
    peer.wait()
    times.end("first_step_s")
    print(json.dumps(times.as_json()), flush=True)


if __name__ == "__main__":
    main()
