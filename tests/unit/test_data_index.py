"""Images become buckets, entries and one index."""

import hashlib
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.config.plan import Backend, Plan
from trainer_core.config.plan.problems import PlanError
from trainer_core.data.buckets import geometry_of
from trainer_core.data.captions import captions_of, decode_caption
from trainer_core.data.index import Caption, DataIndex, FileItem, Picture, Sample
from trainer_core.data.indexing import build_index
from trainer_core.data.orders import sampler_of
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


def test_every_picture_and_caption_has_an_entry_and_equal_ones_share_it() -> None:
    sizes = [(256, 256), (300, 200), (200, 300)]
    items = [item(f"{n}.png", sizes[n % 3], f"caption {n % 30}", "both") for n in range(100)]
    twin = items[0].model_copy(update={"path": "twin.png"})
    items.append(twin)

    index = build_index(plan_of({"id": "a"}, validation_prompt="a cat"), items, TINY_CONFIG)

    digests = [entry.digest for entry in index.entries]
    assert len(set(digests)) == len(digests)
    for entry in index.entries:
        assert entry.digest == index.encodings[entry.encoding].digest_of(entry.content)
    texts = [e.content.text for e in index.entries if isinstance(e.content, Caption)]
    assert sorted(texts) == sorted(["", "a cat", "both", *(f"caption {n}" for n in range(30))])
    assert {index.kind_of(n) for n in index.prompts.values()} == {"text"}
    assert set(index.prompts) == {"", "a cat"}
    for sample, file in zip(index.samples, sorted(items, key=lambda i: i.path), strict=True):
        picture = index.entries[sample.latents].content
        assert isinstance(picture, Picture)
        assert index.kind_of(sample.latents) == "latents"
        assert picture.sha256 == file.sha256
        assert (picture.geometry.width_px, picture.geometry.height_px) == (
            sample.width_px,
            sample.height_px,
        )
        assert index.captions_of(sample) == file.captions
    assert len(index.entries) == 33 + 100  # the twin has none of its own
    of_twins = [s for s in index.samples if s.path in (items[0].path, "twin.png")]
    assert len({sample.latents for sample in of_twins}) == 1


def changes(before: DataIndex, after: DataIndex) -> tuple[int, int]:
    """How many entries are new, and how many are no longer used."""
    one, other = ({entry.digest for entry in index.entries} for index in (before, after))
    return len(other - one), len(one - other)


def test_a_change_of_one_picture_changes_its_own_entries_only() -> None:
    sizes = [(256, 256), (300, 200), (200, 300)]
    items = [item(f"{n:03}.png", sizes[n % 3], f"caption {n}") for n in range(200)]
    fifth = items[5]

    def built(files: list[FileItem], **options: Any) -> DataIndex:
        return build_index(plan_of({"id": "a", **options}), files, TINY_CONFIG)

    def with_fifth(**change: Any) -> list[FileItem]:
        return [*items[:5], fifth.model_copy(update=change), *items[6:]]

    before = built(items)
    more = [*items, item("0005.png", (256, 256), "another")]
    assert changes(before, built(more)) == (2, 0)
    assert changes(before, built(items[1:])) == (0, 2)
    renamed = built(with_fifth(path="zebra.png"))
    assert changes(before, renamed) == (0, 0)
    assert renamed.digest() == before.digest()
    assert changes(before, built(with_fifth(captions=("another",)))) == (1, 1)
    assert changes(before, built(with_fifth(captions=("another", "caption 5")))) == (1, 0)
    assert changes(before, built(with_fifth(captions=("caption 6",)))) == (0, 1)
    assert changes(before, built(with_fifth(sha256="f" * 64))) == (1, 1)
    assert changes(before, built(with_fifth(width_px=300, height_px=200))) == (1, 1)
    assert changes(before, built(items, repeats=3)) == (0, 0)
    # Every third picture is square already.
    assert changes(before, built(items, crop=True, crop_aspect="square")) == (133, 133)


def test_another_prompt_leaves_the_other_entries_alone() -> None:
    items = [item(f"{n}.png") for n in range(20)]

    one, other = (
        build_index(plan_of({"id": "a"}, validation_prompt=prompt), items, TINY_CONFIG)
        for prompt in ("a cat", "a dog")
    )

    assert changes(one, other) == (1, 1)


def test_several_sizes_of_one_source_share_their_captions() -> None:
    two = [item("x.png", (256, 256), "a cat", to=to) for to in "ab"]

    index = build_index(
        plan_of({"id": "a", "resolution": 256}, {"id": "b", "resolution": 128}), two, TINY_CONFIG
    )

    one, other = index.samples
    assert one.texts == other.texts
    assert one.latents != other.latents


def test_the_digest_and_the_order_go_by_what_is_trained_on() -> None:
    """A run whose sample image gets another prompt resumes; with another caption it does not."""
    items = [item(f"{n}.png", (256, 256), f"caption {n}") for n in range(20)]
    others = [item("0.png", (256, 256), "other"), *items[1:]]

    def built(prompt: str, files: list[FileItem]) -> DataIndex:
        return build_index(plan_of({"id": "a"}, validation_prompt=prompt), files, TINY_CONFIG)

    def order(index: DataIndex) -> list[tuple[int, ...]]:
        sampler = sampler_of(plan_of({"id": "a"}, train_batch_size=2).identity, index)
        return [sampler.micro_batch(i).samples for i in range(10)]

    one = built("a cat", items)
    # A prompt that is a caption too moves the caption's entry to another position.
    for again in (built("a dog", items), built("caption 3", items)):
        assert again.digest() == one.digest()
        assert order(again) == order(one)
    assert built("a cat", others).digest() != one.digest()
    fewer = one.model_copy(update={"samples": one.samples[1:]})
    assert fewer.digest() != one.digest()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_encoders_precision_renames_the_captions_entries(number: int) -> None:
    plain = plan_of({"id": "a"})
    precision = plain.identity.precision.model_copy(
        update={f"text_encoder_{number}": "int8-quanto"}
    )
    identity = plain.identity.model_copy(update={"precision": precision})
    changed = plain.model_copy(update={"identity": identity})

    one, other = (build_index(p, [item("a.png")], TINY_CONFIG) for p in (plain, changed))

    for n, (before, after) in enumerate(zip(one.entries, other.entries, strict=True)):
        assert (before.digest == after.digest) is (one.kind_of(n) == "latents")
    (text,) = (each.encoder for each in one.encodings if each.kind == "text")
    assert "text_encoder_1" not in text
    assert "text_encoder_2" not in text


@pytest.mark.parametrize("change", [{"base_digest": "1" * 64}, {"compute": "fp16"}])
def test_what_encodes_is_part_of_the_digest_and_a_name_is_not(change: dict[str, Any]) -> None:
    index = build_index(plan_of({"id": "a"}), [item("a.png")], TINY_CONFIG)

    for entry in index.entries:
        encoding, content = index.encodings[entry.encoding], entry.content
        other = encoding.model_copy(update={"encoder": {**encoding.encoder, **change}})
        assert other.digest_of(content) != entry.digest
        if isinstance(content, Picture):
            renamed = content.model_copy(update={"path": "elsewhere/b.jpg"})
            assert encoding.digest_of(renamed) == entry.digest


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
            "A batch has 4 images of one backend and bucket, and 3 buckets have fewer: a 256 x 256 "
            "px (2), a 512 x 128 px (2), b 256 x 256 px (2). Such a batch has the same image more "
            "than once: lower train_batch_size, or add images."
        ),
    )
    small, step = warnings(train_batch_size=8, gradient_accumulation_steps=3)
    assert "3 buckets have fewer: a 256 x 256 px (2), a 512 x 128 px (2), b 256 x 25" in small
    assert step.startswith(
        "A step has 24 samples, and there are 6 images to train on: each is in a step about 4 "
        "times."
    )


def test_the_digest_ignores_names_positions_and_the_order_of_samples() -> None:
    items = [item(f"{n}.png", (256, 256), f"caption {n}") for n in range(12)]
    index = build_index(plan_of({"id": "a"}), items, TINY_CONFIG)

    def moved(sample: Sample) -> Sample:
        last = len(index.entries) - 1
        return sample.model_copy(
            update={
                "path": hashlib.sha256(sample.path.encode()).hexdigest(),
                "latents": last - sample.latents,
                "texts": tuple(last - text for text in sample.texts),
            }
        )

    again = index.model_copy(
        update={
            "samples": tuple(moved(sample) for sample in reversed(index.samples)),
            "entries": index.entries[::-1],
            "prompts": {},
        }
    )
    swapped = index.model_copy(
        update={
            "samples": (
                index.samples[0].model_copy(update={"texts": index.samples[1].texts}),
                index.samples[1].model_copy(update={"texts": index.samples[0].texts}),
                *index.samples[2:],
            )
        }
    )

    assert again.digest() == index.digest()
    assert swapped.digest() != index.digest()
