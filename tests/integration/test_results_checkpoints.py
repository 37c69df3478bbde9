"""A checkpoint is published as an adapter with a card, as long as it is there."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from services.domain.errors import InvalidRequestError
from services.store.database import Database
from tests.support.publishing_runs import Training, training_of
from trainer_core.config.plan import LokrAdapter
from trainer_core.export.origin import ADAPTER_NAME


@pytest.fixture
def training(database: Database, tmp_path: Path) -> Iterator[Training]:
    """A run that publishes its checkpoints on request only."""
    with training_of(database, tmp_path, {}, {}) as found:
        yield found


def test_a_checkpoint_of_a_run_that_trains_is_published(training: Training) -> None:
    parameters = training.save(10)

    row = training.ring(training.publish(10))

    assert (row.status, row.checkpoint_step, row.error) == ("succeeded", 10, None)
    assert row.location is not None
    place = Path(row.location)
    assert place.name == f"{training.claim.run_id}-step-00000010"
    assert sorted(path.name for path in place.iterdir()) == [
        "README.md",
        "lycoris_config.json",
        ADAPTER_NAME,
    ]
    tensors = load_file(place / ADAPTER_NAME)
    adapter = training.plan.identity.adapter
    assert isinstance(adapter, LokrAdapter)
    for module in adapter.modules:
        published = tensors[f"lycoris_{module.path.replace('.', '_')}.lokr_w2"]
        assert torch.equal(published, parameters[f"{module.path}.w2"])
    card = (place / "README.md").read_text()
    assert ", 10 steps." in card
    assert "## Use" in card
    assert "samples/0.png" not in card
    assert json.loads((place / "lycoris_config.json").read_text())["algo"] == "lokr"


def test_a_checkpoint_stays_until_it_is_published(training: Training) -> None:
    training.save(10)
    publication_id = training.publish(10)
    training.save(20)
    assert training.steps() == [20, 10]

    assert training.ring(publication_id).status == "succeeded"

    training.save(30)
    assert training.steps() == [30]


def test_a_checkpoint_that_is_gone_ends_its_publication(training: Training) -> None:
    training.save(10)
    publication_id = training.publish(10)
    with training.tenant_db.database.transaction() as conn:
        conn.execute("DELETE FROM checkpoints WHERE run_id = %s", (training.claim.run_id,))

    row = training.ring(publication_id)

    assert row.status == "failed"
    assert row.error is not None
    assert (row.error["code"], row.error["retryable"]) == ("checkpoint_gone", False)


def test_what_cannot_be_used_is_refused_at_the_door(training: Training) -> None:
    training.save(10)
    with pytest.raises(InvalidRequestError) as caught:
        training.publish(11)
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.code) == ("/checkpoint_step", "no_checkpoint")
    with pytest.raises(InvalidRequestError, match="no result"):
        training.publish(None)
    with training.tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE run_documents SET plan = jsonb_set(plan, '{identity,adapter}', 'null')"
        )
    with pytest.raises(InvalidRequestError) as caught:
        training.publish(10)
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.code) == ("/checkpoint_step", "refused")
    assert "Publish the result" in problem.message
