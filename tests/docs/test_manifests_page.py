"""The manifests of the how-to page are read as they stand, and give the ids that it prints."""

import re
from pathlib import Path

from modelmesh.declared import declare, read_documents

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "serve-manifests.md").read_text()


def test_the_manifests_of_the_page_declare_the_models_that_it_shows() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    documents, problems = read_documents("models.yaml", text)
    declared = declare(documents)
    assert not [*problems, *declared.problems, *declared.passed_over]
    printed = dict(re.findall(r"^\+ (\S+)  (\S+)  mt:", PAGE, flags=re.MULTILINE))
    ids = {one.name: one.model_id for one in declared.wanted}
    assert ids == printed
