"""What a user is told before the controller takes over."""

import json
from pathlib import Path
from typing import Any

from golden import CUSTOM
from refused import predictor, runtime, service
from typer.testing import CliRunner

from modelmesh.cli import app
from modelmesh.declared import Document, read_documents
from modelmesh.kubernetes.migration import OLD_WEBHOOK, Finding, check

CONFIG_MAP: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "model-serving-config", "namespace": "modelmesh-serving"},
    "data": {"config.yaml": "podsPerRuntime: 3\npodPerRuntime: 2\n"},
}
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "modelmesh-serving-mine"}}
WEBHOOK = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingWebhookConfiguration",
    "metadata": {"name": OLD_WEBHOOK},
}


def told(*objects: dict[str, Any]) -> list[Finding]:
    return check([Document(f"there.yaml:{n}", one) for n, one in enumerate(objects, 1)], home="modelmesh-serving")


def test_a_namespace_that_is_in_order() -> None:
    findings = told(runtime(), predictor(), DEPLOYMENT, WEBHOOK, CONFIG_MAP)
    assert not any(one.stops for one in findings)
    said = {one.what: one.says for one in findings}
    assert said["ServingRuntime mine"] == (
        "the Deployment modelmesh-serving-mine stays as it is, until the annotation modelmesh.io/roll says true"
    )
    assert said["Predictor mine"].startswith("keeps its id mine__ksp-")
    assert "podPerRuntime: is not a key" in said["ConfigMap modelmesh-serving/model-serving-config"]
    assert said[f"ValidatingWebhookConfiguration {OLD_WEBHOOK}"].startswith("delete it")


def test_what_would_not_be_served_stops() -> None:
    wrong = {**CONFIG_MAP, "data": {"config.yaml": "podsPerRuntime: many"}}
    stops = [one for one in told(runtime(grpcEndpoint=None), predictor(), service({}), wrong) if one.stops]
    assert {one.what for one in stops} == {
        "ServingRuntime mine",
        "Predictor mine",  # no runtime is left for it
        "InferenceService mine",
        "ConfigMap modelmesh-serving/model-serving-config",
    }


def test_the_configuration_counts_for_the_names() -> None:
    long = {**CONFIG_MAP, "data": {"config.yaml": f"inferenceServiceName: {'m' * 62}"}}
    (finding,) = [one for one in told(runtime(), long) if one.stops]
    assert "a Deployment's name has no room for" in finding.says


def test_the_command(tmp_path: Path) -> None:
    documents, _ = read_documents("custom", CUSTOM)
    listing = {"apiVersion": "v1", "kind": "List", "items": [documents[0].body, CONFIG_MAP]}
    (tmp_path / "there.yaml").write_text(json.dumps(listing))
    run = CliRunner().invoke(app, ["migrate", "check", "-f", str(tmp_path / "there.yaml")])
    assert run.exit_code == 0, run.output
    assert "  ServingRuntime custom: gets the Deployment modelmesh-serving-custom" in run.output
    (tmp_path / "there.yaml").write_text(json.dumps(runtime(grpcEndpoint=None)))
    run = CliRunner().invoke(app, ["migrate", "check", "--json", "-f", str(tmp_path / "there.yaml")])
    assert run.exit_code == 1
    assert any(one["stops"] for one in json.loads(run.output))
