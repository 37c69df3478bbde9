"""Images become buckets, shards and one index."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.config.plan import Backend, Plan
from trainer_core.config.plan.problems import PlanError
from trainer_core.data.assigning import LATENTS_PER_SHARD, TEXTS_PER_SHARD
from trainer_core.data.buckets import geometry_of
from trainer_core.data.captions import captions_of, decode_caption
from trainer_core.data.index import DataIndex, FileItem, PictureEntry
from trainer_core.data.indexing import build_index
from trainer_core.data.sampler import Sampler
from trainer_core.errors import BadCaptionError

TRUE_MAX_PX = 1024 * 1024


def plan_of(*backends: dict[str, Any], **config: Any) -> Plan:
    named = [{"caption_strategy": "filename", **backend} for backend in backends]
    return import_small(config, backends=named).plan


def backend_of(**options: Any) -> Backend:
    big = {"resolution_px": 1024} if options.pop("true_size", False) else {}
    (backend,) = plan_of({"id": "a", **options}).identity.backends
    return backend.model_copy(update=big)


def item(path: str, size: tuple[int, int] = (256, 256), *captions: str, to: str = "a") -> FileItem:
    return FileItem(
        backend=to,
        path=path,
        sha256=path.encode().hex().ljust(64, "0")[:64],
        width_px=size[0],
        height_px=size[1],
        captions=captions or (path,),
    )


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((3000, 3000), (1024, 1024)),
        ((3000, 2000), (1216, 832)),
        ((2000, 3000), (832, 1216)),
        ((1920, 1080), (1344, 768)),
        ((100_000, 10), (16_384, 64)),
    ],
)
def test_buckets_keep_the_area_and_never_exceed_the_model(
    size: tuple[int, int], bucket: tuple[int, int]
) -> None:
    geometry = geometry_of(*size, backend_of(true_size=True), TRUE_MAX_PX, "")

    assert (geometry.width_px, geometry.height_px) == bucket


@settings(deadline=None)
@given(
    st.integers(1, 20_000),
    st.integers(1, 20_000),
    st.booleans(),
    st.sampled_from(["square", "preserve"]),
    st.integers(64, 1024),
)
def test_every_image_is_covered_by_what_it_is_scaled_to(
    width: int, height: int, crop: bool, aspect: str, resolution: int
) -> None:
    backend = BACKEND.model_copy(
        update={"crop": crop, "crop_aspect": aspect, "resolution_px": resolution}
    )

    g = geometry_of(width, height, backend, TRUE_MAX_PX, "")

    assert g.width_px % 64 == g.height_px % 64 == 0
    assert 64 * 64 <= g.width_px * g.height_px <= TRUE_MAX_PX
    assert 0 <= g.crop_x <= g.resize_w - g.width_px
    assert 0 <= g.crop_y <= g.resize_h - g.height_px
    if not crop:
        assert g.resize_w == g.width_px or g.resize_h == g.height_px


BACKEND = backend_of()


def test_a_crop_is_cut_from_the_image_as_it_is_or_downsampled() -> None:
    square = {"crop": True, "crop_style": "center"}
    as_it_is = geometry_of(4096, 2048, backend_of(true_size=True, **square), TRUE_MAX_PX, "")
    sizes = {"maximum_image_size": 1024, "target_downsample_size": 2048}
    cut = backend_of(true_size=True, **square, **sizes)
    smaller = geometry_of(4096, 2048, cut, TRUE_MAX_PX, "")

    assert (as_it_is.resize_w, as_it_is.resize_h) == (4096, 2048)
    assert (as_it_is.crop_x, as_it_is.crop_y) == (1536, 512)
    assert math.isclose(smaller.resize_w * smaller.resize_h, 2048**2, rel_tol=1e-3)
    assert (smaller.width_px, smaller.height_px) == (1024, 1024)


def test_the_order_of_files_does_not_matter() -> None:
    plan = plan_of({"id": "a"}, {"id": "b", "dataset_type": "eval"})
    items = [item(f"{n}.png", to="ab"[n % 2]) for n in range(40)]

    forward, backward = (build_index(plan, order, TINY_CONFIG) for order in (items, items[::-1]))

    assert forward == backward
    assert DataIndex.model_validate(forward.model_dump(mode="json")).digest() == backward.digest()
    assert [s.held_out for s in forward.samples] == [False] * 20 + [True] * 20


def test_shards_hold_one_bucket_and_every_caption_once() -> None:
    sizes = [(256, 256), (300, 200), (200, 300)]
    items = [item(f"{n}.png", sizes[n % 3], f"caption {n % 30}", "both") for n in range(100)]

    index = build_index(plan_of({"id": "a"}, validation_prompt="a cat"), items, TINY_CONFIG)

    texts = []
    for shard in index.shards:
        assert shard.digest == shard.spec.digest()
        if shard.kind == "text":
            assert len(shard.spec.entries) <= TEXTS_PER_SHARD
            texts += [getattr(entry, "text", None) for entry in shard.spec.entries]
            continue
        assert len(shard.spec.entries) <= LATENTS_PER_SHARD
        geometries = [e.geometry for e in shard.spec.entries if isinstance(e, PictureEntry)]
        assert len({(g.width_px, g.height_px) for g in geometries}) == 1
    assert sorted(map(str, texts)) == sorted(
        ["", "a cat", "both", *(f"caption {n}" for n in range(30))]
    )
    assert set(index.prompts) == {"", "a cat"}
    for sample, file in zip(index.samples, sorted(items, key=lambda i: i.path), strict=True):
        entry = index.shards[sample.latents.shard].spec.entries[sample.latents.row]
        assert isinstance(entry, PictureEntry)
        assert (entry.path, entry.sha256) == (file.path, file.sha256)
        read = [index.shards[ref.shard].spec.entries[ref.row] for ref in sample.texts]
        assert [getattr(text, "text", None) for text in read] == list(file.captions)


def test_another_prompt_leaves_the_other_shards_alone() -> None:
    items = [item(f"{n}.png") for n in range(20)]

    one, other = (
        build_index(plan_of({"id": "a"}, validation_prompt=prompt), items, TINY_CONFIG)
        for prompt in ("a cat", "a dog")
    )

    assert len({s.digest for s in one.shards} ^ {s.digest for s in other.shards}) == 2


def test_the_digest_and_the_order_go_by_what_is_trained_on() -> None:
    """A run whose sample image gets another prompt resumes; with another caption it does not."""
    items = [item(f"{n}.png", (256, 256), f"caption {n}") for n in range(20)]
    others = [item("0.png", (256, 256), "other"), *items[1:]]

    def built(prompt: str, files: list[FileItem]) -> DataIndex:
        return build_index(plan_of({"id": "a"}, validation_prompt=prompt), files, TINY_CONFIG)

    def order(index: DataIndex) -> list[tuple[int, ...]]:
        return [Sampler(index, 1, 2).micro_batch(i).samples for i in range(10)]

    one = built("a cat", items)
    # A prompt that is a caption too moves the caption's row to another shard.
    for again in (built("a dog", items), built("caption 3", items)):
        assert again.digest() == one.digest()
        assert order(again) == order(one)
    assert built("a cat", others).digest() != one.digest()
    fewer = one.model_copy(update={"samples": one.samples[1:]})
    assert fewer.digest() != one.digest()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_encoders_precision_renames_the_captions_shards(number: int) -> None:
    """Where no CLIP is quantised the names are those of before it could be."""
    plain = plan_of({"id": "a"})
    precision = plain.identity.precision.model_copy(
        update={f"text_encoder_{number}": "int8-quanto"}
    )
    identity = plain.identity.model_copy(update={"precision": precision})
    changed = plain.model_copy(update={"identity": identity})

    one, other = (build_index(p, [item("a.png")], TINY_CONFIG) for p in (plain, changed))

    for before, after in zip(one.shards, other.shards, strict=True):
        assert (before.digest == after.digest) is (before.kind == "latents")
    texts = [shard.spec.encoder for shard in one.shards if shard.kind == "text"]
    assert all("text_encoder_1" not in e and "text_encoder_2" not in e for e in texts)


def test_small_and_uncaptioned_images_are_left_out_with_a_warning() -> None:
    plan = plan_of({"id": "a", "minimum_image_size": 256})
    uncaptioned = FileItem.model_validate({**item("c.png").model_dump(), "captions": []})

    index = build_index(plan, [item("a.png"), item("b.png", (100, 100)), uncaptioned], TINY_CONFIG)

    assert [sample.path for sample in index.samples] == ["a.png"]
    assert "left out: b.png." in index.warnings[0]
    assert "left out: c.png." in index.warnings[1]
    assert index.digest() == build_index(plan, [item("a.png")], TINY_CONFIG).digest()


def test_a_backend_without_images_is_a_problem() -> None:
    plan = plan_of({"id": "a", "minimum_image_size": 256}, {"id": "b"})

    with pytest.raises(PlanError) as caught:
        build_index(plan, [item("a.png", (64, 64))], TINY_CONFIG)

    reported = [(problem.pointer, problem.code) for problem in caught.value.problems]
    assert reported == [
        ("/data_backends/0", "empty_dataset"),
        ("/data_backends/1", "empty_dataset"),
    ]


def test_captions_come_from_names_files_or_the_prompt() -> None:
    prompt = backend_of(caption_strategy="instanceprompt", instance_prompt="a cat")
    lines = backend_of(caption_strategy="textfile")

    assert captions_of(backend_of(), "in/a_black__cat.png", None) == ("a black cat",)
    assert captions_of(prompt, "x.png", None) == ("a cat",)
    assert captions_of(lines, "x.png", " one \n\ntwo\r\none\n") == ("one", "two")
    assert captions_of(lines, "x.png", None) == ()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"caf\xe9 au lait", "byte 3 is 0xe9; perhaps it is Latin-1 or Windows-1252"),
        (b"\xef\xbb\xbfcaf\xe9", "byte 6 is 0xe9"),
        (b"\xff\xfeh\0i", r"not UTF-16 text \(byte 4\); save it as UTF-8"),
        (b"h\0i\0", "NUL character; if it is UTF-16, save it as UTF-8"),
        (b"x" * 20_001, "20001 characters, more than 20000"),
    ],
)
def test_a_bad_caption_file_is_named_with_the_way_out(body: bytes, why: str) -> None:
    with pytest.raises(BadCaptionError, match=rf"^in/x\.txt: .*{why}"):
        decode_caption(body, name="in/x.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_caption_is_utf_8_or_utf_16_with_a_mark(encoding: str) -> None:
    assert decode_caption("un café, 猫".encode(encoding), name="x.txt") == "un café, 猫"
    assert decode_caption("a cat".encode("utf-16-be").join([b"\xfe\xff", b""]), name="") == "a cat"


def test_buckets_smaller_than_a_batch_are_told() -> None:
    items = [item(f"{n}.png", to="ab"[n % 2]) for n in range(4)]
    items += [item(f"{n}.png", (512, 128)) for n in (10, 11)]
    two = ({"id": "a"}, {"id": "b"})

    def warnings(**config: int) -> tuple[str, ...]:
        return build_index(plan_of(*two, **config), items, TINY_CONFIG).warnings

    assert warnings(train_batch_size=2, gradient_accumulation_steps=3) == ()
    assert warnings(train_batch_size=4) == (
        (
            "A batch has 4 images of one bucket, and 1 bucket has fewer: 512 x 128 px (2). Such a "
            "batch has the same image more than once: lower train_batch_size, or add images."
        ),
    )
    small, step = warnings(train_batch_size=8, gradient_accumulation_steps=3)
    assert "2 buckets have fewer: 256 x 256 px (4), 512 x 128 px (2)" in small
    assert step.startswith(
        "A step has 24 samples, and there are 6 images to train on: each is in a step about 4 "
        "times."
    )
