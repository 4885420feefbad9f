"""A model folder whose UNet is smaller still than the mini one, and the exports that tests share.

Two levels in place of four, so that tracing it takes seconds; every kind of layer is there but a downsampling
attention block. The other networks are those of `models init mini`.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from diffusers import UNet2DConditionModel
from onnxscript import ir
from safetensors.torch import save_file
from torch import Tensor

from d2r_fast.engine.models.configs import MINI
from d2r_fast.engine.models.layout import LORA, UNET
from d2r_fast.export.networks import Exportable, Precision, open_network, to_precision
from d2r_fast.export.onnx_file import write_onnx

from .initmodels import copy_models, rewrite

UNET_CONFIG = MINI.unet | {
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "sample_size": 8,
}
ADAPTED = ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.resnets.0.conv1")


def micro_models(models: Path, out: Path) -> Path:
    """A copy of the mini folder with that UNet, and a LoRA for two of its layers."""
    copy_models(models, out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel.from_config(UNET_CONFIG)
        lora = {}
        for name in ADAPTED:
            weight = unet.get_submodule(name).weight
            stem = "lora_unet_" + name.replace(".", "_")
            lora[f"{stem}.lora_down.weight"] = torch.randn(4, *weight.shape[1:]) / weight[0].numel() ** 0.5
            lora[f"{stem}.lora_up.weight"] = torch.randn(len(weight), 4, *(1,) * (weight.ndim - 2)) / 2
            lora[f"{stem}.alpha"] = torch.tensor(2.0)
    rewrite(out / UNET.weights[0], b"")
    save_file(unet.state_dict(), out / UNET.weights[0])
    rewrite(out / str(UNET.config), json.dumps(UNET_CONFIG).encode())
    rewrite(out / LORA.weights[0], b"")
    save_file(lora, out / LORA.weights[0])
    return out


class Exports:
    """Networks of one model folder and their ONNX files, each made when first asked for."""

    def __init__(self, models: Path, folder: Path) -> None:
        self.models, self._folder = models, folder
        self.network = cache(self._network)
        self._write = cache(self._written)
        self._graph = cache(self._traced)

    def _network(self, name: str, **options: int | bool) -> Exportable:
        return open_network(name, self.models, **options)

    def _traced(self, name: str, **options: int | bool) -> ir.Model:
        return self.network(name, **options).graph()

    def path(self, name: str, precision: Precision = "fp32", **options: int | bool) -> Path:
        """As export_network writes it, but that a network is traced once for all precisions."""
        return self._write(name, precision, **options)

    def _written(self, name: str, precision: Precision, **options: int | bool) -> Path:
        label = "-".join(map(str, (name, precision, *options.values())))
        path = self._folder / f"{label}.onnx"
        write_onnx(to_precision(self._graph(name, **options).clone(), precision, name=name), path)
        return path


@cache
def shared_exports(models: Path, folder: Path) -> Exports:
    """Those of the micro folder, for every module of a test run."""
    folder.mkdir()
    return Exports(micro_models(models, folder / "models"), folder)


def run_onnx(path: Path, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    arrays = {name: value.numpy() for name, value in inputs.items()}
    return {
        name: torch.from_numpy(value) for name, value in zip(names, session.run(names, arrays), strict=True)
    }


def relative_l2(given: Tensor, wanted: Tensor) -> float:
    assert given.shape == wanted.shape
    assert given.dtype == wanted.dtype == torch.float32
    return float(
        np.linalg.norm((given.double() - wanted.double()).numpy()) / np.linalg.norm(wanted.double().numpy())
    )


def emulate_half(path: Path, out: Path) -> Path:
    """A half precision graph as one in float32 that rounds every result as the original would.

    onnxruntime has few such kernels on the CPU, and none for bfloat16's convolutions.
    """
    model = onnx.load(path)
    half = {onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16}
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    nodes = []
    for node in model.graph.node:
        rounded = {name: kinds[name] for name in node.output if kinds.get(name) in half}
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i in half:
                attribute.i = onnx.TensorProto.FLOAT
        for index, name in enumerate(node.output):
            node.output[index] = f"{name}_exact" if name in rounded else name
        nodes.append(node)
        for name, kind in rounded.items():
            nodes.append(onnx.helper.make_node("Cast", [f"{name}_exact"], [f"{name}_half"], to=kind))
            nodes.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    weights = [
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(i).astype(np.float32), i.name)
        if i.data_type in half
        else i
        for i in model.graph.initializer
    ]
    graph = onnx.helper.make_graph(nodes, "emulated", model.graph.input, model.graph.output, weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=10), out)
    return out
