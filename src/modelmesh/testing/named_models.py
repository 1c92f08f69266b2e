"""Which models each vmodel has named, and when: whoever answers a call for a vmodel must be one of them."""

from modelmesh.values.ids import ModelId, Revision, VModelId
from modelmesh.values.records import VModelRecord


class NamedModels:
    """The history of vmodel records in one store."""

    def __init__(self) -> None:
        self._history: dict[VModelId, list[tuple[Revision, tuple[ModelId, ...]]]] = {}

    def put(self, vmodel: VModelId, record: VModelRecord, revision: Revision) -> None:
        """From this revision on its calls go to these models."""
        answering = tuple(dict.fromkeys((record.active, *(model for model, _ in record.split))))
        self._note(vmodel, revision, answering)

    def delete(self, vmodel: VModelId, revision: Revision) -> None:
        """From this revision on it names nothing."""
        self._note(vmodel, revision, ())

    def clear(self) -> None:
        """The store was emptied; revisions begin again."""
        self._history.clear()

    def since(self, vmodel: VModelId, known: Revision) -> tuple[ModelId, ...]:
        """The models that it named as of a revision, and those that it has named since."""
        models: dict[ModelId, None] = {}
        for revision, answering in reversed(self._history.get(vmodel, [])):
            models.update(dict.fromkeys(answering))
            if revision <= known:
                break
        return tuple(models)

    def _note(self, vmodel: VModelId, revision: Revision, answering: tuple[ModelId, ...]) -> None:
        history = self._history.setdefault(vmodel, [])
        if not history or history[-1][0] < revision:
            history.append((revision, answering))
