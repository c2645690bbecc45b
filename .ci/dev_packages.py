"""Prints the development packages of pyproject.toml, for a pip that does not know --group."""

import tomllib
from pathlib import Path

groups = tomllib.loads(Path("pyproject.toml").read_text())["dependency-groups"]
print(" ".join([*groups["dev"], *groups["docs"]]))
