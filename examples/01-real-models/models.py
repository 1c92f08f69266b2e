"""The demo's model zoo: real models of several kinds, trained on the datasets that scikit-learn brings along.

    python models.py FOLDER

writes the files and `manifest.json`. The same seed gives the same models. Other programs use `build`, `request_for` and
`compare`:

    manifest = build(Path("zoo"))
    for model in manifest.models:
        request = request_for(model, row=0)               # an Open Inference Protocol request, as bytes
        problem = compare(model, 0, answer_bytes)         # None, or what differs from the local prediction
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn import datasets
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from modelmesh import tensors
from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.runtime.onnx import OnnxFormat
from modelmesh.runtime.sklearn import SklearnFormat

SEED = 20
ROWS = 8
"""Test rows kept per model."""

DATASETS = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "digits": datasets.load_digits,
    "breast_cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes,
    "linnerud": datasets.load_linnerud,
}
# The demo's cache is about memory, so its models should differ in kind more than in size: big datasets get
# few trees and small ones many, and linear models get random Fourier features of their inputs.
_TREES = {"iris": 60, "wine": 60, "digits": 10, "breast_cancer": 40, "diabetes": 10, "linnerud": 60}
_FOURIER_WEIGHTS = 60_000
_FOURIER_MOST = 3_000
_SCALED = {"logistic-regression", "ridge", "lasso", "naive-bayes", "svm", "knn", "mlp"}
_LINEAR = {"logistic-regression", "ridge", "lasso", "naive-bayes"}

_CLASSIFIERS: dict[str, Callable[[int], Any]] = {
    "logistic-regression": lambda _: LogisticRegression(max_iter=60),
    "decision-tree": lambda _: DecisionTreeClassifier(random_state=SEED),
    "random-forest": lambda trees: RandomForestClassifier(trees, random_state=SEED),
    "extra-trees": lambda trees: ExtraTreesClassifier(trees // 2, random_state=SEED),
    "gradient-boosting": lambda _: GradientBoostingClassifier(n_estimators=40, random_state=SEED),
    "svm": lambda _: SVC(random_state=SEED),
    "knn": lambda _: KNeighborsClassifier(),
    "naive-bayes": lambda _: GaussianNB(),
    "mlp": lambda _: MLPClassifier((160, 96), max_iter=30, random_state=SEED),
}
_REGRESSORS: dict[str, Callable[[int], Any]] = {
    "ridge": lambda _: Ridge(),
    "lasso": lambda _: Lasso(alpha=0.1),
    "random-forest": lambda trees: RandomForestRegressor(trees, random_state=SEED),
    "extra-trees": lambda trees: ExtraTreesRegressor(trees, random_state=SEED),
    "hist-gradient-boosting": lambda _: HistGradientBoostingRegressor(max_iter=120, random_state=SEED),
}


@dataclass(frozen=True)
class Recipe:
    """One model to train. `onnx` exports it instead of writing a joblib file."""

    kind: str
    dataset: str
    onnx: bool = False

    @property
    def id(self) -> str:
        """The model id: dataset, kind, and `onnx` where that is the format."""
        return f"{self.dataset.replace('_', '-')}-{self.kind}{'-onnx' if self.onnx else ''}"


RECIPES = (
    *(Recipe(kind, "iris") for kind in ("logistic-regression", "naive-bayes", "mlp")),
    *(Recipe(kind, "wine") for kind in ("logistic-regression", "random-forest", "naive-bayes", "mlp")),
    *(Recipe(kind, "digits") for kind in ("random-forest", "extra-trees", "svm", "knn", "mlp", "logistic-regression")),
    *(
        Recipe(kind, "breast_cancer")
        for kind in ("random-forest", "gradient-boosting", "mlp", "knn", "naive-bayes", "svm")
    ),
    *(Recipe(kind, "diabetes") for kind in ("ridge", "lasso", "random-forest")),
    *(Recipe(kind, "linnerud") for kind in ("ridge", "lasso")),
    *(Recipe(kind, "iris", onnx=True) for kind in ("random-forest", "mlp")),
    *(Recipe(kind, "wine", onnx=True) for kind in ("random-forest", "mlp")),
    *(Recipe(kind, "digits", onnx=True) for kind in ("decision-tree", "mlp")),
    *(Recipe(kind, "breast_cancer", onnx=True) for kind in ("random-forest", "mlp", "gradient-boosting")),
)


@dataclass(frozen=True)
class ZooModel:
    """One entry of the manifest.

    Attributes:
        id: Model id to register it under.
        type: `sklearn` or `onnx`.
        path: Of the file, relative to the folder.
        kind, dataset: What it is.
        input_name, input_shape, datatype: Its one input; -1: any number of rows.
        rows: Test rows, not seen in training.
        outputs: What the file, loaded locally, answers for these rows: one list per output name.
        tolerance: How far floats may differ; labels must be equal.
        size_bytes: What the built-in runtime predicts for it.
    """

    id: str
    type: str
    path: str
    kind: str
    dataset: str
    input_name: str
    input_shape: list[int]
    datatype: str
    rows: list[list[float]]
    outputs: dict[str, list[Any]]
    tolerance: float
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """All models of a folder, in the order of `RECIPES`."""

    folder: Path
    models: tuple[ZooModel, ...]


def build(folder: Path, progress: Callable[[str], None] = lambda _: None) -> Manifest:
    """Train and write all models, and the manifest. A folder whose manifest is complete is left as it is.

    Args:
        folder: Made if missing.
        progress: Called with a line of text after each model.
    """
    manifest = folder / "manifest.json"
    if manifest.exists():
        known = read(folder)
        if [model.id for model in known.models] == [recipe.id for recipe in RECIPES]:
            progress(f"{len(known.models)} models are in {folder} already")
            return known
    folder.mkdir(parents=True, exist_ok=True)
    models = []
    for number, recipe in enumerate(RECIPES, start=1):
        begin = time.monotonic()
        models.append(_make(recipe, folder))
        progress(
            f"{number:2}/{len(RECIPES)}  {recipe.id:36} {models[-1].size_bytes / 1024:8.1f} KiB"
            f"  {time.monotonic() - begin:5.2f} s"
        )
    unfinished = folder / "manifest.json.new"
    unfinished.write_text(json.dumps([asdict(model) for model in models], indent=1))
    unfinished.replace(manifest)
    return Manifest(folder, tuple(models))


def read(folder: Path) -> Manifest:
    """The manifest of a folder that was built."""
    entries = json.loads((folder / "manifest.json").read_text())
    return Manifest(folder, tuple(ZooModel(**entry) for entry in entries))


# Small models lose more to threads than they gain, and sums in another order are other models.
@threadpool_limits.wrap(limits=1)  # type: ignore[untyped-decorator]
def _make(recipe: Recipe, folder: Path) -> ZooModel:
    features, target = DATASETS[recipe.dataset](return_X_y=True)
    train, test, target, _ = train_test_split(features, target, test_size=ROWS, random_state=SEED)
    regression = recipe.dataset in {"diabetes", "linnerud"}
    estimator = (_REGRESSORS if regression else _CLASSIFIERS)[recipe.kind](_TREES[recipe.dataset])
    steps = [StandardScaler()] if recipe.kind in _SCALED else []
    if recipe.kind in _LINEAR:
        wide = min(_FOURIER_MOST, _FOURIER_WEIGHTS // features.shape[1])
        steps.append(RBFSampler(gamma=0.1, n_components=wide, random_state=SEED))
    estimator = make_pipeline(*steps, estimator) if steps else estimator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations are enough for a demo
        estimator.fit(train, target)
    if recipe.onnx:
        rows = test.astype(np.float32)
        path = folder / f"{recipe.id}.onnx"
        path.write_bytes(_to_onnx(estimator, rows, classifier=not regression))
    else:
        rows = test.astype(np.float64)
        path = folder / f"{recipe.id}.joblib"
        joblib.dump(estimator, path)
    return ZooModel(
        id=recipe.id,
        type="onnx" if recipe.onnx else "sklearn",
        path=path.name,
        kind=recipe.kind,
        dataset=recipe.dataset,
        input_name="input",
        input_shape=[-1, rows.shape[1]],
        datatype="FP32" if recipe.onnx else "FP64",
        rows=rows.tolist(),
        outputs={name: array.tolist() for name, array in _local(path, rows).items()},
        tolerance=1e-5 if recipe.onnx else 1e-9,
        size_bytes=(OnnxFormat() if recipe.onnx else SklearnFormat()).predict_size(path),
    )


def _to_onnx(estimator: Any, rows: Any, *, classifier: bool) -> bytes:
    from skl2onnx import to_onnx  # noqa: PLC0415 - takes a second to import, and only ONNX needs it
    from skl2onnx.common.data_types import FloatTensorType  # noqa: PLC0415 - as above

    model = to_onnx(
        estimator,
        initial_types=[("input", FloatTensorType([None, rows.shape[1]]))],
        options={"zipmap": False} if classifier and hasattr(estimator, "predict_proba") else None,
        target_opset=17,
    )
    return bytes(model.SerializeToString())


def _local(path: Path, rows: Any) -> "dict[str, Any]":
    """What a file answers when it is loaded here, without any server."""
    if path.suffix == ".onnx":
        import onnxruntime  # noqa: PLC0415 - only ONNX needs it

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"input": rows}), strict=True))
    estimator = joblib.load(path)
    if not hasattr(estimator, "classes_"):
        return {"output": estimator.predict(rows)}
    outputs = {"label": estimator.predict(rows)}
    if hasattr(estimator, "predict_proba"):
        outputs["probabilities"] = estimator.predict_proba(rows)
    return outputs


# --- asking and checking ----------------------------------------------------------------------


def request_for(model: ZooModel, row: int, *, request_id: str = "") -> bytes:
    """A `ModelInferRequest` for one test row, raw."""
    dtype = np.float32 if model.datatype == "FP32" else np.float64
    array = np.array([model.rows[row]], dtype=dtype)
    request = oip.ModelInferRequest(model_name=model.id, id=request_id, raw_input_contents=[array.tobytes()])
    request.inputs.add(name=model.input_name, datatype=model.datatype, shape=array.shape)
    return request.SerializeToString()


def compare(model: ZooModel, row: int, answer: bytes) -> str | None:
    """What differs between a serialised `ModelInferResponse` and the local prediction; None if nothing does."""
    response = oip.ModelInferResponse.FromString(answer)
    found = {}
    for index, output in enumerate(response.outputs):
        if response.raw_output_contents:
            raw = response.raw_output_contents[index]
            found[output.name] = tensors.decode_raw(output.name, output.datatype, output.shape, raw)
        else:
            found[output.name] = tensors.decode_typed(output.name, output.datatype, output.shape, output.contents)
    for name, expected in model.outputs.items():
        if name not in found:
            return f"{model.id} row {row}: the answer has no output {name!r}, but {sorted(found)}"
        wanted, got = np.asarray(expected[row]), np.asarray(found[name])
        if got.size != wanted.size:
            return f"{model.id} row {row}: {name} has {got.size} values, expected {wanted.size}"
        got = got.reshape(wanted.shape)
        if wanted.dtype.kind == "f":
            same = bool(np.allclose(got, wanted, rtol=model.tolerance, atol=model.tolerance))
        else:
            same = bool((got == wanted).all())
        if not same:
            return f"{model.id} row {row}: {name} is {got.tolist()}, expected {wanted.tolist()}"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the zoo and say what was made."""
    parser = argparse.ArgumentParser(description="Train the demo's models.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    begin = time.monotonic()
    manifest = build(folder, print)
    size_bytes = sum(model.size_bytes for model in manifest.models)
    kinds = len({model.kind for model in manifest.models})
    print(
        f"{len(manifest.models)} models of {kinds} kinds, {size_bytes / 2**20:.1f} MiB,"
        f" in {time.monotonic() - begin:.1f} s: {folder}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
