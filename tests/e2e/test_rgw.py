"""The same run over a real S3 server: Ceph RGW, through boto3.

In a module of its own: two fleets over one Redis would answer each other's rings.
"""

from collections.abc import Callable
from pathlib import Path

from tests.support.fleet import Fleet
from tests.support.rgw import Bucket
from tests.support.service import new_tenant, small_photos, small_run_request


def test_a_run_over_ceph_rgw(
    fleet_of: Callable[..., Fleet], rgw_bucket: Bucket, tmp_path: Path
) -> None:
    fleet = fleet_of(REVERIE_OBJECTS_URL=rgw_bucket.url, **rgw_bucket.env)
    fleet.start_all(trainers=1)
    tenant = new_tenant(fleet, "ada")
    datasets = {"photos": tenant.push_folder(small_photos(tmp_path / "photos"))}
    run_id = tenant.submit(small_run_request(datasets, max_train_steps=10))

    run = tenant.wait_over(run_id, deadline_s=240)

    assert run["status"] == "succeeded", run["status_reason"]
    assert tenant.wait_published(run_id)["status"] == "succeeded"
    download = tenant.get(f"/v1/runs/{run_id}/checkpoints")["data"][0]
    assert download["step"] == 10
