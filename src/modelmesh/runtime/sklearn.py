"""scikit-learn models from joblib or pickle files. Loading one runs the code that is in it.

Inputs: see `sklearn_inputs`.
Outputs: `label` and, where the model has them, `probabilities` [batch, classes]; `output` of regressors and
transformers.
"""

import io
import logging
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import sklearn
from sklearn.base import BaseEstimator, is_classifier, is_clusterer, is_outlier_detector

from modelmesh.runtime.contract import ModelSignature, TensorSpec
from modelmesh.runtime.errors import LoadError
from modelmesh.runtime.sklearn_inputs import Kind, inputs_of
from modelmesh.tensors import datatype_of
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor

_log = logging.getLogger("modelmesh.runtime")

# Models fitted on data frames know their columns by name, and get them in that order.
warnings.filterwarnings("ignore", message="X does not have valid feature names", module="sklearn")

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
    runs_code = True

    def predict_size(self, path: Path) -> int:
        """From the file's size, and whether it is compressed."""
        with path.open("rb") as file:
            head = file.read(8)
            file_bytes = file.seek(0, io.SEEK_END)
        factor = COMPRESSED_FACTOR if head.startswith(_COMPRESSED) else FILE_FACTOR
        return int(file_bytes * factor) + FILE_EXTRA_BYTES

    def load(self, path: Path) -> "SklearnModel":
        """Load a file, and let the model answer one row: so it is known to work here, and what its outputs are.

        Raises:
            LoadError: INVALID_ARGUMENT: the file is broken, holds no estimator, or one that cannot answer.
                FAILED_PRECONDITION: it cannot be read, or needs a module that is not installed.
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
        try:
            return SklearnModel(model)
        except LoadError as error:
            raise LoadError(f"{path}: {error}", status=error.status) from error


class SklearnModel:
    """An estimator in memory.

    Raises:
        LoadError: It takes what no tensor can hold, or cannot answer the rows that it was made for.
    """

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        self.size_bytes = measured_bytes(estimator)
        self._inputs = inputs_of(estimator)
        # Asked of an estimator, each costs microseconds; what it was fitted to be does not change.
        self._predicts = hasattr(estimator, "predict")
        self._has_labels = self._predicts and any(
            asked(estimator) for asked in (is_classifier, is_clusterer, is_outlier_detector)
        )
        self._has_probabilities = hasattr(estimator, "predict_proba")
        outputs = self._tried()
        self.signature = ModelSignature(self._inputs.specs(), outputs, "sklearn")

    def infer(
        self, inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]
    ) -> "Mapping[str, Tensor]":
        """Predict, or transform. Raises ValueError where scikit-learn does: NaN, an unknown category."""
        del parameters
        return self._answer(self._inputs.rows(inputs))

    def close(self) -> None:
        """Drop the estimator."""
        self._estimator = None

    def _answer(self, rows: Any) -> "dict[str, Tensor]":
        model = self._estimator
        if not self._predicts:
            return {"output": _dense(model.transform(rows))}
        predicted = np.asarray(model.predict(rows))
        if not self._has_labels:
            return {"output": predicted}
        outputs: dict[str, Tensor] = {"label": predicted}
        if self._has_probabilities:
            probabilities = model.predict_proba(rows)
            if isinstance(probabilities, list):  # one array per output
                outputs.update({f"probabilities_{index}": each for index, each in enumerate(probabilities)})
            else:
                outputs["probabilities"] = np.asarray(probabilities)
        return outputs

    def _tried(self) -> tuple[TensorSpec, ...]:
        """The outputs, learned by asking.

        A model without a number of columns may refuse the one that it is given: its outputs are then not described.
        """
        named = getattr(self._estimator, "feature_names_in_", None) is not None
        cause: Exception | None = None
        for as_frame, inputs in product((False, True) if named else (False,), self._inputs.tried()):
            self._inputs = replace(self._inputs, as_frame=as_frame)
            try:
                outputs = self._answer(self._inputs.rows(inputs))
                return tuple(
                    TensorSpec(name, datatype_of(each), (-1, *each.shape[1:])) for name, each in outputs.items()
                )
            except Exception as error:  # noqa: BLE001 - a model may raise anything
                cause = error
        if isinstance(cause, ModuleNotFoundError) and cause.name == "pandas":
            raise LoadError(
                "the model looks for its columns by name, which needs pandas: pip install pandas",
                status=Status.FAILED_PRECONDITION,
            ) from cause
        why = " ".join(f"{type(cause).__name__}: {cause}".split())
        if self._inputs.kind is Kind.NUMBERS and not self._inputs.names:
            _log.info("a %s was not tried, it does not say how many columns it takes (%s)", type(self._estimator), why)
            return ()
        raise LoadError(
            f"the model cannot answer a row of the kind that it was fitted on; it may be of another version of"
            f" scikit-learn than {sklearn.__version__} ({why})"
        ) from cause


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
