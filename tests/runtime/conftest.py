import contextlib
import pickle
import shutil

import joblib
import lightgbm
import numpy as np
import pytest
import xgboost
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes, load_iris
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modelmesh.runtime import serve
from modelmesh.runtime.files import FileRuntime

MIB = 1024 * 1024


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder of small real models and broken files, made once."""
    folder = tmp_path_factory.mktemp("models")
    iris, diabetes = load_iris(return_X_y=True), load_diabetes(return_X_y=True)
    classifier = LogisticRegression(max_iter=500).fit(*iris)
    joblib.dump(classifier, folder / "iris.joblib")
    joblib.dump(classifier, folder / "iris-packed.joblib", compress=3)
    (folder / "iris.pickle").write_bytes(pickle.dumps(classifier))
    joblib.dump(LinearRegression().fit(*diabetes), folder / "diabetes.joblib")
    joblib.dump(StandardScaler().fit(iris[0]), folder / "scaler.joblib")
    texts = make_pipeline(CountVectorizer(), MultinomialNB())
    joblib.dump(texts.fit(["good fine", "bad poor", "fine", "poor"], ["+", "-", "+", "-"]), folder / "texts.joblib")
    plain = to_onnx(classifier, iris[0][:1].astype(np.float32), options={id(classifier): {"zipmap": False}})
    (folder / "iris.onnx").write_bytes(plain.SerializeToString())
    (folder / "iris-zipmap.onnx").write_bytes(to_onnx(classifier, iris[0][:1].astype(np.float32)).SerializeToString())
    trees = xgboost.train({"objective": "multi:softprob", "num_class": 3}, xgboost.DMatrix(*iris), 5)
    trees.save_model(folder / "iris.ubj")
    trees.save_model(folder / "iris.json")
    xgboost.train({"booster": "gblinear"}, xgboost.DMatrix(*diabetes), 5).save_model(folder / "linear.ubj")
    leaves = lightgbm.train({"objective": "multiclass", "num_class": 3, "verbose": -1}, lightgbm.Dataset(*iris), 5)
    leaves.save_model(folder / "iris.lgb")
    (folder / "cut.joblib").write_bytes((folder / "iris.joblib").read_bytes()[:300])
    (folder / "cut.onnx").write_bytes((folder / "iris.onnx").read_bytes()[:300])
    (folder / "cut.ubj").write_bytes((folder / "iris.ubj").read_bytes()[:1537])
    (folder / "cut.lgb").write_bytes((folder / "iris.lgb").read_bytes()[:9325])
    (folder / "noise.joblib").write_bytes(bytes(range(256)))
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "empty.joblib").write_bytes(b"")
    joblib.dump({"not": "a model"}, folder / "dict.joblib")
    (folder / "readme.txt").write_text("no model")
    (folder / "one").mkdir()
    shutil.copy(folder / "iris.joblib", folder / "one" / "model.joblib")
    (folder / "two").mkdir()
    shutil.copy(folder / "iris.joblib", folder / "two" / "a.joblib")
    shutil.copy(folder / "iris.onnx", folder / "two" / "b.onnx")
    return folder


@pytest.fixture
async def served():
    """Serves runtimes as `serve` does. Their servers stop with the test, also if it fails."""
    async with contextlib.AsyncExitStack() as servers:

        async def start(*args, **kwargs):
            server = await serve(*args, **kwargs)
            servers.push_async_callback(server.stop, 0)
            return server

        yield start


@pytest.fixture
async def file_server(trained, served):
    """The built-in runtime over those models, on a free port."""
    return await served(FileRuntime(models=trained, capacity_bytes=64 * MIB), listen="127.0.0.1:0")
