"""OpenVINO: its ScaledDotProductAttention and Softmax, compiled for latency, inputs bound once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
from openvino import opset13

from ruvector.bench.peers import Peer
from ruvector.bench.problems import Array, Attention, Call, Softmax, Unsupported

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class Adapter(Peer):
    """OpenVINO. Inputs and outputs are float32; 16-bit types are the precision that it computes in."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.core = openvino.Core()

    @property
    def version(self) -> str:
        return str(openvino.__version__).split("-")[0]

    def _compiled(self, inputs: list[Array], build: Callable[..., Any], dtype: str) -> Call:
        if dtype not in HINTS:
            raise Unsupported(f"computes {dtype} in float32")
        parameters = [opset13.parameter(list(x.shape), openvino.Type.f32) for x in inputs]
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[dtype],
        }
        model = self.core.compile_model(openvino.Model([build(*parameters)], parameters, "row"), "CPU", settings)
        computes = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if computes != HINTS[dtype]:
            raise Unsupported(f"computes {dtype} in {computes} on this CPU")
        request = model.create_infer_request()
        for i, x in enumerate(inputs):
            request.set_input_tensor(i, openvino.Tensor(x, shared_memory=True))

        def read(
            _: Any, inputs: list[Array] = inputs
        ) -> Array:  # which must live as long as the request that reads them
            return np.array(request.get_output_tensor(0).data)

        return Call(request.infer, read, "plain" if dtype == "float32" else "half")

    def attention(self, problem: Attention) -> dict[str, Call]:
        if problem.grouped:
            raise Unsupported("wants as many key heads as query heads")
        arrays = (problem.query, problem.key, problem.value)
        inputs = [np.ascontiguousarray(x, np.float32).reshape((1,) * (4 - x.ndim) + x.shape) for x in arrays]

        def build(q: Any, k: Any, v: Any) -> Any:
            return opset13.scaled_dot_product_attention(q, k, v, causal=problem.causal)

        return {"openvino": self._compiled(inputs, build, problem.dtype.name)}

    def softmax(self, problem: Softmax) -> dict[str, Call]:
        return {"openvino": self._compiled([problem.x], lambda x: opset13.softmax(x, 1), problem.dtype.name)}
