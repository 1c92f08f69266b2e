"""Trains the models of one format, with what the library itself answers beside each.

    python train.py FOLDER sklearn|xgboost|lightgbm|onnx

writes `<format>/<name>.<suffix>`, and `<name>.npz` with `x` (rows) and `y` (answers). It is run with the Python of whoever
serves the format, so that files and server have one version of the library. The seed of a model is in its name.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

ROWS = 8
VERSIONS = ("network-1b", "boosted-1b")
"""What the demo puts in the place of others, later."""

POINTS, LABELS = load_digits(return_X_y=True)


def forest(seed: int) -> tuple[Any, Any]:
    """Trees, some 10 MB of them."""
    from sklearn.ensemble import ExtraTreesClassifier

    model = ExtraTreesClassifier(120, random_state=seed).fit(POINTS, LABELS)
    return model, model.predict(POINTS[:ROWS])


def neighbours(seed: int) -> tuple[Any, Any]:
    """The digits many times over, each time a little different: one large array."""
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(seed)
    points = np.concatenate([POINTS + rng.normal(scale=0.1, size=POINTS.shape) for _ in range(10)])
    model = KNeighborsClassifier(3, algorithm="brute").fit(points, np.tile(LABELS, 10))
    return model, model.predict(POINTS[:ROWS])


def boosted(seed: int) -> tuple[Any, Any]:
    """Boosted trees of XGBoost."""
    import xgboost

    options = {"objective": "reg:squarederror", "seed": seed, "subsample": 0.7, "max_depth": 8, "nthread": 1}
    model = xgboost.train(options, xgboost.DMatrix(POINTS, label=LABELS), 300)
    return model, model.predict(xgboost.DMatrix(POINTS[:ROWS]))


def light(seed: int) -> tuple[Any, Any]:
    """Boosted trees of LightGBM."""
    import lightgbm

    options = {
        "verbose": -1,
        "num_leaves": 127,
        "seed": seed,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "num_threads": 1,
    }
    model = lightgbm.train(options, lightgbm.Dataset(POINTS, label=LABELS), 300)
    return model, model.predict(POINTS[:ROWS])


def network(seed: int) -> tuple[Any, Any]:
    """A neural network as ONNX."""
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((2500, 1000), max_iter=2, random_state=seed).fit(POINTS, LABELS)
    exported = to_onnx(model, POINTS[:1].astype(np.float32), options={"zipmap": False})
    return exported, model.predict(POINTS[:ROWS])


def _dump(model: Any, path: Path) -> None:
    import joblib

    joblib.dump(model, path)


KINDS: dict[str, tuple[str, str, Callable[[int], tuple[Any, Any]], Callable[[Any, Path], object]]] = {
    "forest": ("sklearn", "joblib", forest, _dump),
    "neighbours": ("sklearn", "joblib", neighbours, _dump),
    "boosted": ("xgboost", "json", boosted, lambda model, path: model.save_model(path)),
    "light": ("lightgbm", "bst", light, lambda model, path: model.save_model(path)),
    "network": ("onnx", "onnx", network, lambda model, path: path.write_bytes(model.SerializeToString())),
}
"""Kind to format, suffix, what makes a model and its answers, and what writes it."""


def train(folder: Path, model_format: str, names: list[str]) -> None:
    """Train those models whose kind is of the format."""
    warnings_off()
    (folder / model_format).mkdir(parents=True, exist_ok=True)
    for name in names:
        kind, _, number = name.partition("-")
        form, suffix, make, write = KINDS[kind]
        if form != model_format:
            continue
        seed = sum(map(ord, number))
        model, answers = make(seed)
        path = folder / form / f"{name}.{suffix}"
        write(model, path)
        np.savez(folder / f"{name}.npz", x=POINTS[:ROWS], y=np.asarray(answers))
        print(f"{path.relative_to(folder)}: {path.stat().st_size / 2**20:.1f} MiB", flush=True)


def warnings_off() -> None:
    """Networks are trained for a few rounds only, and say so."""
    import warnings

    warnings.simplefilter("ignore")


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
