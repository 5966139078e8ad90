"""Folders of runs, on a disk or in a bucket."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pyarrow import fs

from rllib_ppg.checkpoint.folder import resolve


@dataclass(frozen=True)
class Folder:
    """A folder on any filesystem.

    Attributes:
        filesystem: The filesystem.
        path: Path in it.
    """

    filesystem: fs.FileSystem
    path: str

    @classmethod
    def at(cls, place: str | Path, filesystem: fs.FileSystem | None = None) -> Folder:
        """The folder of a path or URI; links of a local path are followed."""
        filesystem, path = resolve(place, filesystem)
        if isinstance(filesystem, fs.LocalFileSystem):
            path = os.path.realpath(path)
        return cls(filesystem, path.rstrip("/"))

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> Folder:
        """The folder that it is in."""
        return replace(self, path=self.path.rpartition("/")[0])

    def subfolders(self) -> list[Folder]:
        """The folders in it, by name; none if there is no such folder."""
        found = self._contents()
        paths = sorted(info.path for info in found if info.type == fs.FileType.Directory)
        return [Folder.at(path, self.filesystem) for path in paths]

    def files(self, *suffixes: str) -> list[fs.FileInfo]:
        """The files in it with one of these endings, by name."""
        found = [info for info in self._contents() if info.type == fs.FileType.File]
        return sorted((f for f in found if f.path.endswith(suffixes)), key=lambda f: f.path)

    def exists(self) -> bool:
        """Whether there is such a folder."""
        return self.filesystem.get_file_info(self.path).type == fs.FileType.Directory

    def modified(self) -> int:
        """When something in it was last added, in nanoseconds since 1970; 0 if that is unknown."""
        return self.filesystem.get_file_info(self.path).mtime_ns or 0

    def lines(self, file: str) -> Iterator[str]:
        """Yields the lines of a file in the folder; none if there is no such file."""
        path = f"{self.path}/{file}"
        if self.filesystem.get_file_info(path).type == fs.FileType.File:
            with self.filesystem.open_input_stream(path) as stream:
                yield from io.TextIOWrapper(stream, encoding="utf-8", errors="replace")

    def text(self, file: str) -> str:
        """The text of a file in the folder; "" if there is no such file."""
        return "".join(self.lines(file))

    def _contents(self) -> list[fs.FileInfo]:
        selector = fs.FileSelector(self.path, allow_not_found=True)
        return list(self.filesystem.get_file_info(selector))


def distinct(folders: Iterable[Folder]) -> list[Folder]:
    """Returns folders without repetitions."""
    return [*{(folder.filesystem.type_name, folder.path): folder for folder in folders}.values()]
