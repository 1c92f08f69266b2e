"""LightGBM models in its text format, on one thread a call.

One input `input` FP64 [batch, features], in which NaN is a missing value; one output `output`, what `Booster.predict`
answers: a number a row, or one for each class.

LightGBM does not survive every broken file: one that was cut off ends the process, or is read beyond its end. Such a file is
refused before LightGBM sees it, but a malicious file cannot be distinguished from a good one. Its files therefore count
as files that can run code.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np

from modelmesh.runtime.contract import ModelSignature, TensorSpec
from modelmesh.runtime.errors import LoadError, RequestError
from modelmesh.runtime.model_bytes import NUMBERS, read_model

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor

# Its messages would be written to the standard output.
lightgbm.register_logger(logging.getLogger("modelmesh.runtime"))

# Calibrated on files of 3 and 13 MB (3,000 trees of 8 leaves, 600 of 255) against the growth of the process's memory after
# freed pages were given back: 1.19 and 0.73 bytes to each of the file.
FILE_FACTOR = 1.2
FLOOR_BYTES = 128 * 1024


class LightgbmFormat:
    """Files written by `Booster.save_model`."""

    suffixes = (".lgb", ".lightgbm")
    named_suffixes = (".txt", ".bst", ".model")
    runs_code = True

    def predict_size(self, path: Path) -> int:
        """From the file's size. The measured size is the same number."""
        return int(path.stat().st_size * FILE_FACTOR) + FLOOR_BYTES

    def load(self, path: Path) -> "LightgbmModel":
        """Load a file, and let the model answer one row.

        Raises:
            LoadError: INVALID_ARGUMENT: the file is cut off, broken, or of another kind. FAILED_PRECONDITION: it cannot
                be read.
        """
        content = read_model(path)
        try:
            check_whole(content)
            booster = lightgbm.Booster(model_str=content.decode())
            return LightgbmModel(booster, self.predict_size(path))
        except MemoryError:
            raise
        except Exception as error:  # of LightGBM, of Python's decoders, of the check
            cause = " ".join(str(error).split())[:300]
            raise LoadError(f"{path}: is no LightGBM model that can be loaded here ({cause})") from error


class LightgbmModel:
    """A booster in memory."""

    def __init__(self, booster: Any, size_bytes: int) -> None:
        self._booster = booster
        self.size_bytes = size_bytes
        features = booster.num_feature()
        outputs = self._answer(np.zeros((1, features)))
        self.signature = ModelSignature(
            (TensorSpec("input", "FP64", (-1, features), accepts=NUMBERS),),
            (TensorSpec("output", "FP64", (-1, *outputs.shape[1:])),),
            "lightgbm",
        )

    def infer(
        self, inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]
    ) -> "Mapping[str, Tensor]":
        """As `Booster.predict`: the trees of the best iteration, if the file knows one.

        Raises:
            RequestError: LightGBM refuses the values.
        """
        del parameters
        try:
            return {"output": self._answer(inputs["input"])}
        except lightgbm.basic.LightGBMError as error:
            raise RequestError(f"the model cannot take these values ({' '.join(str(error).split())})") from error

    def close(self) -> None:
        """Drop the booster."""
        self._booster = None

    def _answer(self, rows: "Tensor") -> "Tensor":
        return np.asarray(self._booster.predict(np.ascontiguousarray(rows, np.float64), num_threads=1))


def check_whole(content: bytes) -> None:
    """Raise ValueError unless every tree is where the head of the file says, with the end behind the last.

    The head has the length of each tree in bytes (`tree_sizes`), and LightGBM reads the trees from there unseen. A line of its
    parameters that is cut off ends it as well.
    """
    if not content.startswith(b"tree\n"):
        raise ValueError("it does not begin with the line 'tree'")
    head, _, _ = content.partition(b"\n\n")
    sizes = next((line for line in head.split(b"\n") if line.startswith(b"tree_sizes=")), None)
    if sizes is None:
        raise ValueError("cut off, or of a LightGBM before 2.2: it does not say how long its trees are")
    position = content.find(b"Tree=0\n")
    for number, size in enumerate(sizes.removeprefix(b"tree_sizes=").split()):
        if not size.isdigit() or not content.startswith(b"Tree=%d\n" % number, max(position, 0)):
            raise ValueError(f"cut off or changed: tree {number} is not where it is said to be")
        position += int(size)
    if not content.startswith(b"end of trees", max(position, 0)):
        raise ValueError("cut off or changed: the trees do not end where they are said to end")
    parameters = content.find(b"\nparameters:", position)
    if parameters >= 0 and content.find(b"\nend of parameters", parameters) < 0:
        raise ValueError("cut off: its parameters do not end")
