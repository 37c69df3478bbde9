"""`trainer_core encode` and `inspect` as a parent process sees them."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.support.forked_training import child_command
from tests.support.forking import TRAINING, server_of
from trainer_core.base_models.describe import read_base_models
from trainer_core.data.buckets import Geometry
from trainer_core.data.index import Caption, Picture
from trainer_core.data.shard_files import read_places
from trainer_core.data.shards import ShardSpec
from trainer_core.hidream.loading import load_text_encoders, load_vae
from trainer_core.hidream.text import encode_texts
from trainer_core.process.supervision import current_process_token

GEOMETRY = Geometry(resize_w=128, resize_h=96, crop_x=0, crop_y=16, width_px=128, height_px=64)


class Child:
    """The command, and one reply a request."""

    def __init__(self, process: "subprocess.Popen[bytes]", replies: int) -> None:
        self.process = process
        self._replies = os.fdopen(replies, "rb")

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"id": "r1", **request}).encode() + b"\n")
        self.process.stdin.flush()
        line = self._replies.readline()
        assert line, "the child ended without a reply"
        reply = json.loads(line)
        assert reply.pop("id") == "r1"
        return reply

    def end_of_replies(self) -> bytes:
        return self._replies.read()


@contextmanager
def running(*arguments: str) -> Iterator[Child]:
    """``trainer_core`` as a fork; see ``forking``."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [
            *child_command(server_of(TRAINING).address),
            *arguments,
            *("--reply-fd", str(write), "--supervisor", current_process_token()),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=[write],
    )
    os.close(write)
    child = Child(process, read)
    try:
        yield child
    finally:
        assert process.stdin is not None
        process.stdin.close()
        status = process.wait(timeout=60)
        child._replies.close()
    assert status == 0


@pytest.fixture(scope="module")
def encode(tiny_models_dir: Path) -> Iterator[Child]:
    with running("encode", "--models-dir", str(tiny_models_dir), "--device", "cpu") as child:
        yield child


def digest(models_dir: Path) -> str:
    return read_base_models(models_dir)["hidream-tiny"].digest


def text_spec(base_digest: str, *texts: str) -> dict[str, Any]:
    encoder = {
        "base_digest": base_digest,
        "compute": "bf16",
        "text_encoder_3": "no_change",
        "text_encoder_4": "int8-quanto",
        "max_tokens": 128,
    }
    entries = tuple(Caption(text=text) for text in texts)
    return ShardSpec(kind="text", encoder=encoder, entries=entries).model_dump(mode="json")


def latent_spec(base_digest: str, *pictures: Path) -> dict[str, Any]:
    entries = tuple(
        Picture(
            path=picture.name,
            sha256=hashlib.sha256(picture.read_bytes()).hexdigest(),
            geometry=GEOMETRY,
        )
        for picture in pictures
    )
    encoder = {"base_digest": base_digest, "compute": "fp32"}
    return ShardSpec(kind="latents", encoder=encoder, entries=entries).model_dump(mode="json")


def inputs_of(spec: dict[str, Any], *pictures: Path) -> dict[str, str]:
    by_name = {picture.name: str(picture) for picture in pictures}
    return {entry["sha256"]: by_name[entry["path"]] for entry in spec["entries"]}


def picture(path: Path, shade: int) -> Path:
    Image.linear_gradient("L").resize((256, 192)).point(lambda v: (v + shade) % 256).save(path)
    return path


def test_captions_become_the_entries_that_the_library_makes(
    encode: Child, tiny_models_dir: Path, tmp_path: Path
) -> None:
    texts = ["a red cat", "", "猫"]
    output = tmp_path / "text.safetensors"
    spec = text_spec(digest(tiny_models_dir), *texts)
    reply = encode.ask(
        base_model="hidream-tiny",
        spec=spec,
        inputs={},
        output=str(output),
    )

    assert reply == {"ok": True, "size_bytes": output.stat().st_size, "unusable": {}}
    encoders = load_text_encoders(
        tiny_models_dir / "hidream-tiny", torch.bfloat16, text_encoder_4="int8-quanto"
    )
    stored = load_file(output)
    digests = ShardSpec.model_validate(spec).digests()
    assert tuple(read_places(output)) == digests
    for entry, text in zip(digests, texts, strict=True):
        for name, tensor in encode_texts(encoders, [text]).tensors().items():
            found = stored[f"{entry}/{name}"]
            assert found.dtype is tensor.dtype
            torch.testing.assert_close(found, tensor, atol=0.05, rtol=0.05)


def test_pictures_become_posterior_moments_in_the_order_of_the_spec(
    encode: Child, tiny_models_dir: Path, tmp_path: Path
) -> None:
    pictures = [picture(tmp_path / f"{shade}.png", shade) for shade in (0, 90)]
    output = tmp_path / "out" / "latents.safetensors"
    spec = latent_spec(digest(tiny_models_dir), *pictures)

    reply = encode.ask(
        base_model="hidream-tiny",
        spec=spec,
        inputs=inputs_of(spec, *pictures),
        output=str(output),
    )

    assert reply["ok"]
    stored = load_file(output)
    _, second = ShardSpec.model_validate(spec).digests()
    assert stored[f"{second}/mean"].shape == stored[f"{second}/std"].shape == (1, 16, 8, 16)
    vae = load_vae(tiny_models_dir / "hidream-tiny", torch.float32)
    cut = Image.open(pictures[1]).resize((128, 96), Image.Resampling.LANCZOS).crop((0, 16, 128, 80))
    grey = torch.tensor(list(cut.tobytes()), dtype=torch.float32).view(1, 1, 64, 128) / 127.5 - 1
    with torch.no_grad():
        expected = vae.encode(grey.expand(-1, 3, -1, -1)).latent_dist.mean
    torch.testing.assert_close(stored[f"{second}/mean"], expected, atol=1e-4, rtol=1e-4)


def test_what_goes_wrong_is_a_reply_and_the_next_request_is_served(
    encode: Child, tiny_models_dir: Path, tmp_path: Path
) -> None:
    base = digest(tiny_models_dir)
    bad = tmp_path / "holiday.png"
    bad.write_bytes(b"\x89PNG but no picture")
    spec = latent_spec(base, bad)
    request = {"base_model": "hidream-tiny", "output": str(tmp_path / "out.safetensors")}

    broken = encode.ask(**request, spec=spec, inputs=inputs_of(spec, bad))
    missing = encode.ask(**request, spec=spec, inputs={})
    other = encode.ask(**request, spec=text_spec("f" * 64, "a"), inputs={})
    unknown = encode.ask(**{**request, "base_model": "x"}, spec=text_spec(base, "a"), inputs={})
    swapped = encode.ask(
        **request,
        spec=spec,
        inputs={spec["entries"][0]["sha256"]: str(picture(tmp_path / "other.png", 1))},
    )
    good = encode.ask(**request, spec=text_spec(base, "a"), inputs={})

    assert (broken["ok"], broken["size_bytes"]) == (True, 0)
    assert list(broken["unusable"]) == list(ShardSpec.model_validate(spec).digests())
    (reason,) = broken["unusable"].values()
    assert reason.startswith("not a picture of a known format")
    assert missing["error"]["code"] == swapped["error"]["code"] == "shard_corrupt"
    assert other["error"]["code"] == unknown["error"]["code"] == "bad_base_model"
    assert good["ok"]


def test_pictures_are_inspected_without_torch(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png", 5)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    with running("inspect") as child:
        reply = child.ask(inputs={"a/good.png": str(good), "a/bad.jpg": str(bad)})
        maps = Path(f"/proc/{child.process.pid}/maps").read_text()

    assert reply["ok"]
    assert reply["facts"] == {"a/good.png": {"width_px": 256, "height_px": 192, "lit": "red"}}
    assert [(e["path"], e["code"]) for e in reply["errors"]] == [("a/bad.jpg", "bad_image")]
    assert "torch" not in maps


def test_what_is_printed_does_not_reach_the_replies_even_on_stdout() -> None:
    program = (
        "import sys\n"
        "from trainer_core.config.plan.frozen import Frozen\n"
        "from trainer_core.process.requests import answer_requests, open_replies\n"
        "class Nothing(Frozen):\n"
        "    pass\n"
        "with open_replies(1) as replies:\n"
        "    print('chatter', flush=True)\n"
        "    answer = lambda _: print('more') or Nothing()\n"
        "    answer_requests(sys.stdin.buffer, replies, Nothing, answer)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=b'{"id": 1}\n', capture_output=True, check=True
    )

    assert done.stdout == b'{"id": 1, "ok": true}\n'
    assert b"chatter" in done.stderr
