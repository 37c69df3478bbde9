"""The chart: strict lint, and manifests that start the same processes with the same settings."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "reverie"
HELM = ROOT / ".cache" / "helm" / "helm"


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm on the chart; a missing helm fails in CI and skips elsewhere."""
    if not HELM.exists():
        reason = f"{HELM} is missing; `make deps` fetches it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return subprocess.run(
        [HELM, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def render(*arguments: str) -> list[dict[str, Any]]:
    done = helm("template", "r", str(CHART), "--kube-version", "1.35.0", *arguments)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod specs of Deployments and Jobs by the object's name."""
    return {
        d["metadata"]["name"]: d["spec"]["template"]["spec"]
        for d in documents
        if d["kind"] in ("Deployment", "Job")
    }


def test_lint_finds_nothing() -> None:
    done = helm("lint", "--strict", str(CHART))

    assert done.returncode == 0, done.stdout


def test_one_workload_for_each_process() -> None:
    commands = {name: pod["containers"][0]["command"][2] for name, pod in pods(render()).items()}

    assert commands == {
        "r-migrate": "services.store.migrate",
        "r-api": "services.api",
        "r-dispatcher": "services.dispatcher",
        "r-cache-builder": "services.cache_builder",
        "r-trainer-h200": "services.trainer",
        "r-results": "services.results",
    }


def test_every_pod_meets_the_restricted_standard_and_holds_no_cluster_token() -> None:
    for name, pod in pods(render()).items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            limits = container["securityContext"]
            assert limits["allowPrivilegeEscalation"] is False, name
            assert limits["capabilities"] == {"drop": ["ALL"]}, name
            assert limits["readOnlyRootFilesystem"] is True, name


def test_every_pod_is_bounded_and_what_answers_requests_is_probed() -> None:
    documents = render()
    for name, pod in pods(documents).items():
        for container in pod["containers"]:
            assert "memory" in container["resources"]["limits"], name
    (api,) = pods(documents)["r-api"]["containers"]
    assert {"livenessProbe", "readinessProbe"} <= api.keys()
    kept = {d["metadata"]["name"] for d in documents if d["kind"] == "PodDisruptionBudget"}
    assert kept == {"r-api", "r-trainer-h200"}


def test_only_results_sees_the_hub_token_and_the_api_no_broker() -> None:
    environment = {
        name: {entry["name"] for entry in pod["containers"][0]["env"]}
        for name, pod in pods(render("--set", "secrets.hub.name=hub")).items()
    }

    assert {name for name, env in environment.items() if "HF_TOKEN" in env} == {"r-results"}
    keys = {name for name, env in environment.items() if "REVERIE_KEY_PEPPER" in env}
    assert keys == {"r-api", "r-migrate"}
    assert "REVERIE_BROKER_URL" not in environment["r-api"]
    assert all("REVERIE_BROKER_URL" in env for name, env in environment.items() if name != "r-api")


def test_the_api_seals_secrets_and_only_results_opens_them() -> None:
    documents = render("--set", "secrets.sealing.name=public,secrets.opening.name=private")
    environment = {
        name: {
            entry["name"]: entry["valueFrom"]["secretKeyRef"]["name"]
            for entry in pod["containers"][0]["env"]
            if entry["name"].startswith("REVERIE_SECRETS_")
        }
        for name, pod in pods(documents).items()
    }

    assert {name: env for name, env in environment.items() if env} == {
        "r-api": {"REVERIE_SECRETS_PUBLIC_KEY": "public"},
        "r-results": {"REVERIE_SECRETS_PRIVATE_KEYS": "private"},
    }
    policies = {d["metadata"]["name"] for d in documents if d["kind"] == "NetworkPolicy"}
    assert "r-hub" in policies


def test_a_new_run_asks_for_a_gpu_class_that_has_trainers() -> None:
    classes = {
        name: entry["value"]
        for name, pod in pods(render()).items()
        for entry in pod["containers"][0]["env"]
        if entry["name"] == "REVERIE_GPU_CLASS"
    }

    assert classes["r-api"] == classes["r-trainer-h200"] == "h200"


def test_a_trainer_names_the_machine_that_it_runs_on() -> None:
    environment = pods(render())["r-trainer-h200"]["containers"][0]["env"]

    (node,) = [entry for entry in environment if entry["name"] == "REVERIE_NODE"]
    assert node["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


def test_every_process_serves_its_metrics_where_they_are_read() -> None:
    found = pods(render("--set", "metrics.port=9464"))
    for name in ("r-api", "r-dispatcher", "r-cache-builder", "r-trainer-h200", "r-results"):
        (container,) = found[name]["containers"]
        environment = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert environment["REVERIE_METRICS_PORT"] == "9464", name
        assert environment["REVERIE_METRICS_HOST"] == "0.0.0.0", name
        assert {"name": "metrics", "containerPort": 9464} in container["ports"], name


def test_what_is_secret_comes_from_secrets_only() -> None:
    secret = ("REVERIE_DATABASE_URL", "REVERIE_BROKER_URL", "REVERIE_KEY_PEPPER")
    for name, pod in pods(render()).items():
        for entry in pod["containers"][0]["env"]:
            if entry["name"] in secret:
                assert "secretKeyRef" in entry["valueFrom"], name


def test_a_trainer_gets_the_time_for_a_checkpoint() -> None:
    assert pods(render())["r-trainer-h200"]["terminationGracePeriodSeconds"] >= 120


def test_each_gpu_class_is_a_deployment_of_its_own() -> None:
    two = [{"gpuClass": name, "replicas": 2, "scratch": "10Gi"} for name in ("h200", "l40s")]

    trainers = pods(render("--set-json", f"trainers={json.dumps(two)}"))

    assert {"r-trainer-h200", "r-trainer-l40s"} <= trainers.keys()


def test_traffic_is_denied_unless_named() -> None:
    policies = {d["metadata"]["name"]: d for d in render() if d["kind"] == "NetworkPolicy"}

    deny = policies["r-default-deny"]["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    assert "r-hub" not in policies  # no token, no way out to the Hub
    assert "r-webhooks" not in policies  # and no way to webhooks without keys for their secrets


def test_webhooks_are_sent_to_the_public_internet_only() -> None:
    documents = render("--set", "secrets.opening.name=keys")
    policies = {d["metadata"]["name"]: d for d in documents if d["kind"] == "NetworkPolicy"}

    (way_out,) = policies["r-webhooks"]["spec"]["egress"]
    all_of_4, public_6 = (each["ipBlock"] for each in way_out["to"])
    assert {"10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16"} <= set(all_of_4["except"])
    assert public_6 == {"cidr": "2000::/3"}
    assert {"port": 443, "endPort": 443, "protocol": "TCP"} in way_out["ports"]
    off = ("--set", "networkPolicy.webhooks.enabled=false")
    without = render("--set", "secrets.opening.name=keys", *off)
    assert "r-webhooks" not in {d["metadata"]["name"] for d in without}


def test_cache_builders_fetch_sources_from_the_public_internet_only() -> None:
    policies = {d["metadata"]["name"]: d for d in render() if d["kind"] == "NetworkPolicy"}
    spec = policies["r-imports"]["spec"]
    assert spec["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "cache-builder"
    (way_out,) = spec["egress"]
    all_of_4, _ = (each["ipBlock"] for each in way_out["to"])
    assert {"10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16"} <= set(all_of_4["except"])
    assert {"port": 80, "endPort": 80, "protocol": "TCP"} in way_out["ports"]
    without = render("--set", "networkPolicy.imports.enabled=false")
    assert "r-imports" not in {d["metadata"]["name"] for d in without}


def test_metrics_are_off_unless_a_port_is_given() -> None:
    documents = render()

    assert "PodMonitor" not in {d["kind"] for d in documents}
    for name, pod in pods(documents).items():
        assert "REVERIE_METRICS_PORT" not in {e["name"] for e in pod["containers"][0]["env"]}, name


def test_with_a_port_every_process_serves_its_metrics() -> None:
    documents = render(
        *("--set", "metrics.port=9400"),
        *("--set", "metrics.annotations=true,metrics.podMonitor=true"),
    )

    for document in documents:
        if document["kind"] == "Deployment":
            name, template = document["metadata"]["name"], document["spec"]["template"]
            assert template["metadata"]["annotations"]["prometheus.io/port"] == "9400", name
            (container,) = template["spec"]["containers"]
            assert {"name": "metrics", "containerPort": 9400} in container["ports"], name
            env = {each["name"]: each.get("value") for each in container["env"]}
            assert env["REVERIE_METRICS_PORT"] == "9400", name
    named = {(d["kind"], d["metadata"]["name"]) for d in documents}
    assert {("PodMonitor", "r-reverie"), ("NetworkPolicy", "r-metrics")} <= named


def test_traces_are_off_unless_an_endpoint_is_given() -> None:
    endpoint = "http://collector:4318"
    given = render("--set", f"traces.endpoint={endpoint},traces.headers.name=otlp")
    for documents, expected in ((render(), None), (given, endpoint)):
        for name, pod in pods(documents).items():
            env = {each["name"]: each for each in pod["containers"][0]["env"]}
            has = expected is not None and name != "r-migrate"
            assert ("REVERIE_OTLP_ENDPOINT" in env, "OTEL_EXPORTER_OTLP_HEADERS" in env) == (
                has,
                has,
            ), name
            assert not has or env["REVERIE_OTLP_ENDPOINT"]["value"] == expected
        policies = {d["metadata"]["name"] for d in documents if d["kind"] == "NetworkPolicy"}
        assert ("r-traces" in policies) == (expected is not None)


@pytest.mark.parametrize(
    "wrong",
    [
        "api.replicas=two",
        "api.url=ftp://x",
        "trainers[0].gpuClass=H 200",
        "settings.LEASE=1",
        "metrics.port=80",
        "traces.endpoint=http://user:password@collector:4318",
        "x=1",
    ],
)
def test_the_schema_refuses_wrong_values(wrong: str) -> None:
    done = helm("template", "r", str(CHART), "--set", wrong)

    assert done.returncode != 0
    assert "schema" in done.stderr
