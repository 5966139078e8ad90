"""Reads what W&B writes offline: a LevelDB log of protocol buffers."""

import json
import struct

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768
_HEADER = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _LAST = 1, 4


def records(path):
    """Yields (kind, record) of each record of a `.wandb` file."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + _HEADER.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER.size:
            at += left
            continue
        _, length, kind = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        whole += data[at : at + length]
        at += length
        if kind in (_FULL, _LAST):
            record = wandb_internal_pb2.Record.FromString(whole)
            whole = b""
            name = record.WhichOneof("record_type")
            yield name, getattr(record, name)


def items(message):
    """The keys and values of a history or config record."""
    entries = getattr(message, "item", None) or message.update
    return {
        entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries
    }
