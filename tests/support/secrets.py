"""Looks for a secret in files."""

import io
import zipfile
import zlib


def holds(data, secret):
    """Whether bytes hold a secret, also packed in a zip file or a zlib or gzip stream."""
    if secret in data:
        return True
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return any(holds(file.read(name), secret) for name in file.namelist())
    if data[:1] == b"\x78" or data[:2] == b"\x1f\x8b":
        try:
            return holds(zlib.decompress(data, wbits=47), secret)
        except zlib.error:
            return False
    return False
