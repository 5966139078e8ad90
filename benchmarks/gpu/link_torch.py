"""Links this Python's torch, and all that torch needs, into another environment.

    python benchmarks/gpu/link_torch.py SITE

SITE is the environment's folder of packages. What it has already stays. Needs nothing but Python.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def closure(name: str, found: set[str]) -> None:
    """Adds a package to `found`, and all that it needs, without extras."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found:
        return
    try:
        needs = distribution(name).requires or []
    except PackageNotFoundError:  # for another system
        return
    found.add(name)
    for need in (need for need in needs if "extra ==" not in need):
        closure(re.split(r"[^\w.-]", need)[0], found)


def main() -> None:
    """See the module."""
    site, found = Path(sys.argv[1]), set[str]()
    closure("torch", found)
    for name in sorted(found):
        package = distribution(name)
        tops = {path.parts[0] for path in package.files or []} - {"..", "__pycache__"}
        for top in sorted(tops):
            link, target = site / top, Path(str(package.locate_file(top))).resolve()
            if target.exists() and not link.exists():
                link.symlink_to(target)
        print(name, package.version)


if __name__ == "__main__":
    main()
