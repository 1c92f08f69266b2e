"""Models of the libraries that MLServer serves, with what the libraries themselves answer.

Run with the server's own Python, so that files and server have one version: `python make_models.py FOLDER`. Writes for each
model a file and `<name>.npz` with `x` (inputs) and `y` (answers).
"""

import sys
from pathlib import Path

import joblib
import lightgbm
import numpy as np
import xgboost
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

WIDTH = 64
LARGE_BYTES = 24 * 1024 * 1024
LARGE = 8


def main(folder: Path) -> None:
    x, y = load_iris(return_X_y=True)
    rows = x[::10]

    def expect(name: str, inputs: np.ndarray, answers: np.ndarray) -> None:
        np.savez(folder / f"{name}.npz", x=inputs, y=answers)

    logistic = LogisticRegression(max_iter=500).fit(x, y)
    joblib.dump(logistic, folder / "iris.joblib")
    expect("iris", rows, logistic.predict(rows))
    (folder / "one-file").mkdir()
    joblib.dump(logistic, folder / "one-file" / "classifier.pkl")
    expect("one-file", rows, logistic.predict(rows))

    booster = xgboost.train({"objective": "reg:squarederror"}, xgboost.DMatrix(x, label=y), 10)
    booster.save_model(folder / "flowers.json")
    expect("flowers", rows, booster.predict(xgboost.DMatrix(rows)))

    light = lightgbm.train({"verbose": -1, "num_leaves": 7}, lightgbm.Dataset(x, label=y), 10)
    light.save_model(folder / "petals.bst")
    expect("petals", rows, light.predict(rows))

    (folder / "native").mkdir()
    joblib.dump(logistic, folder / "native" / "weights.joblib")
    (folder / "native" / "model-settings.json").write_text(
        '{"name": "other", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "./weights.joblib"}}'
    )
    expect("native", rows, logistic.predict(rows))
    (folder / "broken.joblib").write_bytes(b"this is no model")
    (folder / "schema.json").write_text(
        '{"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 4]}],'
        ' "outputs": [{"name": "predict", "datatype": "INT64", "shape": [-1]}]}'
    )
    # One array each, so that what a model takes is known: neighbours searched by looking at all of them.
    for number in range(LARGE):
        points = np.random.default_rng(number).normal(size=(LARGE_BYTES // 8 // WIDTH, WIDTH))
        labels = np.arange(len(points)) % 7
        neighbours = KNeighborsClassifier(1, algorithm="brute").fit(points, labels)
        joblib.dump(neighbours, folder / f"large-{number}.joblib")
        expect(f"large-{number}", points[:3], labels[:3])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
