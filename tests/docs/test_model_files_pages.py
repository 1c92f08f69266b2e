"""The pages on model files and model servers: what they show is read by the code, and what they quote is what it says."""

import json
import re
from pathlib import Path

import pytest

from modelmesh.declared import declare, read_documents
from modelmesh.storage import from_model_key, parse_location

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"
PULL = (HOW_TO / "pull-model-files.md").read_text()
TROUBLE = (HOW_TO / "troubleshoot-model-files.md").read_text()
SERVERS = (HOW_TO / "use-a-model-server.md").read_text()
URIS = sorted(set(re.findall(r"`((?:s3|gs|az|https|hf|oci|pvc|file)://[^`\s]+)`", PULL)))
CONFIGS = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PULL, flags=re.DOTALL)]
MESSAGES = re.findall(r"^\| `([^`]+)` \| ([A-Z_]+) \|", TROUBLE, flags=re.MULTILINE)


@pytest.mark.parametrize("uri", URIS)
def test_the_locations_of_the_page_are_read(uri: str) -> None:
    assert parse_location(uri).kind.value == {"https": "http"}.get(uri.partition(":")[0], uri.partition(":")[0]) or (
        ".blob." in uri
    )


@pytest.mark.parametrize("config", CONFIGS, ids=[config["type"] for config in CONFIGS])
def test_the_storage_configurations_of_the_page_are_read(config: dict[str, str]) -> None:
    files = from_model_key("iris/1", '{"storage_key": "k"}', lambda name: json.dumps(config) if name == "k" else None)
    assert files.model.path.endswith("iris/1")


def test_every_source_has_a_section() -> None:
    assert {uri.partition(":")[0] for uri in URIS} >= {"s3", "gs", "az", "https", "hf", "oci", "pvc", "file"}
    assert [config["type"] for config in CONFIGS] == ["s3", "gcs", "azure", "http", "pvc"]


def sources() -> str:
    """The code's texts, with those that are written in parts put together."""
    folders = ("storage", "runtime", "control", "servers")
    text = "\n".join(
        path.read_text() for folder in folders for path in sorted((ROOT / "src" / "modelmesh" / folder).rglob("*.py"))
    )
    return re.sub(r'"\s*\n\s*f?"', "", text)


@pytest.mark.parametrize("message", [message for message, _ in MESSAGES])
def test_a_message_of_the_page_is_one_of_the_code(message: str) -> None:
    assert message.rstrip("…") in sources()


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 25


def test_the_manifests_for_each_server_choose_it() -> None:
    texts = re.findall(r"```yaml\n(.*?)```", SERVERS, flags=re.DOTALL)
    documents, problems = read_documents("models.yaml", "---\n".join(texts))
    declared = declare(documents)
    assert not [*problems, *declared.problems, *declared.passed_over]
    assert [one.name for one in declared.wanted] == ["faces", "digits", "flowers", "pictures"] or (
        {one.name for one in declared.wanted} == {"faces", "digits", "flowers", "pictures"}
    )
