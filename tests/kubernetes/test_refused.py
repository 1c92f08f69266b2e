"""The reader of manifests refuses the same resources as the API server (real_admission), with the same sentences."""

import pytest
from refused import MODELS, OTHERS, RUNTIMES, TAKEN, Manifest

from modelmesh.declared import Document, declare
from modelmesh.kubernetes.admission.__main__ import FOLDER, manifests

REFUSED = RUNTIMES | MODELS


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_sentence(name: str) -> None:
    manifest, sentence = REFUSED[name]
    declared = declare([Document("m.yaml:1", manifest)])
    assert any(sentence in str(problem) for problem in declared.problems), declared.problems
    assert declared.wanted == ()
    assert declared.runtimes == ()


@pytest.mark.parametrize("manifest", (TAKEN | OTHERS).values(), ids=TAKEN | OTHERS)
def test_taken(manifest: Manifest) -> None:
    assert declare([Document("m.yaml:1", manifest)]).problems == ()


@pytest.mark.parametrize("path", manifests())
def test_the_manifests_are_those_that_the_code_makes(path: str) -> None:
    assert (FOLDER / path).read_text() == manifests()[path], "run: make docs"
