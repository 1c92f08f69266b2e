"""What fitted estimators take, column by column, and that nothing counts as loaded before it has answered."""

import json
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, PowerTransformer, StandardScaler

from modelmesh.runtime import LoadError, ModelSource
from modelmesh.runtime.errors import RequestError
from modelmesh.runtime.files import FileRuntime

TEXTS = np.array(["good fine", "bad poor", "fine day", "poor show", "good day", "bad show"], dtype=object)
SIGNS = np.array(["+", "-", "+", "-", "+", "-"])
TABLE = np.array(
    [
        ["red", 1.0, "good fine", 3],
        ["blue", 2.0, "bad poor", 4],
        ["red", 3.0, "fine day", 5],
        ["blue", 4.0, "poor show", 6],
        ["red", 5.0, "good day", 7],
        ["blue", 6.0, "bad show", 8],
    ],
    dtype=object,
)
IRIS = load_iris(return_X_y=True)


def text(*items):
    array = np.empty(len(items), dtype=object)
    array[:] = [item.encode() for item in items]
    return array


def load(folder, estimator):
    joblib.dump(estimator, folder / "m.joblib")
    return FileRuntime(models=folder).load(ModelSource("m", "sklearn", "m.joblib"))


def specs(model):
    return [(spec.name, spec.datatype, spec.shape) for spec in model.signature.inputs]


TEXT_MODELS = {
    "grid search": GridSearchCV(
        make_pipeline(TfidfVectorizer(), LogisticRegression()), {"logisticregression__C": [1, 2]}, cv=2
    ),
    "calibrated": CalibratedClassifierCV(make_pipeline(CountVectorizer(), MultinomialNB()), cv=2),
    "voting": VotingClassifier([("a", make_pipeline(CountVectorizer(), MultinomialNB()))]),
    "union": make_pipeline(FeatureUnion([("a", CountVectorizer()), ("b", TfidfVectorizer())]), MultinomialNB()),
}


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_text_models_inside_wrappers_take_text(tmp_path, name):
    estimator = TEXT_MODELS[name].fit(TEXTS, SIGNS)
    model = load(tmp_path, estimator)
    assert specs(model) == [("input", "BYTES", (-1,))]
    answer = model.infer({"input": text("good", "bad")}, {})
    assert list(answer["label"]) == list(estimator.predict(np.array(["good", "bad"], dtype=object)))
    assert {spec.name for spec in model.signature.outputs} == set(answer)


@pytest.mark.parametrize(
    "estimator",
    [
        GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)), {"logisticregression__C": [1, 2]}, cv=2
        ),
        CalibratedClassifierCV(RandomForestClassifier(5), cv=2),
        OneVsRestClassifier(LogisticRegression(max_iter=500)),
        make_pipeline(
            ColumnTransformer([("a", StandardScaler(), [0, 2])], remainder="passthrough"),
            LogisticRegression(max_iter=500),
        ),
    ],
)
def test_models_of_numbers_inside_wrappers_take_numbers(tmp_path, estimator):
    model = load(tmp_path, estimator.fit(*IRIS))
    assert specs(model) == [("input", "FP64", (-1, 4))]
    np.testing.assert_array_equal(model.infer({"input": IRIS[0][:5]}, {})["label"], estimator.predict(IRIS[0][:5]))


MIXED = {
    "places": [
        ("categories", OneHotEncoder(), [0]),
        ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), [1]),
        ("text", CountVectorizer(), 2),
    ],
    "masks and slices": [
        (
            "categories",
            make_pipeline(SimpleImputer(strategy="most_frequent"), OrdinalEncoder()),
            [True, False, False, False],
        ),
        ("numbers", StandardScaler(), slice(1, 2)),
        ("text", make_pipeline(CountVectorizer(), FunctionTransformer()), -2),
    ],
}


@pytest.mark.parametrize("name", MIXED)
def test_columns_of_several_kinds_are_a_tensor_each(tmp_path, name):
    estimator = make_pipeline(ColumnTransformer(MIXED[name], sparse_threshold=0), LogisticRegression()).fit(
        TABLE, SIGNS
    )
    model = load(tmp_path, estimator)
    assert specs(model) == [
        ("column_0", "BYTES", (-1, 1)),
        ("column_1", "FP64", (-1, 1)),
        ("column_2", "BYTES", (-1, 1)),
    ], "the column that is dropped is none"
    inputs = {
        "column_0": text("blue", "red").reshape(-1, 1),
        "column_1": np.array([[2.0], [5.0]], dtype=np.float32),
        "column_2": text("bad poor", "good day").reshape(-1, 1),
    }
    np.testing.assert_array_equal(
        model.infer(inputs, {})["probabilities"],
        estimator.predict_proba(TABLE[[1, 4]]),
    )
    with pytest.raises(RequestError, match="differ in length"):
        model.infer({**inputs, "column_1": np.ones((3, 1))}, {})
    with pytest.raises(RequestError, match="not UTF-8"):
        model.infer({**inputs, "column_0": np.array([[b"\xff"], [b"red"]], dtype=object)}, {})


def by_names(rows):
    """Looks for its columns by name, as only models fitted on data frames can."""
    return rows[["weight"]] * 2


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("last", [StandardScaler(), FunctionTransformer(by_names)], ids=["by place", "by name"])
def test_columns_keep_the_names_that_they_were_fitted_with(tmp_path, last):
    frame = pd.DataFrame({"colour": TABLE[:, 0], "weight": TABLE[:, 1].astype(float), "unused": TABLE[:, 2]})
    estimator = make_pipeline(
        ColumnTransformer(
            [("a", OneHotEncoder(), ["colour"]), ("b", last, ["weight"])], verbose_feature_names_out=False
        ),
        LogisticRegression(),
    ).fit(frame, SIGNS)
    model = load(tmp_path, estimator)
    assert specs(model) == [("colour", "BYTES", (-1, 1)), ("weight", "FP64", (-1, 1))]
    inputs = {"colour": text("red", "blue").reshape(-1, 1), "weight": np.array([[1.0], [2.0]])}
    np.testing.assert_array_equal(model.infer(inputs, {})["probabilities"], estimator.predict_proba(frame[:2]))


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_model_that_needs_pandas_says_so(tmp_path, monkeypatch):
    frame = pd.DataFrame({"weight": [1.0, 2.0]})
    joblib.dump(FunctionTransformer(by_names).fit(frame), tmp_path / "m.joblib")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LoadError, match="pip install pandas"):
        FileRuntime(models=tmp_path).load(ModelSource("m", "sklearn", "m.joblib"))


def test_categories_only_are_one_tensor_of_text(tmp_path):
    estimator = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(TABLE[:, [0, 2]], SIGNS)
    model = load(tmp_path, estimator)
    assert specs(model) == [("input", "BYTES", (-1, 2))]
    assert list(model.infer({"input": text("red", "good day").reshape(1, 2)}, {})["label"]) == ["+"]
    with pytest.raises(ValueError, match="unknown categories"):
        model.infer({"input": text("green", "good day").reshape(1, 2)}, {})


def test_categories_that_are_numbers_stay_numbers(tmp_path):
    estimator = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(np.array([[7], [8], [7], [8]]), [0, 1, 0, 1])
    model = load(tmp_path, estimator)
    assert specs(model) == [("input", "FP64", (-1, 1))]
    assert list(model.infer({"input": np.array([[7.0], [8.0]])}, {})["label"]) == [0, 1]


def test_dicts_come_as_json(tmp_path):
    records = [{"colour": "red", "weight": 1.0}, {"colour": "blue", "weight": 2.0}] * 3
    estimator = make_pipeline(DictVectorizer(), LogisticRegression()).fit(records, SIGNS)
    model = load(tmp_path, estimator)
    assert specs(model) == [("input", "BYTES", (-1,))]
    answer = model.infer({"input": text(*(json.dumps(record) for record in records[:2]))}, {})
    np.testing.assert_array_equal(answer["probabilities"], estimator.predict_proba(records[:2]))
    for wrong in ("[1]", "{", "[" * 100_000):
        with pytest.raises(RequestError, match="JSON"):
            model.infer({"input": text(wrong)}, {})


def test_a_model_that_refuses_zeros_is_tried_with_other_numbers(tmp_path):
    model = load(tmp_path, PowerTransformer(method="box-cox").fit(np.array([[1.0], [2.0], [3.0]])))
    assert [spec.shape for spec in model.signature.outputs] == [(-1, 1)]


def test_a_model_that_fails_every_call_does_not_load(tmp_path):
    estimator = RandomForestClassifier(2).fit(*IRIS)
    del estimator.estimators_[0].tree_  # as an attribute that an older version did not have yet
    with pytest.raises(LoadError, match=r"m\.joblib: the model cannot answer.*another version of scikit-learn.*tree_"):
        load(tmp_path, estimator)


def test_an_unfitted_model_does_not_load(tmp_path):
    with pytest.raises(LoadError, match="NotFittedError"):
        load(tmp_path, make_pipeline(CountVectorizer(), MultinomialNB()))


class OfOnesOwn(BaseEstimator):
    """Says nothing of its columns and wants three."""

    def predict(self, rows):
        return rows @ np.ones(3)


def test_a_model_that_does_not_say_its_columns_loads_with_open_outputs(tmp_path):
    model = load(tmp_path, OfOnesOwn())
    assert specs(model) == [("input", "FP64", (-1, -1))]
    assert model.signature.outputs == ()
    assert list(model.infer({"input": np.ones((2, 3))}, {})["output"]) == [3.0, 3.0]


def test_categories_of_several_kinds_are_refused(tmp_path):
    encoder = OneHotEncoder().fit(np.array([["a"], ["b"]], dtype=object))
    encoder.categories_ = [np.array(["a", 1], dtype=object)]
    with pytest.raises(LoadError, match="column 'column_0' has categories of several kinds"):
        load(tmp_path, encoder)
