"""Packs what a bare GPU machine lacks, so that `run.sh` runs there without a network.

    python -m benchmarks.gpu.pack FOLDER [--python 3.12]

Writes FOLDER/site.tar.xz, which holds the packages that `run.sh` needs, in the versions of
constraints.txt, for CPython on Linux x86-64. torch is not among them: the machine has its own.

The archive is small because of what is left out: pyarrow, other parts that no step uses, debug
symbols, and the backgrounds of all Procgen games but StarPilot. All libraries are compressed
together, since Ray's binaries contain much of the same code. Needs pip, binutils (`strip`), `ldd`
and `xz`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from zipfile import ZipFile

MIB = 2**20
LIMIT = 55 * MIB

# With what they import. pyarrow has a stand-in instead, `pyarrow_stub.py`.
PACKAGES = """
    absl-py annotated-types attrs certifi cffi charset-normalizer click cloudpickle dm-tree
    farama-notifications filelock fsspec gym-notices gym3 gymnasium idna imageio iniconfig
    jsonschema jsonschema-specifications lz4 msgpack numpy ormsgpack packaging pandas pluggy
    procgen-mirror protobuf psutil pycparser pydantic pydantic-core pygments pytest pytest-timeout
    python-dateutil pytz pyyaml ray referencing requests rpds-py scipy six tensorboardx
    typing-extensions typing-inspection urllib3 wrapt
"""
SOURCE_PACKAGES = ("gym",)  # pure Python, without a wheel on PyPI
# pip takes a wheel's platform literally.
GLIBC = (5, 12, 17, 24, 26, 27, 28, 31, 34, 35)

UNUSED = (
    "*/tests/*", "*.a", "*.pxd", "*.pxi", "*.pyi", "*.pyx",
    "numpy/core/include/*", "numpy/f2py/*", "pytz/zoneinfo/*",
    "ray/jars/*", "ray/dashboard/client/*", "ray/core/libjemalloc.so",
    # RLlib imports no more of scipy than its root.
    "scipy.libs/*", "scipy/[!_]*/*", "scipy/_lib/cobyqa/*", "scipy/_lib/pyprima/*",
    "scipy/_build_utils/*", "scipy/_external/*",
)  # fmt: skip

# Procgen loads the backgrounds of all games before it plays one: here they are one small picture.
BACKGROUNDS = (
    "platform_backgrounds",
    "platform_backgrounds_2",
    "topdown_backgrounds",
    "water_backgrounds",
)

# What Procgen's library takes from the system, and what any machine with a Python has of it.
SYSTEM = re.compile(r"=> (/(?:usr/)?lib\S*)")
ANYWHERE = re.compile(r"(lib(c|m|dl|rt|z|pthread|resolv|gcc_s|stdc\+\+)|ld-linux\S*)\.so")


def download(folder: Path, python: str) -> None:
    """Fetches the wheels."""
    platforms = [f"manylinux_2_{n}_x86_64" for n in GLIBC]
    platforms += ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64"]
    pip = (sys.executable, "-m", "pip")
    common = ("--quiet", "--no-deps", "--constraint", "constraints.txt")
    target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    target += [word for platform in platforms for word in ("--platform", platform)]
    packages = PACKAGES.split()
    subprocess.run([*pip, "download", *common, *target, "--dest", folder, *packages], check=True)
    subprocess.run([*pip, "wheel", *common, "--wheel-dir", folder, *SOURCE_PACKAGES], check=True)


def is_unused(name: str) -> bool:
    """Whether no step needs this file of a wheel."""
    return any(fnmatch(name, pattern) for pattern in UNUSED)


def unpack(wheel: Path, site: Path) -> None:
    """Unpacks what is used of a wheel, with permissions."""
    with ZipFile(wheel) as archive:
        for info in archive.infolist():
            if not info.is_dir() and not is_unused(info.filename):
                path = Path(archive.extract(info, site))
                path.chmod(0o755 if info.external_attr >> 16 & 0o100 else 0o644)


def strip_symbols(site: Path) -> None:
    """Removes what a debugger would need from libraries and programs."""
    for path in site.rglob("*"):
        if path.is_file():
            with path.open("rb") as f:
                is_elf = f.read(4) == b"\x7fELF"
            if is_elf:
                subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)


def link_backgrounds(site: Path) -> None:
    """Replaces the backgrounds of other games by links to the smallest of them."""
    assets = site / "procgen/data/assets"
    pictures = [p for folder in BACKGROUNDS for p in sorted((assets / folder).glob("*.png"))]
    smallest = min(pictures, key=lambda p: p.stat().st_size)
    for picture in pictures:
        if picture != smallest:
            picture.unlink()
            picture.symlink_to(Path("..") / smallest.relative_to(assets))


def copy_system_libraries(site: Path) -> None:
    """Copies the system's libraries that Procgen needs and a bare machine may lack."""
    folder = site / "system.libs"
    folder.mkdir()
    library = site / "procgen/data/prebuilt/libenv.so"
    found = subprocess.run(["ldd", str(library)], check=True, capture_output=True, text=True).stdout
    if missing := re.findall(r"(\S+) => not found", found):
        sys.exit(f"this machine has no {', '.join(missing)}, which Procgen needs")
    for path in map(Path, SYSTEM.findall(found)):
        if not ANYWHERE.match(path.name):
            shutil.copy(path, folder / path.name)


def show_largest(site: Path) -> None:
    """Prints which packages are the largest, compressed alone and fast."""
    sizes = {}
    for path in site.iterdir():
        packed = subprocess.run(
            f"tar -C '{site}' -c '{path.name}' | xz -1 | wc -c", shell=True, capture_output=True
        )
        sizes[path.name] = int(packed.stdout)
    for name in sorted(sizes, key=lambda name: -sizes[name])[:8]:
        print(f"{sizes[name] / MIB:6.1f} MiB  {name}")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="its version (default: %(default)s)")
    args = parser.parse_args()
    archive = args.folder.absolute() / "site.tar.xz"
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        wheels, site = Path(temporary, "wheels"), Path(temporary, "site")
        download(wheels, args.python)
        for wheel in sorted(wheels.glob("*.whl")):
            unpack(wheel, site)
        (site / "pyarrow").mkdir()
        shutil.copy("benchmarks/gpu/pyarrow_stub.py", site / "pyarrow/__init__.py")
        link_backgrounds(site)
        strip_symbols(site)
        copy_system_libraries(site)
        # Libraries come first, one after the other, so that what they share is stored once.
        names = sorted(
            (str(p.relative_to(site)) for p in site.rglob("*") if not p.is_dir() or p.is_symlink()),
            key=lambda name: (".so" not in name and "ray/core/" not in name, name),
        )
        listed = Path(temporary, "names")
        listed.write_text("\n".join(names))
        tar = f"tar -C '{site}' --owner=0 --group=0 --no-recursion -c -T '{listed}'"
        subprocess.run(
            f"{tar} | xz -T1 --x86 --lzma2=preset=9e,dict=256MiB > '{archive}'",
            shell=True,
            check=True,
        )
        size = archive.stat().st_size
        print(f"{archive}: {size / MIB:.1f} MiB, unpacked {du(site) / MIB:.0f} MiB")
        if size > LIMIT:
            print(f"This is more than {LIMIT / MIB:.0f} MiB. The largest, compressed alone:")
            show_largest(site)


def du(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


if __name__ == "__main__":
    main()
