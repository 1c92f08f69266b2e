"""Images of ours for the process kubelet, and a model to serve."""

import subprocess
import sys
from pathlib import Path

from modelmesh.testing.kubelet import Image, Images

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.prefix) / "bin" / "modelmesh"
SHARED = tuple(dict.fromkeys(Path(name).resolve() for name in (ROOT, sys.prefix, sys.base_prefix)))


def images(folder: Path) -> Images:
    """The images that manifests name, from the same scripts that make the real ones."""
    instance = folder / "instance" / "opt" / "kserve" / "mmesh"
    (instance / "run").mkdir(parents=True)
    (instance / "venv").symlink_to(Path(sys.prefix))
    for script in ("start.sh", "stop.sh"):
        (instance / script).write_bytes((ROOT / "deploy" / "image" / script).read_bytes())
        (instance / script).chmod(0o755)
    adapter = folder / "adapter" / "opt" / "app"
    subprocess.run([ROOT / "deploy" / "image" / "commands.sh", adapter, PROGRAM], check=True)
    environment = {"MM_ANCHOR_FILE": "/opt/kserve/mmesh/run/model-mesh.anchor", "MM_INSTALL_PATH": "/opt/kserve/mmesh"}
    return Images(
        {
            "modelmesh:latest": Image(
                command=("/opt/kserve/mmesh/start.sh",),
                environment=environment,
                folder="/opt/kserve/mmesh",
                layers=(folder / "instance",),
                shared=SHARED,
            ),
            "modelmesh-runtime:latest": Image(
                entrypoint=(str(PROGRAM), "runtime"),
                command=("--listen", "0.0.0.0:8085", "--models", "/models"),
                environment={"PVC_MOUNTS_DIR": "/pvc_mounts"},
                shared=SHARED,
            ),
            "modelmesh-runtime-adapter:latest": Image(layers=(folder / "adapter",), shared=SHARED),
        }
    )


def write_model(path: Path) -> None:
    """Write an ONNX model whose output `y` is its input `x`, of two numbers in each row, and one more."""
    import onnx
    from onnx import TensorProto, helper

    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        "adds",
        [helper.make_tensor_value_info("x", kind, ["n", 2])],
        [helper.make_tensor_value_info("y", kind, ["n", 2])],
        [helper.make_tensor("one", kind, [1], [1.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
