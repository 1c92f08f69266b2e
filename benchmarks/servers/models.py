"""Models trained with the server's own Python: `models.py FOLDER`.

Those that are measured are large enough that their size is more than noise; `small.joblib` is called, and costs next to nothing.
"""

import sys
from pathlib import Path

import joblib
import lightgbm
import numpy as np
import xgboost
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier


def main(folder: Path) -> None:
    """One for each format of MLServer."""
    rng = np.random.default_rng(7)
    points = rng.normal(size=(49_152, 64))  # 24 MB
    joblib.dump(KNeighborsClassifier(1, algorithm="brute").fit(points, np.arange(len(points)) % 7), folder / "k.joblib")
    rows, target = rng.normal(size=(10_000, 10)), rng.normal(size=10_000)
    boosted = xgboost.train({"max_depth": 10, "nthread": 2}, xgboost.DMatrix(rows, target), 150)
    boosted.save_model(folder / "b.ubj")
    leaves = lightgbm.train({"num_leaves": 255, "verbose": -1, "num_threads": 2}, lightgbm.Dataset(rows, target), 200)
    leaves.save_model(folder / "l.bst")
    joblib.dump(LogisticRegression().fit(rows[:, :4], target > 0), folder / "small.joblib")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
