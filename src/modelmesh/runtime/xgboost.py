"""XGBoost models, in its JSON or binary JSON (`.json`, `.ubj`), on one thread a call.

One input `input` FP32 [batch, features], in which NaN is a missing value; one output `output`, what `Booster.predict`
answers: a number a row, or one for each class.

XGBoost does not survive every broken file: a cut-off one is refused before XGBoost reads it, but a file that was made to do
harm may still end the process, or worse. Its files therefore count as files that can run code.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost

from modelmesh.runtime.contract import ModelSignature, TensorSpec
from modelmesh.runtime.errors import LoadError, RequestError
from modelmesh.runtime.model_bytes import NUMBERS, read_model
from modelmesh.runtime.ubjson import UbjsonError, check_ubjson

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor

# Calibrated on models of 3 to 21 MB (600 trees of depth 9, 3,000 of depth 3) against the growth of the process's memory
# after freed pages were given back: 0.97 and 1.56 bytes to each of a .ubj file, 0.96 and 1.23 to each of a .json file.
FILE_FACTOR = 1.6
FLOOR_BYTES = 128 * 1024

_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")
"""The time of day, and a place in XGBoost's source."""


class XgboostFormat:
    """Files written by `Booster.save_model` or the `save_model` of XGBoost's estimators."""

    suffixes = (".ubj",)
    named_suffixes = (".json", ".bst", ".model")
    runs_code = True

    def predict_size(self, path: Path) -> int:
        """From the file's size. The measured size is the same number."""
        return int(path.stat().st_size * FILE_FACTOR) + FLOOR_BYTES

    def load(self, path: Path) -> "XgboostModel":
        """Load a file, and let the model answer one row.

        Raises:
            LoadError: INVALID_ARGUMENT: the file is cut off, broken, of another kind, or of a format that XGBoost has
                given up (before 1.0). FAILED_PRECONDITION: it cannot be read.
        """
        content = bytearray(read_model(path))
        try:
            check_whole(content)
            # What is passed as bytes is recognized by its content; by path, an unknown suffix is a warning.
            booster = xgboost.Booster({"nthread": 1})
            booster.load_model(content)
            return XgboostModel(booster, self.predict_size(path))
        except MemoryError:
            raise
        except Exception as error:  # of XGBoost, of Python's decoders, of the check
            raise LoadError(f"{path}: is no XGBoost model that can be loaded here ({cause_of(error)})") from error


class XgboostModel:
    """A booster in memory."""

    def __init__(self, booster: Any, size_bytes: int) -> None:
        self._booster = booster
        self.size_bytes = size_bytes
        features = booster.num_features()
        kind = json.loads(booster.save_config())["learner"]["gradient_booster"]["name"]
        self._in_place = kind != "gblinear"
        """Trees answer from the rows as they are, in half the time."""
        outputs = self._answer(np.zeros((1, features), np.float32))
        self.signature = ModelSignature(
            (TensorSpec("input", "FP32", (-1, features), accepts=NUMBERS),),
            (TensorSpec("output", "FP32", (-1, *outputs.shape[1:])),),
            "xgboost",
        )

    def infer(
        self, inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]
    ) -> "Mapping[str, Tensor]":
        """As `Booster.predict`, over all trees.

        Raises:
            RequestError: A value is infinite.
        """
        del parameters
        try:
            return {"output": self._answer(inputs["input"])}
        except xgboost.core.XGBoostError as error:
            raise RequestError(f"the model cannot take these values ({cause_of(error)})") from error

    def close(self) -> None:
        """Drop the booster."""
        self._booster = None

    def _answer(self, rows: "Tensor") -> "Tensor":
        rows = np.ascontiguousarray(rows, np.float32)
        if self._in_place:
            return np.asarray(self._booster.inplace_predict(rows, validate_features=False))
        return np.asarray(self._booster.predict(xgboost.DMatrix(rows, nthread=1), validate_features=False))


def cause_of(error: Exception) -> str:
    """The message of XGBoost, on one line, without the place in its source and the stack."""
    return " ".join(_PLACE.sub("", str(error)).partition("Stack trace")[0].split())[:300]


def check_whole(content: bytearray) -> None:
    """Raise ValueError unless a file is whole, as far as XGBoost relies on it: it raises on broken JSON itself."""
    if not content.startswith(b"{"):
        raise ValueError("it begins with no '{'; models of XGBoost's old binary format must be saved again as .ubj")
    if bytes(content[1:2]) in {b'"', b"}", b" ", b"\n", b"\r", b"\t"}:
        if not content.rstrip().endswith(b"}"):
            raise ValueError("cut off: it does not end with '}'")
        return
    try:
        check_ubjson(content)
    except UbjsonError as error:
        raise ValueError(str(error)) from None
