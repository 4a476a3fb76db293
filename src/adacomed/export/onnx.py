"""A run's fusion model as an ONNX file: run with onnxruntime and numpy alone, no torch."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from adacomed.errors import InputError
from adacomed.export.feeds import KEY, Feeds, description
from adacomed.export.fusion import Fusion
from adacomed.export.parity import Array, check, drawn_patients, expected, measure
from adacomed.export.torch_export import program_of
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs

OPSET = 18
PRESENT, VECTOR, TABLE = "present", "vector.", "table."  # names of the graph's inputs
SINGLE_ONLY = ("Erf", "Selu")  # what onnxruntime has no double-precision kernel for


def write_onnx(run: Run, out: Path, patients: Inputs | None = None) -> dict[str, float]:
    """Write the run's fusion model as an ONNX file.

    Its inputs are `present`, `vector.<modality>` and `table.<table>`, as `feeds.Feeds` says, for
    any number of patients; its metadata holds, under "adacomed", the JSON of `feeds.description`.

    Args:
        patients: on whom it is compared with the run; None: drawn ones (`drawn_patients`).
    Returns:
        Output → the largest difference to the run, over subsets of the modalities and patients.
    Raises:
        InputError: the packages are missing, a model that reads raw inputs, or one that the file
            would miss by more than `parity.MOST`.
    """
    onnx = _packages()
    fusion = Fusion(run)
    graph = _graph(run, fusion)
    _cast_around(onnx, graph)
    answer = Session(graph.SerializeToString())
    found = drawn_patients(run) if patients is None else patients
    parity = measure(run, fusion, found, answer)
    check(parity, str(out))
    told = json.dumps(description(fusion, run, parity), ensure_ascii=False)
    onnx.helper.set_model_props(graph, {KEY: told})
    graph.doc_string = f"{run.meta['title']}. For research use only; not a medical device."
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        onnx.checker.check_model(graph)
        onnx.save(graph, str(partial))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return parity


class Session:
    """An ONNX model under onnxruntime, on one CPU thread.

    Args:
        model: a file's path, or its bytes.
    """

    def __init__(self, model: Path | bytes) -> None:
        _packages()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        source = model if isinstance(model, bytes) else str(model)
        only = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(source, options, providers=only)

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name."""
        given: dict[str, Any] = {PRESENT: feeds.present}
        given |= {VECTOR + m: x for m, x in feeds.vectors.items()}
        given |= {TABLE + m: x for m, x in feeds.tables.items()}
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, given), strict=True))

    def description(self) -> dict[str, Any]:
        """What the file says of itself (`feeds.description`)."""
        told: dict[str, Any] = json.loads(self.session.get_modelmeta().custom_metadata_map[KEY])
        return told


def _packages() -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"an ONNX export needs {error.name}: pip install 'adacomed[onnx]'"
        ) from None
    return onnx


def _graph(run: Run, fusion: Fusion) -> Any:
    inputs = [PRESENT, *(VECTOR + m for m in fusion.vectors), *(TABLE + m for m in fusion.tables)]
    outputs = list(expected(run, drawn_patients(run, 2)))
    program = program_of(run, fusion)
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            verbose=False,
        )
    assert made is not None
    return made.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of itself: packages that it misses, its deprecations."""
    loud = logging.getLogger("torch.onnx")
    before = loud.level
    loud.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        loud.setLevel(before)


def _cast_around(onnx: Any, model: Any) -> None:
    """Let the few operators without a double kernel compute in single precision, and only those."""
    known = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    double, single = onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT
    nodes = []
    for node in model.graph.node:
        if node.op_type not in SINGLE_ONLY or known.get(node.output[0], double) != double:
            nodes.append(node)
            continue
        [x], [y] = list(node.input), list(node.output)
        node.input[0], node.output[0] = f"{y}.single.in", f"{y}.single.out"
        nodes.append(onnx.helper.make_node("Cast", [x], [node.input[0]], to=single))
        nodes.append(node)
        nodes.append(onnx.helper.make_node("Cast", [node.output[0]], [y], to=double))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
