"""What ``python -m experiments.benchmark what=NAME`` measures: ``NAME.py`` has ``measure(setup) -> BenchmarkResult``.

The first line of the file's docstring is its line in ``--help``.
"""

import ast
from pathlib import Path


def help_text() -> str:
    """A line for each benchmark, aligned with those in ``conf_apps/benchmark.yaml``; no benchmark is imported."""
    lines = []
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"{path.stem:<12} {docstring.splitlines()[0] if docstring else ''}")
    return "\n  ".join(lines)
