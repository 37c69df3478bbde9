"""Embeddings of captions in 8 bits: how near they come back, and that entries hold them."""

from pathlib import Path

import pytest
import torch

from trainer_core.data.entries import EntryFolder, encoded, write_entry
from trainer_core.data.entry_files import entry_name
from trainer_core.data.text_rows import ROWS, from_fp8, to_fp8
from trainer_core.hidream.text import TextEmbeddings

HALF_STEP = 2.0**-4
"""Largest relative error of a normal number with three bits after the point."""
DIGEST = "ab" * 32


def embeddings(seed: int) -> dict[str, torch.Tensor]:
    """As of one caption; a few entries of Llama's vectors are far larger than the others."""
    generator = torch.Generator().manual_seed(seed)
    llama = torch.randn(1, 5, 16, 64, generator=generator)
    llama[..., 3] *= 300
    return {
        "t5": torch.randn(1, 16, 32, generator=generator).bfloat16(),
        "llama": llama.bfloat16(),
        "pooled": torch.randn(1, 12, generator=generator).bfloat16(),
    }


@pytest.mark.parametrize("seed", range(3))
def test_each_number_comes_back_within_the_step_of_its_type(seed: int) -> None:
    text = embeddings(seed)
    rows = to_fp8(text)
    for name in ROWS:
        exact = text[name].double()
        found = from_fp8(rows[name], rows[f"{name}_scale"], torch.float64)
        # Below the normal numbers the step is the same for all, and a part of the row's largest.
        least = exact.abs().amax(-1, keepdim=True) / 448 * 2.0**-10
        assert ((found - exact).abs() <= exact.abs() * HALF_STEP + least * 1.01).all()
        assert (found - exact).norm() / exact.norm() < 0.03
    assert torch.equal(rows["pooled"], text["pooled"])


def test_integers_would_lose_the_small_entries_beside_a_large_one() -> None:
    """Why the rows are e4m3: the error of what is not the largest entry."""
    llama = embeddings(1)["llama"].double()
    rows = to_fp8({**embeddings(1)})
    found = from_fp8(rows["llama"], rows["llama_scale"], torch.float64)
    scale = llama.abs().amax(-1, keepdim=True) / 127
    integers = (llama / scale).round() * scale
    small = torch.arange(64) != 3

    def error(values: torch.Tensor) -> float:
        return float((values - llama)[..., small].norm() / llama[..., small].norm())

    assert error(found) < 0.05
    assert error(integers) > 0.3


def test_an_entry_holds_the_rows_and_gives_the_embeddings_back(tmp_path: Path) -> None:
    text = embeddings(2)
    whole, half = encoded("text", text), encoded("text", to_fp8(text))
    write_entry(tmp_path / entry_name(DIGEST), half)

    read = TextEmbeddings.from_tensors(EntryFolder(tmp_path).read(DIGEST, "text"))
    two = TextEmbeddings.concatenate([read, read])
    back = two.to(device=torch.device("cpu"), dtype=torch.bfloat16)

    assert half.size_bytes < 0.6 * whole.size_bytes
    assert (len(two), len(back), back.llama_scale) == (2, 2, None)
    assert back.llama.dtype is back.t5.dtype is torch.bfloat16
    assert (back.llama[1].double() - text["llama"][0].double()).norm() / text["llama"].norm() < 0.03
    assert torch.equal(back.pooled[1:], text["pooled"])
