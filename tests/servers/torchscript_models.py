"""TorchScript in the built-in runtime with a real torch: run by the Python of TorchServe, prints what it saw as JSON.

`python torchscript_models.py FOLDER`
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from modelmesh.runtime import LoadError, ModelSource, RequestError
from modelmesh.runtime.files import FileRuntime


class Scale(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))

    def forward(self, x: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
        return x @ self.weight + shift


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + y, x - y


class Words(torch.nn.Module):
    def forward(self, words: list[str]) -> int:
        return len(words)


def refused(work) -> str:
    try:
        work()
    except (LoadError, RequestError) as error:
        return f"{error.status.name}: {error}"
    return "nothing"


def main(folder: Path) -> dict[str, object]:
    for name, module in (("scale.ts", Scale()), ("pair.pt", Pair()), ("words.ts", Words())):
        torch.jit.script(module).save(str(folder / name))
    torch.save(Scale().state_dict(), folder / "weights.ts")
    (folder / "cut.ts").write_bytes((folder / "scale.ts").read_bytes()[:500])
    runtime = FileRuntime(models=folder)
    scale = runtime.load(ModelSource("a", "", "scale.ts"))
    pair = runtime.load(ModelSource("b", "torchscript", "pair.pt"))
    rows = np.ones((2, 3), np.float32)
    rows.setflags(write=False)
    two = {"y": np.full(2, 5, np.int64), "x": np.full(2, 7, np.int64)}
    return {
        "scale": runtime.infer(scale, {"x": rows}, {})["output"].tolist(),
        "pair": {name: one.tolist() for name, one in runtime.infer(pair, two, {}).items()},
        "numbered": runtime.infer(pair, {"I__1": two["y"], "I__0": two["x"]}, {})["output_1"].tolist(),
        "size": runtime.size(scale) - 512 * 1024,
        "predicted": runtime.predict_size(ModelSource("a", "", "scale.ts")) >= runtime.size(scale),
        "shape": refused(lambda: runtime.infer(scale, {"x": rows[:, :2]}, {})),
        "bytes": refused(lambda: runtime.infer(scale, {"x": np.array([b"a"], object)}, {})),
        "words": refused(lambda: runtime.load(ModelSource("c", "", "words.ts"))),
        "weights": refused(lambda: runtime.load(ModelSource("d", "", "weights.ts"))),
        "cut": refused(lambda: runtime.load(ModelSource("e", "", "cut.ts"))),
        "untrusted": refused(lambda: FileRuntime().load(ModelSource("f", "", str(folder / "scale.ts")))),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))))
