"""Images that buildah builds and containers that runc runs, on a machine without any registry.

Owns: the base images (one made by debootstrap, one with busybox alone), the image that `make image`
makes on the first, all in a storage of their own in the tests' cache; and containers as strict as a
pod can be: their PID 1 is what the image starts, as its user, on a read-only root, without
capabilities or new privileges, under the default seccomp profile, in own namespaces but for the
network's, through which they reach the API server and the children their witness.
Must not know: elections.
Guards against: a lane that is green because the container was more lenient than a pod.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tests.support import bundle, controlplane
from tests.support.candidate import ROOT, Candidate
from tests.support.competitors import slot_of
from tests.support.kube_candidates import KubeCandidates
from tests.support.required import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Unpack

    from tests.support.candidates import How
    from tests.support.controlplane import ControlPlane
    from tests.support.witness import Witness

#: What the containers' user is by number.
USER: Final = 65532
#: Where a container finds what the tests give it, and an init container leaves what it installs.
WITNESS: Final = "/witness"
TOOLS: Final = "/testchild"
SHARED: Final = "/shared"
CHILD: Final = "/child"
ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
#: When everything in the images was made: a date that does not change while one works on the code.
EPOCH: Final = 1_000_000
#: Where programs are looked for, by whoever is not told otherwise.
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PROGRAMS: Final = ("buildah", "runc", "debootstrap", "make")  # their packages' names too
_SECCOMP: Final = Path("/usr/share/containers/seccomp.json")
_REPOSITORY: Final = "localhost/leaderexec-test"
#: The Debian whose Python is the one that `make image` takes unless told otherwise.
_SUITE: Final = "trixie"
#: The recipe of the base with Python: Debian's smallest, and what slim images leave out of it.
_PACKAGES: Final = ("python3",)
_LEFT_OUT: Final = (
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info",
    "var/cache/apt", "var/lib/apt/lists", "var/log",
)  # fmt: skip


def require_containers() -> None:
    """Skip the test where containers cannot be run, or fail it where everything is required."""
    if os.geteuid() != 0:
        missing("containers", "they need root")
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    if absent:
        missing("containers", f"not installed: {', '.join(absent)}")


def child_command(*flags: str) -> list[str]:
    """Return the command of a test child in a container that has Python."""
    boot = f"import sys; sys.path.insert(0, {TOOLS!r}); import testchild; testchild.main()"
    return ["python3", "-I", "-S", "-c", boot, *flags]


# --- images -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """An image, unpacked: its containers share one root, which none of them can write to.

    `config` is what it says of how it is run and of itself, in the terms of the OCI, `layers` are
    the digests of its layers, unpacked, and `sizes` how large these are.
    """

    name: str
    root: Path
    config: Mapping[str, Any]
    layers: Sequence[str]
    sizes: Sequence[int]


class Storage:
    """The images of the tests, in the cache; what was made once is found again by its recipe."""

    def __init__(self) -> None:
        self.directory = controlplane.cache_directory() / "images"
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = self.directory / "storage.conf"
        settings.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{self.directory / "graph"}"\n'
            f'runroot = "{self.directory / "run"}"\n'
        )
        self._locked = functools.partial(controlplane.locked, self.directory / "lock")
        self._environ = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(settings),
            "STORAGE_DRIVER": "vfs",
            "BUILDAH_ISOLATION": "chroot",
        }

    def base(self) -> Image:
        """Return an image with a Python and little else."""
        suite, origin = _distribution()
        recipe = json.dumps([suite, _PACKAGES, _LEFT_OUT, platform.machine()])

        def fill(root: Path) -> None:
            include = f"--include={','.join(_PACKAGES)}"
            self._run(["debootstrap", "--variant=minbase", include, suite, str(root), origin])
            for name in _LEFT_OUT:
                shutil.rmtree(root / name, ignore_errors=True)
                (root / name).mkdir(parents=True)

        return self._made("base", recipe, fill)

    def busybox(self) -> Image:
        """Return an image that holds a static busybox and no library."""
        content = bundle.busybox().read_bytes()
        return self._made("busybox", hashlib.sha256(content).hexdigest(), bundle.fill_with_busybox)

    def slim(self) -> Image:
        """Return what `make image` makes on the base of the tests."""
        base = self.base()
        digest = hashlib.sha256(base.name.encode())
        sources = [ROOT / name for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE")]
        sources += [path for path in (ROOT / "docker").iterdir() if path.is_file()]
        sources += (ROOT / "leaderexec").rglob("*.py")
        controlplane.add_files(digest, ROOT, sorted(sources))
        make = functools.partial(self._make_slim, base=base)
        return self._current("slim", digest.hexdigest()[:16], make)

    def layers_made_again(self) -> list[str]:
        """Return the layers of a second make of the slim image."""
        name, base = f"{_REPOSITORY}-again:1", self.base()
        with self._locked():
            self._make_slim(name, base)
            layers: list[str] = self._described(name)["OCIv1"]["rootfs"]["diff_ids"]
            self._buildah("rmi", name)
        return layers

    def bundle(self) -> Image:
        """Return the image that holds the bundle and nothing else."""
        frozen = bundle.bundle()
        return self._current(
            "bundle", frozen.name, lambda name: self._make(name, "bundle", BUNDLE=str(frozen))
        )

    def example(self, slim: Image) -> Image:
        """Return the image of the example, on the slim one."""

        def build(name: str) -> None:
            self._buildah(
                "build", "--quiet", "--file=examples/Dockerfile", f"--tag={name}",
                f"--build-arg=LEADEREXEC={slim.name}", str(ROOT),
            )  # fmt: skip

        digest = hashlib.sha256(slim.name.encode())
        sources = (path for path in (ROOT / "examples").rglob("*") if path.is_file())
        controlplane.add_files(digest, ROOT, sorted(sources))
        return self._current("example", digest.hexdigest()[:16], build)

    @contextlib.contextmanager
    def last_layer(self, image: Image) -> Iterator[Path]:
        """Have what an image adds to the one below in a file, packed as it travels.

        Where the image is unpacked there is more: what was ever mounted there needs a place.
        """
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            self._buildah("push", "--quiet", image.name, f"oci:{directory}")
            blobs = Path(directory) / "blobs" / "sha256"
            found = json.loads((Path(directory) / "index.json").read_text())["manifests"][0]
            manifest = blobs / found["digest"].removeprefix("sha256:")
            layer = json.loads(manifest.read_text())["layers"][-1]
            yield blobs / layer["digest"].removeprefix("sha256:")

    # --- within

    def _make(self, name: str, target: str, **variables: str) -> None:
        """Run `make image`."""
        words = [f"{key}={value}" for key, value in variables.items()]
        self._run(
            ["make", "--no-print-directory", "image", "ENGINE=buildah", f"TARGET={target}",
             f"SOURCE_DATE_EPOCH={EPOCH}", f"IMAGE={name}", *words]
        )  # fmt: skip

    def _make_slim(self, name: str, base: Image) -> None:
        (python,) = (base.root / "usr/bin").glob("python3.[0-9]*[0-9]")
        version = python.name.removeprefix("python")
        self._make(name, "slim", BASE=base.name, IMAGE_PYTHON=version)

    def _current(self, kind: str, version: str, make: Callable[[str], None]) -> Image:
        """Return the image of a kind that is of this version, made if need be.

        What was made of other sources before is removed.
        """
        name = f"{_REPOSITORY}-{kind}:{version}"
        with self._locked():
            if name not in self._names():
                make(name)
                for other in self._names():
                    if other.startswith(f"{_REPOSITORY}-{kind}:") and other != name:
                        self._forget(other)
        return self._open(name)

    def _made(self, kind: str, recipe: str, fill: Callable[[Path], None]) -> Image:
        name = f"{_REPOSITORY}-{kind}:{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
        with self._locked():
            if name not in self._names():
                container = self._buildah("from", "scratch").strip()
                try:
                    fill(Path(self._buildah("mount", container).strip()))
                    self._buildah("config", f"--env=PATH={PATH}", container)
                    self._buildah("commit", "--quiet", container, name)
                finally:
                    self._buildah("rm", container)
        return self._open(name)

    def _open(self, name: str) -> Image:
        """Unpack an image, unless that was done before."""
        with self._locked():
            container = _unpacked(self._names()[name])
            if container not in self._containers():
                self._buildah("from", f"--name={container}", "--pull-never", name)
            root = Path(self._buildah("mount", container).strip())
            described = self._described(name)
        oci, layers = described["OCIv1"], json.loads(described["Manifest"])["layers"]
        sizes = [layer["size"] for layer in layers]
        return Image(name, root, oci["config"], oci["rootfs"]["diff_ids"], sizes)

    def _described(self, name: str) -> dict[str, Any]:
        described: dict[str, Any] = json.loads(self._buildah("inspect", "--type=image", name))
        return described

    def _names(self) -> dict[str, str]:
        """Return the names of all images, each with the id of its image."""
        listed = self._buildah("images", "--no-trunc", "--format={{.Name}}:{{.Tag}} {{.ID}}")
        return dict(line.split() for line in listed.splitlines())

    def _forget(self, name: str) -> None:
        """Remove an image, and where it was unpacked; the next to open it unpacks it again."""
        container = _unpacked(self._names()[name])
        if container in self._containers():
            self._buildah("rm", container)
        self._buildah("rmi", name)

    def _containers(self) -> list[str]:
        return self._buildah("containers", "--format={{.ContainerName}}").split()

    def _buildah(self, *arguments: str) -> str:
        return self._run(["buildah", *arguments])

    def _run(self, argv: Sequence[str]) -> str:
        return controlplane.run_step(argv, directory=ROOT, environment=self._environ)


def _unpacked(image_id: str) -> str:
    """Return what an image is called where it is unpacked."""
    return f"leaderexec-test-{image_id.rpartition(':')[2][:16]}"


def _distribution() -> tuple[str, str]:
    """Return the name of a release for the base, and where this machine's packages come from."""
    release = platform.freedesktop_os_release()
    own = release.get("VERSION_CODENAME", "")
    words = ("apt-get", "indextargets", "--format=$(REPO_URI)", "Created-By: Packages")
    origins = controlplane.run_step([*words, f"Codename: {own}"]).split()
    if not origins:
        raise controlplane.Unavailable("not a Debian with a package list")
    return _SUITE if release["ID"] == "debian" else own, origins[0]


# --- containers -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mount:
    """What a container finds at a place, of what the host has at another."""

    target: str
    source: Path
    writable: bool = False

    def spec(self) -> dict[str, Any]:
        """Return it as the runtime wants it."""
        options = ["rbind", "nosuid", "nodev", "rw" if self.writable else "ro"]
        return {
            "destination": self.target,
            "type": "bind",
            "source": str(self.source),
            "options": options,
        }


@dataclass
class Pod:
    """What a container has of its pod, and another one started anew in its slot has again.

    `slot` is what the downward API tells it, `account` the directory of its credentials.
    """

    name: str
    account: Path
    slot: Mapping[str, str]


@functools.cache
def _seccomp() -> dict[str, Any] | None:
    """Return the profile that container runtimes have by default, for a container without rights.

    It comes with buildah, in its own form: with rules for some capabilities and machines only.
    """
    if not _SECCOMP.exists():
        return None
    profile = json.loads(_SECCOMP.read_text())
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    rules = []
    for rule in profile["syscalls"]:
        includes = rule.get("includes") or {}
        if includes.get("caps") or arch not in (includes.get("arches") or [arch]):
            continue
        kept = {key: rule[key] for key in ("names", "action", "errnoRet") if key in rule}
        if rule.get("args"):
            kept["args"] = rule["args"]
        rules.append(kept)
    native = f"SCMP_ARCH_{platform.machine().upper()}"
    (below,) = [
        each["subArchitectures"] for each in profile["archMap"] if each["architecture"] == native
    ]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [native, *below],
        "syscalls": rules,
    }


@dataclass
class Container(Candidate):
    """One container: a candidate whose `process` is the runtime that waits for it.

    `args` is what it runs, image's entry point and all.
    """

    image: Image = field(kw_only=True)
    args: Sequence[str] = field(kw_only=True)
    pod: Pod = field(kw_only=True)
    variables: Mapping[str, str] = field(kw_only=True)
    mounts: Sequence[Mount] = field(kw_only=True)
    id: str = ""

    def start(self) -> Self:
        """Start it, under an id of its own."""
        self.id = f"leaderexec-test-{self.name}-{uuid.uuid4().hex[:8]}"
        self._bundle.mkdir(parents=True)
        self._do("spec", f"--bundle={self._bundle}")
        path = self._bundle / "config.json"
        path.write_text(json.dumps(self._as_strict_as_a_pod(json.loads(path.read_text()))))
        return super().start()

    def argv(self) -> list[str]:
        """Return how the runtime is started."""
        return [*self._runc, "run", f"--bundle={self._bundle}", self.id]

    def terminate(self) -> None:
        """Ask it to stop as a kubelet does, by the runtime."""
        self.runtime_kill("TERM")

    def runtime_kill(self, signal_name: str) -> None:
        """Let the runtime signal its first process."""
        self._do("kill", self.id, signal_name)

    @property
    def init(self) -> int:
        """Its first process, by its pid outside."""
        return int(json.loads(self._do("state", self.id))["pid"])

    def kill(self) -> None:
        """Kill it with all that is in it, and remove what the runtime made for it."""
        super().kill()
        if self.started:
            self._do("delete", "--force", self.id)

    @property
    def _bundle(self) -> Path:
        return self.directory / "containers" / self.id

    @property
    def _runc(self) -> list[str]:
        return ["runc", f"--root={self.directory / 'runc'}"]

    def _do(self, *arguments: str) -> str:
        return controlplane.run_step([*self._runc, *arguments])

    def _as_strict_as_a_pod(self, config: dict[str, Any]) -> dict[str, Any]:
        """Change the default of the runtime, which masks the right parts of /proc already."""
        image = self.image.config
        uid, _, gid = image.get("User", "").partition(":")
        brought = dict(pair.split("=", 1) for pair in image.get("Env") or ())
        environ = {"PATH": PATH, **brought, "HOSTNAME": self.pod.name, **self.variables}
        del config["process"]["rlimits"]
        config["hostname"] = self.pod.name
        config["process"] |= {
            "terminal": False,
            "user": {"uid": int(uid or USER), "gid": int(gid or USER)},
            "args": list(self.args),
            "env": [f"{name}={value}" for name, value in environ.items()],
            "capabilities": {},
            "noNewPrivileges": True,
        }
        config["root"] = {"path": str(self.image.root), "readonly": True}
        config["mounts"] += [mount.spec() for mount in self.mounts]
        config["linux"] |= {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "cgroup")],
            "cgroupsPath": f"/{self.id}",
            "seccomp": _seccomp(),
        }
        return config


class ContainerCandidates(KubeCandidates):
    """Candidates on a Lease that are containers of one image, each in a pod of its own."""

    def __init__(
        self,
        witness: Witness,
        directory: Path,
        plane: ControlPlane,
        namespace: str,
        image: Image,
    ) -> None:
        super().__init__(witness, directory, plane, namespace)
        self.image = image
        #: What every container has mounted beside its account, its witness and the test child.
        self.mounts: Sequence[Mount] = ()
        self.pods: dict[str, Pod] = {}
        self._settings: dict[str, dict[str, Any]] = {}

    def pod(self, name: str) -> Pod:
        """Return the pod of this name, made if need be, with its account's files."""
        if name not in self.pods:
            account = self.plane.incluster(
                self.directory / f"account-{name}", self.token_path.read_text(), self.namespace
            )
            self.pods[name] = Pod(name, account, slot_of(self.namespace, name))
        return self.pods[name]

    def place(self, name: str, **settings: Any) -> None:
        """Say before it is started how the container of this name differs from the others.

        `pod` is the name of its pod, `image` its image, `entry_point` what it runs instead of the
        image's, `mounts` further ones, `group` where its processes are put.
        """
        self._settings[name] = settings

    def make(self, name: str, *options: str, **how: Unpack[How]) -> Container:
        """Return a container that is not started."""
        assert not how.get("wrapper"), "a container is not wrapped"
        child = how.get("child")
        command = child_command() if child is None else child
        args = [*(how.get("lock") or self.lock), *self.timing, "--log-level=debug", *options]
        args += ["--", *command] if command else []
        return self.container(name, *args, env=how.get("env"), stderr=how.get("stderr"))

    def container(
        self,
        name: str,
        *args: str,
        env: Mapping[str, str] | None = None,
        stderr: int | None = None,
    ) -> Container:
        """Return a container that is not started, with exactly these arguments."""
        place = self._settings.get(name, {})
        image: Image = place.get("image", self.image)
        pod = self.pod(place.get("pod", f"server-{name}"))
        witness = self.witness.env(name) | {
            "WITNESS_SOCKET": f"{WITNESS}/{Path(self.witness.path).name}"
        }
        container = Container(
            name=name,
            options=(),
            command=(),
            directory=self.directory,
            stderr=stderr,
            image=image,
            args=[*place.get("entry_point", image.config.get("Entrypoint") or ()), *args],
            pod=pod,
            variables={
                "KUBERNETES_SERVICE_HOST": controlplane.HOST,
                "KUBERNETES_SERVICE_PORT": str(self.plane.port),
                **pod.slot,
                **witness,
                **(env or {}),
            },
            mounts=[
                Mount(ACCOUNT, pod.account),
                Mount(WITNESS, Path(self.witness.path).parent),
                Mount(TOOLS, ROOT / "tests" / "support"),
                *self.mounts,
                *place.get("mounts", ()),
            ],
        )
        self.by_name[name] = container
        return container
