"""A model server in Python: word lists that say what a text is about."""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from classifier_pb2 import DESCRIPTOR, ClassifyReply, ClassifyRequest

from modelmesh.runtime import LoadError, ModelRuntime, ModelService, ModelSource, RequestError, run

Words = dict[str, frozenset[str]]
"""A model: for each label, the words that speak for it."""


class WordRuntime(ModelRuntime[Words]):
    """What the mesh needs: load, size. What clients need: the service."""

    name = "words"
    capacity_bytes = 64 * 2**20
    default_size_bytes = 64 * 2**10
    load_timeout_ms = 10_000

    def load(self, source: ModelSource) -> Words:
        """Runs in a thread; what it returns is passed to every other method."""
        try:
            lists = json.loads(Path(source.path).read_text(encoding="utf-8"))
            return {label: frozenset(words) for label, words in lists.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise LoadError(f"{source.path} is no word list: {error}") from error

    def size(self, model: Words) -> int:
        """About 100 bytes for each word and its place in the set."""
        return 4096 + sum(100 + len(word) for words in model.values() for word in words)

    def services(self) -> Sequence[ModelService[Words]]:
        """Which gRPC service clients call, and what answers it."""
        return [ModelService(DESCRIPTOR.services_by_name["Classifier"], {"Classify": self.classify})]

    def classify(self, model: Words, request: ClassifyRequest) -> ClassifyReply:
        """The label that most words speak for; ties go to the one first in the alphabet."""
        tokens = request.text.lower().split()
        if not tokens:
            raise RequestError("the text is empty")
        hits = {label: sum(token in words for token in tokens) for label, words in sorted(model.items())}
        label = max(hits, key=hits.__getitem__)
        return ClassifyReply(label=label, score=hits[label] / len(tokens))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", default="127.0.0.1:8085", help="port, host:port or unix:///path")
    logging.basicConfig(level=logging.WARNING)
    run(WordRuntime(), listen=parser.parse_args().listen)
