"""Build the bundle: leaderexec with everything that it needs, down to the loader and the C library.

Owns what goes into the bundle and what stays out. Must not know where it is installed or run.

    python docker/bundle/build.py --output DIR

makes a virtual environment with PyInstaller and what leaderexec depends on, from the package index
or from wherever pip's own variables say (PIP_NO_INDEX, PIP_FIND_LINKS), and freezes leaderexec in
it. `--environment VENV` keeps that environment, and uses it again; `--no-isolation` takes the
packages of the very Python that runs this, so that they can be pinned. What is built:

    DIR/leaderexec     the launcher: small, static, the one to execute
    DIR/runtime/       the loader, the libraries and the frozen Python

It needs a C compiler, binutils, a C library that can be linked statically, and a Python with a
shared libpython, and it runs where the kernel is Linux and the processor is the same. Nothing in it
is looked for in the image that it runs in: all that the loader may load is collected and proved
complete, and of the loader itself the paths of the system are taken away, since neither its options
nor its environment can keep it from /etc/ld.so.preload, or the C library from the name service
modules of another one.
"""

# ruff: noqa: INP001 - a script, run by its path

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]

#: As the launcher has it, and PyInstaller must know the name to find itself behind the loader.
LOADERS: Final = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
RUNTIME: Final = "runtime"
LAUNCHER: Final = "leaderexec"
#: Not named like a package: a file of that name would hide it.
PROGRAM: Final = "frozen"

#: The first C library that brings the name services (files, dns) in itself instead of in modules.
_MIN_GLIBC: Final = (2, 34)
#: What the C library loads by name when a thread is cancelled or exits.
_LOADED_BY_NAME: Final = ("libgcc_s.so.1",)
#: The first that a zip file can say: 1980.
_FIRST_DATE: Final = 315532800
#: Modules that are imported in functions, by name, or by C code alone.
_HIDDEN: Final = (
    "kubernetes.client",
    "kubernetes.client.configuration",
    "kubernetes.client.rest",
    "kubernetes.config",
    "kubernetes.config.exec_provider",
    "kubernetes.config.incluster_config",
    "kubernetes.config.kube_config",
    "leaderexec.cli",
)
#: What something imports if it can, and nothing here needs: measured by `du`, proved by the tests.
_EXCLUDED: Final = (
    "_codecs_cn", "_codecs_hk", "_codecs_iso2022", "_codecs_jp", "_codecs_kr", "_codecs_tw",
    "_curses", "aiohttp", "bdb", "brotli", "cmd", "code", "codeop", "cryptography", "curses",
    "distutils", "doctest", "ensurepip", "h2", "hypothesis", "IPython", "lib2to3", "lzma", "mypy",
    "numpy", "OpenSSL", "pdb", "pip", "pkg_resources", "pydantic.mypy", "pydantic.v1",
    "pydantic._hypothesis_plugin", "pydoc", "pydoc_data", "readline", "rich", "setuptools",
    "sqlite3", "structlog.twisted", "test", "tkinter", "tornado.test", "turtle", "twisted",
    "tzdata", "unittest", "urllib3.contrib.emscripten", "venv", "xmlrpc",
)  # fmt: skip
#: What PyInstaller reads. Left out are its own additions at the start: they import inspect,
#: pkgutil and multiprocessing to repair in them what nothing here uses.
_SPEC: Final = """
analysis = Analysis([{0!r}], pathex={1!r}, hiddenimports={2!r}, excludes={3!r})
scripts = [script for script in analysis.scripts if not script[0].startswith("pyi_rth_")]
program = EXE(
    PYZ(analysis.pure), scripts, exclude_binaries=True, name={name!r}, strip=True,
    contents_directory=".",
)
COLLECT(program, analysis.binaries, analysis.datas, name={name!r}, strip=True)
"""
#: Where a loader looks when all that it was told is exhausted.
_SYSTEM_PATHS: Final = re.compile(
    rb"(?<=\0)(?:(?:/usr)?/(?:lib|lib64)/(?:[a-z0-9_]+-linux-gnu/)?|/etc/ld\.so\.preload)(?=\0)"
)
_RESOLVED: Final = re.compile(r"^\t(\S+) => (not found|\S+)", re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the bundle into a directory, in whose place it is put when it is complete."""
    parser = argparse.ArgumentParser(prog="docker/bundle/build.py")
    parser.add_argument("--output", type=Path, required=True, help="the bundle; replaced if there")
    parser.add_argument("--environment", type=Path, help="virtual environment to keep and use")
    parser.add_argument(
        "--no-isolation", action="store_true", help="freeze what this Python has installed"
    )
    options = parser.parse_args(arguments)
    output: Path = options.output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        if options.no_isolation:
            fresh = build(Path(scratch))
            old = Path(scratch) / "old"
            if output.exists():
                output.replace(old)
            fresh.replace(output)
            return 0
        environment = options.environment or Path(scratch) / "environment"
        python = make_environment(environment.absolute())
        run([python, __file__, "--no-isolation", "--output", output])
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size / 2**20:.1f} MiB")  # noqa: T201 - a script that says what it made
    return 0


def make_environment(directory: Path) -> Path:
    """Make the virtual environment unless it is there, and return its Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["bundle"]]
    has = directory / "wanted"
    if not has.exists() or has.read_text().splitlines() != wanted:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{directory.name}-", dir=directory.parent
        ) as scratch:
            fresh = Path(scratch) / "environment"
            venv.create(fresh, with_pip=True, symlinks=True)
            pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
            run([fresh / "bin" / "python", *pip, "install", *wanted])
            (fresh / "wanted").write_text("".join(f"{package}\n" for package in wanted))
            if directory.exists():
                directory.replace(Path(scratch) / "former")
            fresh.replace(directory)
    return directory / "bin" / "python"


def build(scratch: Path) -> Path:
    """Build the bundle with this Python in an empty directory, and return where it is."""
    machine = platform.machine()
    if machine not in LOADERS:
        fail(f"{machine} is no processor that the launcher knows; accepted: {', '.join(LOADERS)}")
    libc, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    if libc != "glibc" or tuple(map(int, version.split("."))) < _MIN_GLIBC:
        fail(f"{libc or 'the C library'} {version}; accepted: glibc {_MIN_GLIBC} or newer")
    for tool in ("cc", "strip"):
        if shutil.which(tool) is None:
            fail(f"there is no {tool}; accepted: with a C compiler and binutils")
    if importlib.util.find_spec("PyInstaller") is None:
        fail("there is no PyInstaller; accepted: with `pip install '.[bundle]'`")
    bundle = scratch / "bundle"
    bundle.mkdir()
    freeze(scratch, bundle / RUNTIME)
    complete(bundle / RUNTIME, LOADERS[machine])
    launcher = bundle / LAUNCHER
    compiler = ["cc", "-static", "-Os", "-Wall", "-Wextra", "-Werror", "-s"]
    run([*compiler, "-o", launcher, HERE / "launcher.c"])
    level(bundle)
    return bundle


def freeze(scratch: Path, runtime: Path) -> None:
    """Put the frozen Python, and the libraries that PyInstaller sees, into `runtime`."""
    stage_kubernetes(scratch / "staged")
    spec = scratch / f"{PROGRAM}.spec"
    paths = [str(scratch / "staged"), str(ROOT)]
    modules = [*_HIDDEN, *own_modules()]
    spec.write_text(
        _SPEC.format(str(HERE / "entry.py"), paths, modules, list(_EXCLUDED), name=PROGRAM)
    )
    options = ["--noconfirm", "--clean", "--log-level=WARN"]
    options += [f"--distpath={scratch / 'dist'}", f"--workpath={scratch / 'work'}"]
    run(
        [sys.executable, "-m", "PyInstaller", *options, spec],
        {"PYINSTALLER_CONFIG_DIR": str(scratch / "cache")},
    )
    # Links become files: what is copied by whoever, in whatever way, stays whole.
    shutil.copytree(scratch / "dist" / PROGRAM, runtime)


def own_modules() -> list[str]:
    """Return the names of all modules of leaderexec: many are imported in functions."""
    paths = (path.relative_to(ROOT) for path in (ROOT / "leaderexec").rglob("*.py"))
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths}
    return sorted(names - {"leaderexec.__main__"})


def stage_kubernetes(staged: Path) -> None:
    """Write the part of the kubernetes package that is used: credentials and a bare client.

    The models and calls of every API are most of it. The client looks for a model by its name when
    an answer is to become one, which we never ask for, so that an empty package will do.
    """
    spec = importlib.util.find_spec("kubernetes")
    if spec is None or spec.origin is None:
        fail("there is no kubernetes package; accepted: with what leaderexec depends on")
    source = Path(spec.origin).parent
    target = staged / "kubernetes"
    for part in ("client", "config", "utils"):
        (target / part).mkdir(parents=True)
        for module in (source / part).glob("*.py"):
            if module.name != "__init__.py" and not module.name.endswith("_test.py"):
                shutil.copy(module, target / part)
    (target / "client" / "models").mkdir()
    version = re.search(r"^__version__ = .*$", (source / "__init__.py").read_text(), re.MULTILINE)
    texts = {
        "": version[0] if version else "",
        "client": "from kubernetes.client.api_client import ApiClient\n"
        "from kubernetes.client.configuration import Configuration\n",
        "client/models": "",
        "config": (source / "config" / "__init__.py").read_text(),
        "utils": "",
    }
    for package, text in texts.items():
        (target / package / "__init__.py").write_text(text)


def complete(runtime: Path, loader: str) -> None:
    """Add the loader and every library that is still missing, and prove that none is."""
    program = Path(sys.executable).resolve()
    found = re.search(rb"\0(/[^\0]*/" + re.escape(loader).encode() + rb")\0", head(program))
    if found is None:
        fail(f"{program} does not name {loader} as its interpreter")
    own = found[1].decode()
    for name in _LOADED_BY_NAME:
        add_library(Path(run(["cc", f"-print-file-name={name}"]).strip()), runtime)
    pending = elf_files(runtime)
    while pending:
        path = pending.pop()
        for name, place in libraries(own, path, runtime).items():
            if place == "not found":
                fail(f"{path.name} needs {name}, which is not found")
            if not (runtime / name).exists() and not within(place, runtime):
                pending.append(add_library(Path(place), runtime, name))
    private = runtime / loader
    private.write_bytes(_SYSTEM_PATHS.sub(nowhere, Path(own).read_bytes()))
    private.chmod(0o755)
    run(["strip", private])
    if b"/etc/ld.so.preload" in private.read_bytes():
        fail(f"{loader} still knows the image's paths")
    for path in elf_files(runtime):
        if path == private:
            continue
        for name, place in libraries(str(private), path, runtime).items():
            if not within(place, runtime):
                fail(f"{path.name} would load {name} from the image: {place}")


def nowhere(found: re.Match[bytes]) -> bytes:
    """Return a path that is as long as the one found, and that nobody has."""
    end = b"/" if found[0].endswith(b"/") else b"-"
    return b"/" + b"-" * (len(found[0]) - 2) + end


def add_library(source: Path, runtime: Path, name: str | None = None) -> Path:
    """Copy a library of this machine, without its symbols for debuggers."""
    if not source.is_file():
        fail(f"there is no {source}")
    target = runtime / (name or source.name)
    shutil.copy(source.resolve(), target)
    run(["strip", "--strip-unneeded", target])
    return target


def libraries(loader: str, path: Path, runtime: Path) -> dict[str, str]:
    """Return what a loader would load for a file, and from where."""
    listed = run(
        [loader, "--inhibit-cache", "--library-path", runtime, "--list", path], check=False
    )
    if not within(loader, runtime) and "not found" in listed:
        listed = run([loader, "--library-path", runtime, "--list", path])
    return {
        name: place
        for name, place in _RESOLVED.findall(listed)
        if "/" not in name and not name.startswith("ld-linux")
    }


def within(place: str, runtime: Path) -> bool:
    """Tell whether a path lies in the bundle."""
    return Path(place).resolve().is_relative_to(runtime.resolve())


def elf_files(runtime: Path) -> list[Path]:
    """Return all programs and libraries of the bundle."""
    files = (path for path in sorted(runtime.rglob("*")) if path.is_file())
    return [path for path in files if head(path).startswith(b"\x7fELF")]


def head(path: Path) -> bytes:
    """Return the beginning of a file."""
    with path.open("rb") as file:
        return file.read(4096)


def level(bundle: Path) -> None:
    """Let any user read and execute the bundle, whatever the umask, and give it one date."""
    executables = {bundle / LAUNCHER, bundle / RUNTIME / PROGRAM}
    executables |= {bundle / RUNTIME / name for name in LOADERS.values()}
    at_s = int(environment_variables()["SOURCE_DATE_EPOCH"])
    for path in [*bundle.rglob("*"), bundle]:
        path.chmod(0o755 if path.is_dir() or path in executables else 0o644)
        os.utime(path, (at_s, at_s))


def environment_variables() -> dict[str, str]:
    """Return what every step runs with: the same input is to give the same output."""
    date = max(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), _FIRST_DATE)
    # The variable would lead the steps to other libraries than the loader will find.
    inherited = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    return inherited | {"PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": str(date)}


def run(
    argv: Iterable[str | Path], environment: Mapping[str, str] | None = None, *, check: bool = True
) -> str:
    """Run one step and return what it printed; end the build if it fails."""
    words = [str(word) for word in argv]
    done = subprocess.run(
        words,
        env=environment_variables() | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if check and done.returncode:
        fail(f"{' '.join(words[:4])} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def fail(reason: str) -> NoReturn:
    """End the build."""
    sys.exit(f"cannot build the bundle: {reason}")


if __name__ == "__main__":
    sys.exit(main())
