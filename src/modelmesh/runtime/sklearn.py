"""scikit-learn models from joblib or pickle files. Loading one runs the code that is in it.

Inputs: `input` [batch, features], FP64 (FP32 and integers are taken too), or [batch] BYTES for text models.
Outputs: `label` and, where the model has them, `probabilities` [batch, classes]; `output` of regressors and
transformers.
"""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from sklearn.base import BaseEstimator, is_classifier, is_clusterer, is_outlier_detector
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.pipeline import Pipeline

from modelmesh.runtime.contract import ModelSignature, TensorSpec
from modelmesh.runtime.errors import LoadError
from modelmesh.runtime.tensors import datatype_of
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor

INPUT = "input"
NUMBERS = ("FP32", "FP16", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL")
"""Taken besides FP64, which scikit-learn computes with."""

# Calibrated on 19 models of 0.4 kB to 43 MB against the growth of the process's memory: arrays count as they are,
# and what is pickled besides them (trees of small objects, vocabularies) took 2 to 10 times its pickled size.
OBJECT_FACTOR = 10
FLOOR_BYTES = 16 * 1024
# An uncompressed file holds the same bytes. 1.1 covers forests of hundreds of trees; large vocabularies take more
# than predicted, once: the measured size is remembered. Compressed files shrank to a sixth at most, but for arrays
# that repeat themselves.
FILE_FACTOR = 1.1
COMPRESSED_FACTOR = 6
FILE_EXTRA_BYTES = 64 * 1024
_COMPRESSED = (b"\x78", b"\x1f\x8b", b"BZ", b"\xfd7zXZ", b"]\x00", b"\x04\x22\x4d\x18")


class SklearnFormat:
    """Files written by `joblib.dump` or `pickle.dump`."""

    suffixes = (".joblib", ".pkl", ".pickle")

    def predict_size(self, path: Path) -> int:
        """From the file's size, and whether it is compressed."""
        with path.open("rb") as file:
            head = file.read(8)
            file_bytes = file.seek(0, io.SEEK_END)
        factor = COMPRESSED_FACTOR if head.startswith(_COMPRESSED) else FILE_FACTOR
        return int(file_bytes * factor) + FILE_EXTRA_BYTES

    def load(self, path: Path) -> "SklearnModel":
        """Load a file, and try the model on one row of zeros to learn its outputs.

        Raises:
            LoadError: INVALID_ARGUMENT: the file is broken or holds no estimator. FAILED_PRECONDITION: it cannot be
                read, or needs a module that is not installed.
        """
        try:
            model = joblib.load(path)
        except ModuleNotFoundError as error:
            raise LoadError(
                f"{path}: needs the Python module {error.name!r}, which is not installed here",
                status=Status.FAILED_PRECONDITION,
            ) from error
        except PermissionError as error:
            raise LoadError(f"{path}: may not be read", status=Status.FAILED_PRECONDITION) from error
        except MemoryError:
            raise
        except Exception as error:  # a broken pickle may raise anything
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise LoadError(f"{path}: is no scikit-learn model that can be loaded here ({cause})") from error
        if not isinstance(model, BaseEstimator) or not (hasattr(model, "predict") or hasattr(model, "transform")):
            raise LoadError(f"{path}: holds a {type(model).__name__}, not a model that can predict or transform")
        return SklearnModel(model)


class SklearnModel:
    """An estimator in memory."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        self._takes_text = _takes_text(estimator)
        self.size_bytes = measured_bytes(estimator)
        self.signature = ModelSignature((self._input_spec(),), self._output_specs(), "sklearn")

    def infer(
        self, inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]
    ) -> "Mapping[str, Tensor]":
        """Predict, or transform. Raises ValueError where scikit-learn does: NaN, wrong number of features."""
        del parameters
        rows = inputs[INPUT]
        if self._takes_text:
            rows = np.array([item.decode() for item in rows.ravel()], dtype=object)
        return self._answer(rows)

    def close(self) -> None:
        """Drop the estimator."""
        self._estimator = None

    def _answer(self, rows: "Tensor") -> "dict[str, Tensor]":
        model = self._estimator
        if not hasattr(model, "predict"):
            return {"output": _dense(model.transform(rows))}
        predicted = np.asarray(model.predict(rows))
        if not (is_classifier(model) or is_clusterer(model) or is_outlier_detector(model)):
            return {"output": predicted}
        outputs: dict[str, Tensor] = {"label": predicted}
        if hasattr(model, "predict_proba"):
            probabilities = model.predict_proba(rows)
            if isinstance(probabilities, list):  # one array per output
                outputs.update({f"probabilities_{index}": each for index, each in enumerate(probabilities)})
            else:
                outputs["probabilities"] = np.asarray(probabilities)
        return outputs

    def _input_spec(self) -> TensorSpec:
        if self._takes_text:
            return TensorSpec(INPUT, "BYTES", (-1,))
        return TensorSpec(INPUT, "FP64", (-1, getattr(self._estimator, "n_features_in_", -1)), NUMBERS)

    def _output_specs(self) -> tuple[TensorSpec, ...]:
        """Learned by asking; a model that cannot answer zeros leaves its outputs open."""
        features = self._input_spec().shape[-1]
        if not self._takes_text and features < 1:
            return ()
        row: Tensor = np.array([""], dtype=object) if self._takes_text else np.zeros((1, features))
        try:
            outputs = self._answer(row)
            return tuple(TensorSpec(name, datatype_of(each), (-1, *each.shape[1:])) for name, each in outputs.items())
        except Exception:  # noqa: BLE001 - no more than a guess was tried
            return ()


def _takes_text(estimator: Any) -> bool:
    first = estimator
    while isinstance(first, Pipeline):
        first = first.steps[0][1]
    return isinstance(first, CountVectorizer | HashingVectorizer)


def _dense(array: Any) -> "Tensor":
    return np.asarray(array.toarray() if hasattr(array, "toarray") else array)


class _Counter(io.RawIOBase):
    """Counts what is written."""

    def __init__(self) -> None:
        self.count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        length = memoryview(data).nbytes
        self.count += length
        return length


def measured_bytes(estimator: object) -> int:
    """Memory of an estimator: its arrays, and ten times the pickled size of all else.

    Nothing is copied or kept: the pickle is counted and thrown away. The same for the same model, on any machine.
    """
    buffers: list[pickle.PickleBuffer] = []
    counter = _Counter()
    pickle.Pickler(counter, protocol=5, buffer_callback=buffers.append).dump(estimator)
    array_bytes = sum(buffer.raw().nbytes for buffer in buffers)
    return array_bytes + OBJECT_FACTOR * counter.count + FLOOR_BYTES
