"""ONNX Runtime: one-node models of its attention operators and of Softmax, inputs bound once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from ruvector.bench.peers import Peer
from ruvector.bench.problems import Array, Attention, Cache, Call, Gating, Softmax, Unsupported

ELEMENTS = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16}
CONTRIB = "com.microsoft"


def _merged(x: Array) -> Array:
    """(1, heads, length, width) as (1, length, heads * width), which the contributed operators want."""
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(1, x.shape[2], -1)


class Model:
    """A session with its inputs bound: of one node or, with `after`, of a second that takes the first one's first output."""

    def __init__(
        self,
        node: str,
        inputs: Mapping[str, Array],
        outputs: int,
        threads: int,
        *,
        opset: int,
        domain: str = "",
        constants: Mapping[str, Array] | None = None,
        after: str | None = None,
        elements: Sequence[int] = (),
        **attributes: Any,
    ) -> None:
        names = [name for name in inputs if not name.startswith("-")]
        constants = constants or {}
        results = [f"out{i}" for i in range(outputs)]
        element = {name: helper.np_dtype_to_tensor_dtype(inputs[name].dtype) for name in names}
        first = ["between", *results[1:]] if after else results
        taken = ["" if n.startswith("-") else n for n in (*inputs, *constants)]
        nodes = [helper.make_node(node, taken, first, domain=domain, **attributes)]
        if after:
            nodes.append(helper.make_node(after, first[:1], results[:1], axis=-1))
        graph = helper.make_graph(
            nodes,
            node,
            [helper.make_tensor_value_info(n, element[n], inputs[n].shape) for n in names],
            [
                helper.make_tensor_value_info(n, kind, None)
                for n, kind in zip(results, elements or [element[names[0]]] * outputs, strict=True)
            ],
            [numpy_helper.from_array(x, name) for name, x in constants.items()],
        )
        opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        try:
            self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class
            raise Unsupported(str(error).splitlines()[0][:150]) from error
        self.binding = self.session.io_binding()
        self.values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(inputs[name]) for name in names}
        for name in names:
            self.binding.bind_ortvalue_input(name, self.values[name])
        for result in results:
            self.binding.bind_output(result)

    def run(self) -> None:
        """What is timed."""
        self.session.run_with_iobinding(self.binding)

    def read(self, _: None = None) -> Array:
        """The first output of the last run."""
        return self.binding.copy_outputs_to_cpu()[0]

    def call(self, read: Any = None) -> Call:
        """The bound session as a call; its last step undoes `_merged`."""
        return Call(partial(self.session.run_with_iobinding, self.binding), read or self.read)


class Adapter(Peer):
    """ONNX Runtime: the contributed MultiHeadAttention and GroupQueryAttention, and Attention of opset 23."""

    @property
    def version(self) -> str:
        return onnxruntime.__version__

    def attention(self, problem: Attention) -> dict[str, Call]:
        if problem.dtype.name not in ELEMENTS:
            raise Unsupported(f"no {problem.dtype.name} kernel on the CPU")
        lead = (1, 1) if problem.query.ndim == 2 else problem.query.shape[:2]
        query, key, value = (
            x.reshape(*(lead if x.ndim == 2 else x.shape[:2]), *x.shape[-2:])
            for x in (problem.query, problem.key, problem.value)
        )
        split = {"query": query, "key": key, "value": value}
        merged = {name: _merged(x) for name, x in split.items()}
        models: dict[str, Model] = {}
        errors = []

        def add(label: str, *arguments: Any, **options: Any) -> None:
            try:
                models[label] = Model(*arguments, self.threads, **options)
            except Unsupported as error:
                errors.append(f"{label}: {error}")

        causal = int(problem.causal)
        add("onnxruntime Attention", "Attention", split, 1, opset=23, is_causal=causal)
        heads = {"domain": CONTRIB, "num_heads": problem.heads}
        if not problem.grouped:
            add("onnxruntime MHA", "MultiHeadAttention", merged, 1, opset=17, unidirectional=causal, **heads)
        if problem.grouped and problem.causal:
            lengths = {"seqlens": np.array([problem.keys - 1], np.int32), "total": np.array([problem.keys], np.int32)}
            inputs = {**merged, "-past_key": query, "-past_value": query, **lengths}
            add("onnxruntime GQA", "GroupQueryAttention", inputs, 3, opset=17, kv_num_heads=problem.key_heads, **heads)
        if not models:
            raise Unsupported("; ".join(errors))
        return {label: model.call(self._reader(model, problem)) for label, model in models.items()}

    @staticmethod
    def _reader(model: Model, problem: Attention) -> Any:
        def read(_: None) -> Array:
            out = model.read()
            if out.ndim == 4:
                return out
            return out.reshape(1, problem.length, problem.heads, problem.dim).transpose(0, 2, 1, 3)

        return read

    def cache(self, problem: Cache) -> dict[str, Call]:
        """GroupQueryAttention with past and present keys in one buffer, which it fills in place."""
        if problem.dtype.name not in ("float32", "float16"):
            raise Unsupported(f"no {problem.dtype.name} kernel on the CPU")
        room = [np.concatenate([x, x[:, :, : problem.ROOM]], axis=2) for x in (problem.key, problem.value)]
        inputs = {
            "query": _merged(problem.query),
            "key": _merged(problem.new_key),
            "value": _merged(problem.new_value),
            "past_key": room[0],
            "past_value": room[1],
            "seqlens": np.array([problem.keys], np.int32),
            "total": np.array([problem.keys + 1], np.int32),
        }
        heads = {"num_heads": problem.heads, "kv_num_heads": problem.key_heads}
        model = Model("GroupQueryAttention", inputs, 3, self.threads, opset=17, domain=CONTRIB, **heads)
        for result, past in (("out1", "past_key"), ("out2", "past_value")):
            model.binding.bind_ortvalue_output(result, model.values[past])
        length = problem.keys

        def start() -> None:
            nonlocal length
            length = problem.keys

        def step() -> None:
            nonlocal length
            model.values["seqlens"].update_inplace(np.array([length], np.int32))
            length += 1
            model.values["total"].update_inplace(np.array([length], np.int32))
            model.run()

        return {"onnxruntime GQA": Call(step, self._reader(model, problem), before=start, limit=problem.ROOM)}

    def softmax(self, problem: Softmax) -> dict[str, Call]:
        return {"onnxruntime": Model("Softmax", {"x": problem.x}, 1, self.threads, opset=13, axis=-1).call()}

    def gating(self, problem: Gating) -> dict[str, Call]:
        model = Model(
            "TopK",
            {"x": problem.logits},
            2,
            self.threads,
            opset=18,
            constants={"k": np.array([problem.TOP], np.int64)},
            after="Softmax",
            elements=(TensorProto.FLOAT, TensorProto.INT64),
            axis=-1,
        )

        def read(_: None) -> Array:
            weights, indices = model.binding.copy_outputs_to_cpu()
            return problem.both((indices, weights))

        return {"onnxruntime": model.call(read)}
