"""Shared by the checks in this folder: which files a check looks at, and how it reports.

In a git tree: tracked files and new ones git does not ignore. Elsewhere (the self-test's trees):
every file. Standard library only.
"""
import argparse
import pathlib
import subprocess
import sys

SOURCE_SUFFIXES = {".cc", ".h", ".inl", ".cu", ".cuh"}


def parse_root(description: str) -> pathlib.Path:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", default=pathlib.Path(__file__).resolve().parent.parent,
                        type=pathlib.Path, help="the tree to look at (default: this repository)")
    return parser.parse_args().root.resolve()


def files(root: pathlib.Path, *folders: str, suffixes: set[str] | None = None) -> list[str]:
    """Sorted paths relative to root, below any of `folders` (none given: all)."""
    if (root / ".git").exists():
        listed = subprocess.run(
            ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"],
            check=True, capture_output=True, text=True).stdout.splitlines()
        names = [name for name in listed if (root / name).is_file()]
    else:
        names = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return sorted(name for name in set(names)
                  if (not folders or name.startswith(tuple(folder + "/" for folder in folders)))
                  and (suffixes is None or pathlib.PurePath(name).suffix in suffixes))


def finish(check: str, problems: list[str], looked_at: str) -> None:
    """Prints the problems and a last line, and exits with 1 when there are any."""
    for problem in problems:
        print(problem)
    print(f"{check}: {looked_at}, {len(problems)} problems")
    sys.exit(1 if problems else 0)
