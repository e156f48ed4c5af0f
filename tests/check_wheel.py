"""Checks a built wheel: every file of both packages is in it, and it imports on its own."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "budgetguard": ROOT / "budgetguard",
    "budgetguard_langchain": ROOT / "integrations" / "budgetguard_langchain",
}
IMPORT_FROM = """
import pathlib, sys
for name in sys.argv[2:]:
    origin = pathlib.Path(__import__(name).__file__)
    assert origin.is_relative_to(sys.argv[1]), f"{name} came from {origin}, not from the wheel"
"""


def expected_files() -> set[str]:
    """The files of both packages as the wheel should name them, data files included."""
    return {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def main(folder: Path) -> None:
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licensed = any(name.endswith("/licenses/LICENSE") for name in archive.namelist())
        with tempfile.TemporaryDirectory() as unpacked:
            archive.extractall(unpacked)
            command = [sys.executable, "-P", "-c", IMPORT_FROM, unpacked, *PACKAGES]
            env = {**os.environ, "PYTHONPATH": unpacked}
            subprocess.run(command, check=True, cwd=unpacked, env=env)

    expected = expected_files()
    typed = {f"{name}/py.typed" for name in PACKAGES}
    problems = [
        *(f"missing: {name}" for name in sorted((expected | typed) - names)),
        *(f"unexpected: {name}" for name in sorted(names - expected)),
        *([] if licensed else ["missing: LICENSE"]),
    ]
    if problems:
        sys.exit(f"{wheel.name}\n  " + "\n  ".join(problems))
    print(f"{wheel.name}: {len(names)} files, both packages import")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
