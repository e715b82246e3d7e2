"""The parts of an exported network that stand around it: padding, cropping, probabilities, facts.

The network itself is exported for sides that are multiples of its stride. What makes any size of
these is written here in ONNX's own text form, so that it stays dynamic: rows and columns are
gathered by index, mirrored at the borders exactly as :func:`fewmask.models.blocks.pad_to_multiple`
does.

Source: the ONNX operators, https://onnx.ai/onnx/operators; Deepness' metadata,
https://qgis-plugin-deepness.readthedocs.io.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

IMAGE, PROBS, CARD = "image", "probs", "fewmask"
"""Name of the input, (N, 3, H, W) float32 in [0, 1]; of the output, (N, classes, H, W) float32,
summing to 1; and of the metadata that hold the card, as JSON."""


def with_any_size(core: Any, stride: int, num_classes: int) -> Any:
    """A model for images of any size around one for sides that are multiples of ``stride``.

    Args:
        core: ``ModelProto`` of one input, (N, 3, H, W) in [0, 1], and one output of logits of the
            same height and width.
        stride: Of the network, in px. Sides of an image are at least this long.
        num_classes: Number of logits, background included.

    Returns:
        ``ModelProto`` from ``image`` to ``probs``.
    """
    import onnx

    before = onnx.parser.parse_graph(_before(stride))
    after = onnx.parser.parse_graph(_after(num_classes))
    (given,), (logits,) = core.graph.input, core.graph.output
    names = {given.name: "padded", logits.name: "logits"}
    for node in core.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    graph = onnx.helper.make_graph(
        [*before.node, *core.graph.node, *after.node], "fewmask", before.input, after.output,
        initializer=core.graph.initializer,
    )  # fmt: skip
    model = onnx.helper.make_model(
        graph, opset_imports=core.opset_import, ir_version=core.ir_version,
        functions=core.functions, producer_name="fewmask",
    )  # fmt: skip
    onnx.checker.check_model(model)
    return model


def with_fixed_size(model: Any, height: int, width: int) -> Any:
    """The model for one image of one size at a time, as programs want it that cut tiles."""
    for value in (*model.graph.input, *model.graph.output):
        sides = (value.type.tensor_type.shape.dim[i] for i in (0, 2, 3))
        for side, length in zip(sides, (1, height, width), strict=True):
            side.ClearField("dim_param")
            side.dim_value = length
    return model


def add_facts(model: Any, facts: Mapping[str, str]) -> None:
    """Store texts in the model's metadata."""
    for name, text in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text


def deepness_facts(class_names: Sequence[str], tile_px: int, ground_cm: float) -> dict[str, str]:
    """What QGIS' plugin Deepness reads from a model.

    Args:
        class_names: Of the ids 0, 1, ...
        tile_px: Side of the tiles.
        ground_cm: Side of a pixel on the ground; 0: not known, and left to the user.
    """
    facts: dict[str, Any] = {
        "model_type": "Segmentor",
        "class_names": dict(enumerate(class_names)),
        "tiles_size": tile_px,
        "tiles_overlap": 25,
        "seg_thresh": 0.5,
    }
    facts |= {"resolution": ground_cm} if ground_cm else {}
    return {name: json.dumps(value) for name, value in facts.items()}


def _before(stride: int) -> str:
    return f"""
        before (float[N, 3, H, W] {IMAGE}) => (float[N, 3, P, Q] padded) {{
            stride = Constant <value_ints: ints = [{stride}]> ()
            rest = Constant <value_ints: ints = [{stride - 1}]> ()
            one = Constant <value_ints: ints = [1]> ()
            two = Constant <value_ints: ints = [2]> ()
            begin = Constant <value_int: int = 0> ()
            step = Constant <value_int: int = 1> ()
            {_index("height", 2)}
            {_index("width", 3)}
            rows = Gather <axis: int = 2> ({IMAGE}, height_index)
            padded = Gather <axis: int = 3> (rows, width_index)
        }}"""


def _index(side: str, axis: int) -> str:
    """The pixel of the image that each row or column of the padded image shows."""
    return f"""
            {side} = Shape <start: int = {axis}, end: int = {axis + 1}> ({IMAGE})
            {side}_more = Add ({side}, rest)
            {side}_strides = Div ({side}_more, stride)
            {side}_padded = Mul ({side}_strides, stride)
            {side}_added = Sub ({side}_padded, {side})
            {side}_first = Div ({side}_added, two)
            {side}_end = Squeeze ({side}_padded)
            {side}_range = Range (begin, {side}_end, step)
            {side}_from = Sub ({side}_range, {side}_first)
            {side}_mirrored = Abs ({side}_from)
            {side}_last = Sub ({side}, one)
            {side}_left = Sub ({side}_last, {side}_mirrored)
            {side}_distance = Abs ({side}_left)
            {side}_index = Sub ({side}_last, {side}_distance)"""


def _after(num_classes: int) -> str:
    return f"""
        after (float[N, {num_classes}, P, Q] logits) => (float[N, {num_classes}, H, W] {PROBS}) {{
            height_stop = Add (height_first, height)
            width_stop = Add (width_first, width)
            corner = Concat <axis: int = 0> (height_first, width_first)
            opposite = Concat <axis: int = 0> (height_stop, width_stop)
            sides = Constant <value_ints: ints = [2, 3]> ()
            cropped = Slice (logits, corner, opposite, sides)
            {PROBS} = Softmax <axis: int = 1> (cropped)
        }}"""
