"""The inputs of a fitted estimator: its tensors, derived from the data that it was fitted on, and rows to test it with.

| what it was fitted on | tensors |
|---|---|
| numbers | one, `input`, FP64 [rows, columns]; other numbers are taken, too |
| text (CountVectorizer and the like) | one, `input`, BYTES [rows] |
| categories that are text, in every column | one, `input`, BYTES [rows, columns] |
| dicts (DictVectorizer, FeatureHasher) | one, `input`, BYTES [rows], each a JSON object |
| columns of several kinds | one each, named as the columns were (else `column_0`, …), FP64 or BYTES [rows, 1] |

A column that a ColumnTransformer drops is no input in the last case.
"""

import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline

from modelmesh.runtime.contract import TensorSpec
from modelmesh.runtime.errors import LoadError, RequestError

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor

INPUT = "input"
NUMBERS = ("FP32", "FP16", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL")
"""Taken besides FP64, which scikit-learn computes with."""
TRIED_NUMBERS = (0.0, 1.0, 0.5)
"""A model that refuses one of them (the logarithm of 0, say) takes another."""
_DEPTH = 20
"""Estimators in estimators; deeper ones are not looked into."""


class Kind(enum.Enum):
    """What a row consists of."""

    NUMBERS = "numbers"
    TEXT = "text"
    RECORDS = "records"
    TEXTS = "texts"
    COLUMNS = "columns"


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `tried`: values that the model was fitted on, if they are known; `used`: whether it looks at it."""

    is_text: bool = False
    tried: tuple[str | float, ...] = ()
    used: bool = True


@dataclass(frozen=True, slots=True)
class Inputs:
    """The tensors of a model.

    Attributes:
        kind: What a row consists of.
        names: Of the columns; empty: the estimator does not say how many there are.
        columns: As many as names.
        record: For dicts: a feature that the model knows.
        as_frame: Rows are a data frame: the model looks for its columns by name. Needs pandas.
    """

    kind: Kind
    names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    record: str = ""
    as_frame: bool = False

    def specs(self) -> tuple[TensorSpec, ...]:
        """The tensors."""
        match self.kind:
            case Kind.NUMBERS:
                return (TensorSpec(INPUT, "FP64", (-1, len(self.names) or -1), NUMBERS),)
            case Kind.TEXT | Kind.RECORDS:
                return (TensorSpec(INPUT, "BYTES", (-1,)),)
            case Kind.TEXTS:
                return (TensorSpec(INPUT, "BYTES", (-1, len(self.names))),)
            case Kind.COLUMNS:
                return tuple(
                    TensorSpec(name, "BYTES", (-1, 1)) if column.is_text else TensorSpec(name, "FP64", (-1, 1), NUMBERS)
                    for name, column in zip(self.names, self.columns, strict=True)
                    if column.used
                )

    def rows(self, inputs: "Mapping[str, Tensor]") -> Any:
        """What the estimator is called with.

        Raises:
            RequestError: A text is not UTF-8, a record is no JSON object, or the columns differ in length.
        """
        match self.kind:
            case Kind.NUMBERS:
                return self._framed(inputs[INPUT])
            case Kind.TEXT:
                return _texts(INPUT, inputs[INPUT])
            case Kind.TEXTS:
                return self._framed(_texts(INPUT, inputs[INPUT]))
            case Kind.RECORDS:
                return [_record(text) for text in _texts(INPUT, inputs[INPUT])]
            case Kind.COLUMNS:
                return self._framed(self._joined(inputs))

    def _framed(self, table: "Tensor") -> Any:
        if not self.as_frame:
            return table
        import pandas as pd  # noqa: PLC0415 - few models need it

        frame = pd.DataFrame(table, columns=list(self.names))
        for name, column in zip(self.names, self.columns, strict=True):
            if not column.is_text:
                frame[name] = frame[name].astype(np.float64)
        return frame

    def _joined(self, inputs: "Mapping[str, Tensor]") -> "Tensor":
        lengths = {
            name: len(inputs[name]) for name, column in zip(self.names, self.columns, strict=True) if column.used
        }
        if len(set(lengths.values())) > 1:
            raise RequestError(f"the columns differ in length: {lengths}")
        table = np.zeros((next(iter(lengths.values()), 0), len(self.names)), dtype=object)
        for place, (name, column) in enumerate(zip(self.names, self.columns, strict=True)):
            if column.used:
                table[:, place] = (_texts(name, inputs[name]) if column.is_text else inputs[name]).ravel()
        return table

    def tried(self) -> Iterator["dict[str, Tensor]"]:
        """Inputs of one row each; a model that can be served answers one of them at least."""
        match self.kind:
            case Kind.TEXT:
                yield {INPUT: _bytes([""])}
                yield {INPUT: _bytes(["a text of several words"])}
            case Kind.RECORDS:
                yield {INPUT: _bytes([json.dumps({self.record: 1.0} if self.record else {})])}
                yield {INPUT: _bytes(["{}"])}
            case Kind.NUMBERS | Kind.TEXTS | Kind.COLUMNS:
                for number in TRIED_NUMBERS:
                    row = [
                        column.tried[0] if column.tried else "" if column.is_text else number for column in self.columns
                    ]
                    yield self._row(row or [number])

    def _row(self, row: Sequence[str | float]) -> "dict[str, Tensor]":
        if self.kind is Kind.NUMBERS:
            return {INPUT: np.array([row], dtype=np.float64)}
        if self.kind is Kind.TEXTS:
            return {INPUT: _bytes(row).reshape(1, -1)}
        return {
            name: _bytes([value]).reshape(1, 1) if column.is_text else np.array([[value]], dtype=np.float64)
            for name, column, value in zip(self.names, self.columns, row, strict=True)
            if column.used
        }


def inputs_of(estimator: Any) -> Inputs:
    """Find out what a fitted estimator takes.

    Raises:
        LoadError: A column has categories that are text and others that are not: no datatype holds both.
    """
    first = _innermost(estimator)
    if isinstance(first, CountVectorizer | HashingVectorizer):
        return Inputs(Kind.TEXT)
    if isinstance(first, DictVectorizer) or (isinstance(first, FeatureHasher) and first.input_type == "dict"):
        known = [name for name in getattr(first, "feature_names_", ()) if isinstance(name, str) and "=" not in name]
        return Inputs(Kind.RECORDS, record=next(iter(known), ""))
    count = int(getattr(estimator, "n_features_in_", getattr(first, "n_features_in_", 0)))
    given = getattr(estimator, "feature_names_in_", getattr(first, "feature_names_in_", None))
    names = tuple(f"column_{place}" for place in range(count)) if given is None else tuple(map(str, given))
    columns = tuple(_columns(estimator, count, names))
    texts = {column.is_text for column in columns if column.used}
    if texts == {True} and all(column.used for column in columns):
        return Inputs(Kind.TEXTS, names, columns)
    if True in texts:
        return Inputs(Kind.COLUMNS, names, columns)
    return Inputs(Kind.NUMBERS, names, columns)


def _within(estimator: Any) -> Any:
    """The fitted estimator that one of scikit-learn's wrappers hands its rows to; None if it is none."""
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if _is_fitted(step)]
        return steps[0] if steps else None
    if isinstance(estimator, FeatureUnion):
        return next((part for _, part in estimator.transformer_list if _is_fitted(part)), None)
    for name in ("best_estimator_", "estimator_", "regressor_"):
        if (inner := getattr(estimator, name, None)) is not None:
            return inner
    for name in ("calibrated_classifiers_", "estimators_"):
        several = getattr(estimator, name, None)
        if isinstance(several, list) and several:
            return getattr(several[0], "estimator", several[0]) if name == "calibrated_classifiers_" else several[0]
    if type(estimator).__name__ == "FrozenEstimator":
        return estimator.estimator
    return None


def _innermost(estimator: Any) -> Any:
    """The estimator that sees the rows first."""
    for _ in range(_DEPTH):
        inner = _within(estimator)
        if inner is None:
            break
        estimator = inner
    return estimator


def _columns(estimator: Any, count: int, names: Sequence[str], depth: int = 0) -> list[Column]:
    """What each of an estimator's columns holds."""
    plain = [Column()] * count
    if depth > _DEPTH:
        return plain
    if isinstance(estimator, ColumnTransformer):
        return _of_column_transformer(estimator, count, names, depth)
    if isinstance(estimator, FeatureUnion):
        parts = [_columns(part, count, names, depth + 1) for _, part in estimator.transformer_list if _is_fitted(part)]
        return [_merged(several) for several in zip(*parts, strict=True)] if parts else plain
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if _is_fitted(step)]
        found = _columns(steps[0], count, names, depth + 1) if steps else plain
        if len(steps) > 1 and hasattr(steps[0], "statistics_"):
            # An imputer hands its columns on: the values that the next step knows are better ones to try.
            after = _columns(steps[1], count, names, depth + 1)
            found = [
                replace(one, tried=other.tried) if other.tried else one for one, other in zip(found, after, strict=True)
            ]
        return found
    if len(categories := getattr(estimator, "categories_", ())) == count:
        return [_of_categories(name, list(values)) for name, values in zip(names, categories, strict=True)]
    statistics = getattr(estimator, "statistics_", None)
    if isinstance(statistics, np.ndarray) and statistics.dtype.kind == "O":
        return [_of_categories(name, [value]) for name, value in zip(names, statistics, strict=True)]
    inner = _within(estimator)
    return plain if inner is None else _columns(inner, count, names, depth + 1)


def _of_column_transformer(estimator: Any, count: int, names: Sequence[str], depth: int) -> list[Column]:
    found: list[list[Column]] = [[] for _ in range(count)]
    for _, part, chosen in estimator.transformers_:
        places = _places(chosen, count, names)
        if part == "drop":
            continue
        if isinstance(_innermost(part), CountVectorizer | HashingVectorizer):
            columns = [Column(is_text=True, tried=("a",)) for _ in places]
        elif _is_fitted(part):
            columns = _columns(part, len(places), [names[place] for place in places], depth + 1)
        else:
            columns = [Column() for _ in places]
        for place, column in zip(places, columns, strict=True):
            found[place].append(column)
    return [_merged(several) if several else Column(used=False) for several in found]


def _is_fitted(part: Any) -> bool:
    return part is not None and not isinstance(part, str)


def _merged(several: Sequence[Column]) -> Column:
    """A column that several see: text if it is for one of them, tried with values that one of them knows."""
    return next((one for one in several if one.is_text), None) or next(
        (one for one in several if one.tried), several[0]
    )


def _places(chosen: Any, count: int, names: Sequence[str]) -> list[int]:
    """The columns of a ColumnTransformer's entry: a name, a place, a slice, a mask, or several."""
    if isinstance(chosen, str):
        return [names.index(chosen)]
    if isinstance(chosen, int | np.integer):
        return [int(chosen) % count]
    if isinstance(chosen, slice):
        start, stop = (names.index(end) if isinstance(end, str) else end for end in (chosen.start, chosen.stop))
        if isinstance(chosen.stop, str):
            stop += 1  # a slice of names includes its end
        return list(range(count))[slice(start, stop, chosen.step)]
    listed = list(chosen)
    if listed and all(isinstance(one, bool | np.bool_) for one in listed):
        return [place for place, taken in enumerate(listed) if taken]
    return [names.index(one) if isinstance(one, str) else int(one) % count for one in listed]


def _of_categories(name: str, values: Sequence[Any]) -> Column:
    present = [value for value in values if value is not None and value == value]  # noqa: PLR0124 - NaN is missing
    if present and all(isinstance(value, str) for value in present):
        return Column(is_text=True, tried=(str(present[0]),))
    if all(isinstance(value, bool | np.bool_ | int | float | np.number) for value in present):
        return Column(tried=(float(present[0]),) if present else ())
    kinds = ", ".join(sorted({type(value).__name__ for value in present}))
    raise LoadError(f"column {name!r} has categories of several kinds ({kinds}), which no tensor holds")


def _texts(name: str, array: "Tensor") -> "Tensor":
    texts = np.empty(array.size, dtype=object)
    try:
        texts[:] = [item.decode() for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise RequestError(f"tensor {name!r}: a text is not UTF-8 ({error.reason} at byte {error.start})") from error
    return texts.reshape(array.shape)


def _record(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"tensor {INPUT!r}: a row is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise RequestError(f"tensor {INPUT!r}: a row is JSON of type {type(record).__name__}, not an object")
    return record


def _bytes(texts: Sequence[Any]) -> "Tensor":
    array = np.empty(len(texts), dtype=object)
    array[:] = [str(text).encode() for text in texts]
    return array
