"""Read and cut ONNX graphs as Protocol Buffers, without the package onnx.

The runtime computes all nodes of a graph, so nodes that the wanted outputs don't need are cut away first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lsr.io.protobuf import read_fields, varint

_GRAPH = 7  # field number in ModelProto
_NODE, _CONSTANT, _OUTPUT = 1, 5, 12  # in GraphProto
_INPUTS, _OUTPUTS = 1, 2  # in NodeProto
_CONSTANT_NAME = 8  # in TensorProto
_NAME = 1  # in ValueInfoProto
_Fields = list[tuple[int, int | bytes]]


def output_names(content: bytes) -> list[str]:
    """Names of a graph's outputs.

    Raises:
        ValueError: The content is not a graph.
    """
    _, fields = _split(content)
    return [_name(value) for number, value in fields if number == _OUTPUT]


def with_outputs(content: bytes, outputs: Sequence[str]) -> bytes:
    """The model with other outputs, reduced to the nodes and constants that these need.

    Args:
        content: A model whose nodes are in order, as ONNX requires, and have no subgraphs.
        outputs: Names of results of nodes.

    Raises:
        ValueError: The content is not a graph.
    """
    rest, fields = _split(content)
    needed = set(outputs)
    kept: set[int] = set()
    for i, (number, value) in reversed(list(enumerate(fields))):
        if number == _NODE and not needed.isdisjoint(_texts(value, _OUTPUTS)):
            needed.update(_texts(value, _INPUTS))
            kept.add(i)
    for i, (number, value) in enumerate(fields):
        if number == _CONSTANT:
            needs = not needed.isdisjoint(_texts(value, _CONSTANT_NAME))
        elif number == _OUTPUT:
            needs = _name(value) in outputs
        else:
            needs = number != _NODE
        if needs:
            kept.add(i)
    there = {_name(value) for number, value in fields if number == _OUTPUT}
    added = [(_OUTPUT, _message([(_NAME, name.encode())])) for name in outputs if name not in there]
    graph = _message([*(fields[i] for i in sorted(kept)), *added])
    return _message([*rest, (_GRAPH, graph)])


def _split(content: bytes) -> tuple[_Fields, _Fields]:
    """Fields of a model besides its graph, and the graph's fields."""
    fields = read_fields(content)
    graphs = [value for number, value in fields if number == _GRAPH]
    if len(graphs) != 1 or not isinstance(graphs[0], bytes):
        raise ValueError("has no graph")
    return [field for field in fields if field[0] != _GRAPH], read_fields(graphs[0])


def _texts(message: int | bytes, wanted: int) -> list[str]:
    if not isinstance(message, bytes):
        raise ValueError("has a number where a message belongs")
    found = [value for number, value in read_fields(message) if number == wanted and isinstance(value, bytes)]
    return [value.decode() for value in found]


def _name(output: int | bytes) -> str:
    names = _texts(output, _NAME)
    if not names:
        raise ValueError("has an output without a name")
    return names[0]


def _message(fields: Iterable[tuple[int, int | bytes]]) -> bytes:
    return b"".join(_encoded(fields))


def _encoded(fields: Iterable[tuple[int, int | bytes]]) -> Iterator[bytes]:
    for number, value in fields:
        if isinstance(value, int):
            yield varint(number << 3) + varint(value)
        else:
            yield varint(number << 3 | 2) + varint(len(value))
            yield value
