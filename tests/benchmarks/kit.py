"""What a run needs: the peers from PyPI and npm, the C programs, a copy of this package with its C twin built.

All of it lies in ``.cache/benchmarks``, which git ignores, and is made once; the copy is renewed by each run, so that
nobody who edits the package meanwhile is measured.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["CACHE", "HERE", "ROOT", "Kit", "machine"]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".cache" / "benchmarks"

#: What is installed from PyPI, in order: wsaccel needs setuptools to build itself.
PYPI = ("setuptools", "websockets", "uvloop", "picows", "websocket-client", "wsaccel")
NPM = ("ws", "bufferutil", "utf-8-validate")
INSTALLING = 300  # seconds for one package
PACKAGE = ("websocketserver", "setup.py", "setup.cfg", "pyproject.toml", "README.md")


class Kit:
    """What was found and made. Whatever is missing, with the reason, is in ``missing``: its rows are left out."""

    def __init__(self, *, update: bool = False) -> None:
        self.python = CACHE / "venv" / "bin" / "python"
        self.programs = CACHE / "programs"
        self.node_modules = CACHE / "node"
        self.missing: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._make_programs()
        self._install_from_pypi(update)
        self._install_from_npm(update)

    def package(self, source: Path) -> Path:
        """Copy the package of a checkout, build its C twin, and return the folder to import it from."""
        target = CACHE / "packages" / re.sub(r"\W+", "-", str(source.resolve())).strip("-")
        target.mkdir(parents=True, exist_ok=True)
        for name in PACKAGE:
            if (source / name).is_dir():
                shutil.rmtree(target / name, ignore_errors=True)
                shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
            elif (source / name).exists():
                shutil.copy2(source / name, target / name)
        if (target / "setup.py").exists():
            _say("building the C twin")
            _run([self.python, "setup.py", "-q", "build_ext", "--inplace"], cwd=target)
        where = _run([self.python, "-c", "import websocketserver as w; print(w.FrameParser.__module__)"], cwd=target)
        if "_speedups" not in where:
            self.missing["C twin"] = "it could not be built"
        return target

    def has_pool(self, package: Path) -> bool:
        """Return whether that version of the package has the pooled server."""
        code = "import websocketserver as w; print(hasattr(w, 'PoolingWebSocketServer'))"
        return "True" in _run([self.python, "-c", code], cwd=package)

    def _make_programs(self) -> None:
        """Compile the load generator and the reference servers; without them there is nothing to measure with."""
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise SystemExit("benchmarks: no C compiler found (set CC); the load generator is written in C")
        self.versions["C compiler"] = _run([compiler, "--version"]).splitlines()[0]
        self.programs.mkdir(parents=True, exist_ok=True)
        for name in ("wsload", "wssink"):
            source, program = HERE / f"{name}.c", self.programs / name
            newest = max(path.stat().st_mtime for path in (source, HERE / "wsutil.h"))
            if not program.exists() or program.stat().st_mtime < newest:
                _say(f"compiling {name}.c")
                _run([compiler, "-O2", "-Wall", "-DWITH_ZLIB", "-o", program, source, "-lpthread", "-lz"])

    def _install_from_pypi(self, update: bool) -> None:
        if not self.python.with_name("pip").exists():  # the last thing that is put there
            _say("making a virtual environment for the peers")
            _run([sys.executable, "-m", "venv", "--clear", CACHE / "venv"])
        pip = [self.python, "-m", "pip", "--disable-pip-version-check"]
        have = self._list_pypi(pip)
        for name in PYPI:
            if update or name not in have:
                _say(f"installing {name} from PyPI")
                how = ["--no-build-isolation"] if name == "wsaccel" else []
                self._try(name, [*pip, "install", "-q", "-U", *how, name])
        have = self._list_pypi(pip)
        self.versions.update({name: have[name] for name in PYPI[1:] if name in have})

    def _list_pypi(self, pip: Sequence[object]) -> dict[str, str]:
        listed = json.loads(_run([*pip, "list", "--format", "json"]))
        return {entry["name"].lower(): entry["version"] for entry in listed}

    def _install_from_npm(self, update: bool) -> None:
        if shutil.which("node") is None or shutil.which("npm") is None:
            self.missing["ws"] = "node and npm are not installed"
            return
        self.versions["node"] = _run(["node", "--version"]).strip().lstrip("v")
        folder = self.node_modules
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}\n')
        if update or not all((folder / "node_modules" / name).exists() for name in NPM):
            _say(f"installing {', '.join(NPM)} from npm")
            names = [f"{name}@latest" for name in NPM]
            self._try("ws", ["npm", "install", "--silent", "--no-audit", "--no-save", *names], folder)
        for name in NPM:
            about = folder / "node_modules" / name / "package.json"
            if about.exists():
                self.versions[f"npm {name}"] = json.loads(about.read_text())["version"]

    def _try(self, name: str, command: Sequence[object], folder: Path | None = None) -> None:
        try:
            _run(command, cwd=folder)
        except SystemExit as error:
            self.missing[name] = str(error)


def machine() -> dict[str, str]:
    """Return what the numbers depend on beside the versions."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": f"{model[1] if model else platform.machine()}, {os.cpu_count()} CPUs",
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "load average at the beginning": f"{os.getloadavg()[0]:.1f}",
    }


def _run(command: Sequence[object], cwd: Path | None = None) -> str:
    """Run a command to its end and return what it printed; SystemExit where it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALLING
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemExit(f"benchmarks: {error}") from None
    if done.returncode:
        raise SystemExit(f"benchmarks: {' '.join(words)} failed:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
