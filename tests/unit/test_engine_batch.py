"""The tensors of a batch: draws, masks and prior flags."""

import copy
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.config.plan import Evaluation, Plan
from trainer_core.data.entries import EntryFolder, encoded, write_entry
from trainer_core.data.entry_files import entry_name
from trainer_core.data.index import Crop, DataIndex, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.orders import sampler_of
from trainer_core.data.permutation import draw_seed
from trainer_core.data.sampler import MicroBatch
from trainer_core.engine.batch import Batch, BatchMaker, Draw
from trainer_core.engine.evaluating import EvaluationBatches
from trainer_core.hidream.loading import load_vae
from trainer_core.hidream.timestep_sampling import AutoShift, draw_sigma
from trainer_core.precision.compute import Compute
from trainer_core.validation.evaluation import EvaluationRow, evaluation_set

CPU = Compute(device=torch.device("cpu"), weights=torch.float32, is_autocast=False)
CELLS = 16
"""Latent cells along a side of 128 px."""


def plan_of(**objective: Any) -> Plan:
    """Two image backends, the first masked and the second for regularisation."""
    backends = [{"id": name, "caption_strategy": "filename"} for name in ("a", "r", "m")]
    plan = import_small({"train_batch_size": 2, "resolution": 128}, backends=backends).plan
    a, r, m = plan.identity.backends
    changed = (
        a.model_copy(update={"masks": "m"}),
        r.model_copy(update={"is_regularisation": True}),
        m.model_copy(update={"role": "mask", "mask_kind": "mask"}),
    )
    sampling = {key: objective.pop(key) for key in ("name", "values", "order") if key in objective}
    old = plan.identity.objective
    new = old.model_copy(update={**objective, "sigma": old.sigma.model_copy(update=sampling)})
    identity = plan.identity.model_copy(update={"backends": changed, "objective": new})
    return plan.model_copy(update={"identity": identity})


def item(backend: str, name: str) -> FileItem:
    captions = () if backend == "m" else (name,)
    return FileItem(
        backend=backend,
        path=f"{name}.png",
        sha256=hashlib.sha256(f"{backend} {name}".encode()).hexdigest(),
        width_px=128,
        height_px=128,
        captions=captions,
    )


ITEMS = [
    *(item("a", f"a{n}") for n in range(4)),
    *(item("m", f"a{n}") for n in range(4)),
    *(item("r", f"r{n}") for n in range(4)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every entry of the plan's index, with a number of its own in each of its kind."""
    folder = tmp_path_factory.mktemp("entries")
    index = build_index(plan_of(), ITEMS, TINY_CONFIG)
    counts: Counter[str] = Counter()
    for n, entry in enumerate(index.entries):
        kind = index.kind_of(n)
        counts[kind] += 1
        number = float(counts[kind])
        tensors = {
            "latents": {
                "mean": torch.full((1, 16, CELLS, CELLS), number),
                "std": torch.ones(1, 16, CELLS, CELLS),
            },
            "text": {
                "t5": torch.zeros(1, 4, 32),
                "llama": torch.zeros(1, 3, 4, 48),
                "pooled": torch.full((1, 40), number),
            },
            "masks": {"mask": torch.full((1, 1, CELLS, CELLS), number / 4)},
        }[kind]
        write_entry(folder / entry_name(entry.digest), encoded(kind, tensors))
    return folder


@pytest.fixture(scope="module")
def maker(folder: Path, tiny_folder: Path) -> Any:
    vae = load_vae(tiny_folder, torch.float32)

    def make(plan: Plan) -> tuple[DataIndex, BatchMaker]:
        index = build_index(plan, ITEMS, TINY_CONFIG)
        identity = plan.identity
        batches = BatchMaker(
            index, EntryFolder(folder, wait_s=1), identity, vae, CPU, auto_shift=AutoShift()
        )
        return index, batches

    return make


def micro(index: DataIndex, names: list[str], i: int = 0) -> MicroBatch:
    at = {Path(sample.path).stem: n for n, sample in enumerate(index.samples)}
    return MicroBatch(
        index=i,
        epoch=0,
        samples=tuple(at[name] for name in names),
        captions=(0,) * len(names),
        crops=(0,) * len(names),
    )


def test_a_batch_has_masks_prior_flags_and_dropout_seed(maker: Any) -> None:
    plan = plan_of()
    index, batches = maker(plan)

    mixed = batches.training(micro(index, ["r0", "a1"], i=9))
    plain = batches.training(micro(index, ["r0", "r1"]))
    without_prior = batches.training(micro(index, ["a0", "a1"]))

    assert mixed.is_prior_B.tolist() == [True, False]
    assert mixed.mask_B1HW.shape == (2, 1, CELLS, CELLS)
    assert mixed.mask_B1HW.dtype == torch.float32
    assert [row.unique().item() for row in mixed.mask_B1HW] == [1.0, 0.5]
    assert plain.mask_B1HW is None
    assert plain.is_prior_B.all()
    assert without_prior.is_prior_B is None
    drawn = draw_seed(plan.identity.seed, "adapter dropout", 9, 0)
    assert mixed.dropout_seed.item() % 2**64 == drawn
    assert mixed.dropout_seed.dtype is torch.int64


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_each_row_is_what_separate_generators_draw(
    maker: Any, folder: Path, tiny_folder: Path, weights: torch.dtype
) -> None:
    """In checkpoints is only the number of the micro-batch: its draws may never change."""
    plan = plan_of()
    identity = plan.identity.model_copy(update={"caption_dropout_probability": 0.5})
    index, _ = maker(plan.model_copy(update={"identity": identity}))
    vae = load_vae(tiny_folder, torch.float32)
    entries = EntryFolder(folder, wait_s=1, kept_bytes=1 << 30)
    compute = replace(CPU, weights=weights)
    batches = BatchMaker(index, entries, identity, vae, compute, auto_shift=AutoShift())

    names = [["a0", "r1", "a3"], ["a2"], ["r0", "r1", "a0"]]
    made = [micro(index, each, i) for i, each in enumerate(names)]
    for one, batch in [(one, batches.training(one)) for one in made]:
        for slot, sample in enumerate(one.samples):

            def generator(purpose: str, i: int = one.index, slot: int = slot) -> torch.Generator:
                return torch.Generator().manual_seed(draw_seed(identity.seed, purpose, i, slot))

            image = index.samples[sample]
            is_dropped = torch.rand(1, generator=generator("caption dropout")).item() < 0.5
            text = index.prompts[""] if is_dropped else image.texts[0]
            of_image, of_text = (
                EntryFolder(folder).read(index.entries[entry].digest, index.kind_of(entry))
                for entry in (image.latents, text)
            )
            shape = of_image["mean"].shape
            drawn = torch.randn(shape, generator=generator("train posterior"))
            posterior = of_image["mean"] + of_image["std"] * drawn
            latents = (posterior - vae.config.shift_factor) * vae.config.scaling_factor
            noise = torch.randn(shape, generator=generator("train noise"))
            sigma = batch.sigmas_B[slot]
            noisy = ((1 - sigma) * latents + sigma * noise).to(weights)
            assert sigma.item() == pytest.approx(
                draw_sigma(
                    identity.objective,
                    generator("train sigma"),
                    turn=0,
                    image_tokens=64,
                    auto_shift=AutoShift(),
                ),
                rel=1e-7,
            )
            assert torch.equal(batch.noisy_BCHW[slot], noisy[0])
            assert batch.noisy_BCHW.dtype is weights
            assert torch.equal(batch.target_BCHW[slot], (noise - latents)[0])
            assert torch.equal(batch.text.pooled[slot], of_text["pooled"][0])


def test_a_batch_has_latents_and_mask_of_the_crop_that_is_used(maker: Any, folder: Path) -> None:
    index, batches = maker(plan_of())
    a0, a1 = (each for each in index.samples if each.path in ("a0.png", "a1.png"))
    more = a0.model_copy(update={"more_crops": (Crop(latents=a1.latents, mask=a1.mask),)})
    samples = tuple(more if each == a0 else each for each in index.samples)
    several = copy.copy(batches)
    several._index = index.model_copy(update={"samples": samples})

    first = several.training(micro(index, ["a0"]))
    second = several.training(replace(micro(index, ["a0"]), crops=(1,)))
    other = batches.training(micro(index, ["a1"]))

    assert torch.equal(second.noisy_BCHW, other.noisy_BCHW)
    assert torch.equal(second.mask_B1HW, other.mask_B1HW)
    assert not torch.equal(first.noisy_BCHW, second.noisy_BCHW)
    assert not torch.equal(first.mask_B1HW, second.mask_B1HW)
    assert torch.equal(first.text.pooled, second.text.pooled)


def test_evaluation_samples_of_regularisation_images_have_their_own_image_as_target(
    maker: Any,
) -> None:
    index, batches = maker(plan_of())
    (sample,) = micro(index, ["r0"]).samples
    text = index.samples[sample].texts[0]

    batch = batches.batch([Draw(sample=sample, text=text, purpose="probe", i=0, slot=0)])

    assert batch.is_prior_B is None


@pytest.mark.parametrize(
    ("probability", "low", "high"), [(0.0, 0, 0), (0.3, 20, 42), (1.0, 100, 100)]
)
def test_a_mask_is_applied_with_its_probability(
    maker: Any, probability: float, low: int, high: int
) -> None:
    index, batches = maker(plan_of(masked_loss_probability=probability))

    masked = [batches.training(micro(index, ["a0"], i=i)).mask_B1HW is not None for i in range(100)]

    assert low <= sum(masked) <= high


def test_mask_draws_do_not_change_noise_or_sigma(maker: Any) -> None:
    one, other = (
        batches.training(micro(index, ["a0", "a1"], i=3))
        for index, batches in (maker(plan_of(masked_loss_probability=p)) for p in (0.0, 0.5))
    )

    assert torch.equal(one.noisy_BCHW, other.noisy_BCHW)
    assert torch.equal(one.sigmas_B, other.sigmas_B)


def test_a_round_robin_list_continues_over_slots_and_micro_batches(maker: Any) -> None:
    plan = plan_of(name="list", values=(0.9, 0.5, 0.1), order="round-robin")
    index, batches = maker(plan)

    sigmas = [batches.training(micro(index, ["a0", "a1"], i=i)).sigmas_B.tolist() for i in (1, 0)]

    assert sigmas[1] == pytest.approx([0.9, 0.5])
    assert sigmas[0] == pytest.approx([0.1, 0.9])


def test_the_automatic_shift_uses_the_number_of_tokens_of_the_bucket(maker: Any) -> None:
    """128 px squared are 64 patches."""
    (plain,) = _sigmas(maker, name="uniform", shift=1.0)
    (shifted,) = _sigmas(maker, name="uniform", shift=1.0, auto_shift=True)

    s = AutoShift().at(64)
    assert shifted == pytest.approx(s * plain / (1 + (s - 1) * plain), rel=1e-6)


def _sigmas(maker: Any, **objective: Any) -> list[float]:
    index, batches = maker(plan_of(**objective))
    sigmas: list[float] = batches.training(micro(index, ["a0"])).sigmas_B.tolist()
    return sigmas


def test_masks_are_never_sampled_as_images(maker: Any) -> None:
    index, _ = maker(plan_of())
    sampler = sampler_of(plan_of().identity, index)

    drawn = {s for i in range(40) for s in sampler.micro_batch(i).samples}

    assert {index.samples[s].backend for s in drawn} == {"a", "r"}


def test_a_batch_does_not_depend_on_the_batches_made_before_it(maker: Any) -> None:
    index, batches = maker(plan_of(masked_loss_probability=0.5, name="beta"))

    first = batches.training(micro(index, ["a0", "r1"], i=5))
    batches.training(micro(index, ["a2"], i=6))
    again = batches.training(micro(index, ["a0", "r1"], i=5))

    for name in ("noisy_BCHW", "target_BCHW", "sigmas_B", "is_prior_B"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert (first.mask_B1HW is None) == (again.mask_B1HW is None)
    assert first.dropout_seed == again.dropout_seed


def evaluation_batches(
    maker: Any, **objective: Any
) -> tuple[DataIndex, list[tuple[list[EvaluationRow], Batch]]]:
    index, batches = maker(plan_of(**objective))
    plan = Evaluation(
        step_interval=1, epoch_interval=None, images=9, sigmas=2, backends=(), by_backend=False
    )
    measured = evaluation_set(plan, index, regularisation=())
    assert measured is not None
    made = EvaluationBatches(batches)
    return index, [(rows, made.batch(rows)) for rows in measured.batches(3 * 128 * 128)]


def test_an_evaluation_depends_on_neither_shift_nor_loss_nor_the_probability_of_masks(
    maker: Any,
) -> None:
    other = {"shift": 9.0, "loss": "huber", "masked_loss_probability": 0.0, "name": "beta"}

    index, usual = evaluation_batches(maker)
    _, changed = evaluation_batches(maker, **other)

    assert [len(rows) for rows, _ in usual] == [3] * 5 + [1]
    for (rows, batch), (_, again) in zip(usual, changed, strict=True):
        pairs = zip(batch.tensors(), again.tensors(), strict=True)
        assert all(torch.equal(one, another) for one, another in pairs)
        assert batch.sigmas_B.tolist() == [row.sigma for row in rows]
        masked = [index.samples[row.image.sample].mask is not None for row in rows]
        assert (batch.mask_B1HW is not None) == any(masked)
        if batch.mask_B1HW is not None:  # an image without a mask counts everywhere
            everywhere = [bool((mask == 1).all()) for mask in batch.mask_B1HW]
            assert all(counts or has for counts, has in zip(everywhere, masked, strict=True))


def test_an_evaluation_has_the_noise_of_its_image_and_noise_level(maker: Any) -> None:
    _, found = evaluation_batches(maker)

    for rows, batch in found:
        for number, row in enumerate(rows):
            generator = torch.Generator().manual_seed(row.image.seed("noise", row.number))
            shape = batch.target_BCHW[number : number + 1].shape
            noise = torch.randn(shape, generator=generator)[0].double()
            latents = noise - batch.target_BCHW[number].double()
            noisy = (1 - row.sigma) * latents + row.sigma * noise
            torch.testing.assert_close(
                batch.noisy_BCHW[number].double(), noisy, rtol=1e-5, atol=1e-5
            )
