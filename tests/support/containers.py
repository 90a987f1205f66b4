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
import fcntl
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tests.support import bundle, controlplane
from tests.support.candidate import ROOT, Candidate
from tests.support.kube_candidates import KubeCandidates
from tests.support.required import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Unpack

    from tests.support.candidates import How
    from tests.support.cgroup import Group
    from tests.support.controlplane import ControlPlane
    from tests.support.witness import Tree, Witness

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

_PROGRAMS: Final = {
    "buildah": "buildah",
    "runc": "runc",
    "debootstrap": "debootstrap",
    "make": "make",
}
_SECCOMP: Final = Path("/usr/share/containers/seccomp.json")
_REPOSITORY: Final = "localhost/leaderexec-test"
_BUILD_TIMEOUT_S: Final = 1800
_RUN_TIMEOUT_S: Final = 60
#: The Debian whose Python is the one that `make image` takes unless told otherwise.
_SUITE: Final = "trixie"
#: The recipe of the base with Python: Debian's smallest, and what slim images leave out of it.
_PACKAGES: Final = ("python3",)
_LEFT_OUT: Final = (
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info",
    "var/cache/apt", "var/lib/apt/lists", "var/log",
)  # fmt: skip


class Unbuildable(Exception):
    """An image cannot be made; the message has what the tools said."""


def require_containers() -> None:
    """Skip the test where containers cannot be run, or fail it where everything is required."""
    if os.geteuid() != 0:
        missing("containers", "they need root")
    absent = [package for name, package in _PROGRAMS.items() if shutil.which(name) is None]
    if absent:
        missing("containers", f"not installed: {', '.join(absent)}")


def child_command(*flags: str) -> list[str]:
    """Return the command of a test child in a container that has Python."""
    boot = f"import sys; sys.path.insert(0, {TOOLS!r}); import testchild; testchild.main()"
    return ["python3", "-I", "-S", "-c", boot, *flags]


# --- images -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """An image, unpacked: its containers share one root, which none of them can write to."""

    name: str
    root: Path
    description: Mapping[str, Any] = field(repr=False)

    @property
    def entry_point(self) -> list[str]:
        """What is run, before the arguments."""
        return list(self._config.get("Entrypoint") or [])

    @property
    def user(self) -> str:
        """As whom."""
        return str(self._config.get("User", ""))

    @property
    def environ(self) -> dict[str, str]:
        """The variables that it brings."""
        pairs = (pair.partition("=") for pair in self._config.get("Env") or [])
        return {name: value for name, _, value in pairs}

    @property
    def labels(self) -> dict[str, str]:
        """What it says of itself."""
        return dict(self._config.get("Labels") or {})

    @property
    def layers(self) -> list[str]:
        """The digests of its layers, unpacked."""
        return list(self.description["OCIv1"]["rootfs"]["diff_ids"])

    @property
    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.description["OCIv1"]["config"]
        return config


class Storage:
    """The images of the tests, in the cache; what was made once is found again by its recipe."""

    def __init__(self) -> None:
        self.directory = controlplane._cache() / "images"
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = self.directory / "storage.conf"
        settings.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{self.directory / "graph"}"\n'
            f'runroot = "{self.directory / "run"}"\n'
        )
        self._environ = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(settings),
            "STORAGE_DRIVER": "vfs",
            "BUILDAH_ISOLATION": "chroot",
        }

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else build meanwhile."""
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

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
        program = bundle.busybox()
        content = program.read_bytes()

        def fill(root: Path) -> None:
            for name in ("bin", "etc", "tmp", "proc", "dev", "sys"):
                (root / name).mkdir()
            (root / "bin" / "busybox").write_bytes(content)
            (root / "bin" / "busybox").chmod(0o755)
            for applet in self._run([str(program), "--list"]).split():
                if applet != "busybox":
                    (root / "bin" / applet).symlink_to("busybox")

        return self._made("busybox", hashlib.sha256(content).hexdigest(), fill)

    def slim(self, *, again: bool = False) -> Image:
        """Return what `make image` makes on our base, or a second make of it."""
        base = self.base()
        digest = hashlib.sha256(base.name.encode())
        sources = [ROOT / name for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE")]
        sources += [path for path in (ROOT / "docker").iterdir() if path.is_file()]
        sources += (ROOT / "leaderexec").rglob("*.py")
        for path in sorted(sources):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
        name = f"{_REPOSITORY}-slim{'-again' if again else ''}:{digest.hexdigest()[:16]}"
        with self.locked():
            if again:
                self._forget(name)
            if name not in self._names():
                self.make_image(name, "slim", BASE=base.name, IMAGE_PYTHON=_python_of(base))
                self._forget_others(name)
        return self._open(name)

    def bundle(self) -> Image:
        """Return the image that holds the bundle and nothing else."""
        frozen = bundle.bundle()
        name = f"{_REPOSITORY}-bundle:{frozen.name}"
        with self.locked():
            if name not in self._names():
                self.make_image(name, "bundle", BUNDLE=str(frozen))
                self._forget_others(name)
        return self._open(name)

    def example(self, slim: Image) -> Image:
        """Return the image of the example, on ours."""
        name = f"{_REPOSITORY}-example:{slim.name.rpartition(':')[2]}"
        with self.locked():
            self._forget(name)  # its own sources are no part of its name
            self._buildah(
                "build", "--quiet", "--file=examples/Dockerfile", f"--tag={name}",
                f"--build-arg=LEADEREXEC={slim.name}", str(ROOT),
            )  # fmt: skip
            self._forget_others(name)
        return self._open(name)

    def make_image(self, name: str, target: str, **variables: str) -> None:
        """Run `make image`."""
        words = [f"{key}={value}" for key, value in variables.items()]
        self._run(
            ["make", "--no-print-directory", "image", "ENGINE=buildah", f"TARGET={target}",
             f"SOURCE_DATE_EPOCH={EPOCH}", f"IMAGE={name}", *words]
        )  # fmt: skip

    def layer_sizes(self, image: Image) -> dict[str, list[int]]:
        """Return the sizes of an image's layers in bytes: as files, and compressed to travel."""
        with self._pushed(image) as blobs:
            packed = [blob.stat().st_size for blob in blobs]
        stored = json.loads(image.description["Manifest"])["layers"]
        return {"unpacked": [layer["size"] for layer in stored], "packed": packed}

    def last_layer(self, image: Image) -> list[tarfile.TarInfo]:
        """Return what an image adds to the one below, as it is in the image.

        Where it is unpacked there is more: what was ever mounted there needs a place.
        """
        with self._pushed(image) as blobs, tarfile.open(blobs[-1]) as layer:
            return layer.getmembers()

    # --- within

    @contextlib.contextmanager
    def _pushed(self, image: Image) -> Iterator[list[Path]]:
        """Have the layers of an image in files, as a registry would."""

        def read(digest: str) -> dict[str, Any]:
            content: dict[str, Any] = json.loads(path_of(digest).read_text())
            return content

        with tempfile.TemporaryDirectory(dir=self.directory) as directory:

            def path_of(digest: str) -> Path:
                return Path(directory) / "blobs" / "sha256" / digest.removeprefix("sha256:")

            self._buildah("push", "--quiet", image.name, f"oci:{directory}")
            index = json.loads((Path(directory) / "index.json").read_text())
            layers = read(index["manifests"][0]["digest"])["layers"]
            yield [path_of(layer["digest"]) for layer in layers]

    def _made(self, kind: str, recipe: str, fill: Callable[[Path], None]) -> Image:
        name = f"{_REPOSITORY}-{kind}:{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
        with self.locked():
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
        with self.locked():
            container = _unpacked(self._names()[name])
            if container not in self._containers():
                self._buildah("from", f"--name={container}", "--pull-never", name)
            root = Path(self._buildah("mount", container).strip())
            description = json.loads(self._buildah("inspect", "--type=image", name))
        return Image(name, root, description)

    def _names(self) -> dict[str, str]:
        """Return the names of all images, each with the id of its image."""
        listed = self._buildah("images", "--no-trunc", "--format={{.Name}}:{{.Tag}} {{.ID}}")
        return dict(line.split() for line in listed.splitlines())

    def _forget(self, name: str) -> None:
        """Remove an image, and with the last of its names where it was unpacked.

        What is made of the same sources is one image, whatever it is called: who knows it by
        another name has it unpacked at the same place, and may be using it.
        """
        names = self._names()
        image_id = names.pop(name, None)
        if image_id is None:
            return
        container = _unpacked(image_id)
        if image_id not in names.values() and container in self._containers():
            self._buildah("rm", container)
        self._buildah("rmi", name)

    def _forget_others(self, name: str) -> None:
        """Remove what was made of the same kind from other sources."""
        for other in self._names():
            if other.rpartition(":")[0] == name.rpartition(":")[0] and other != name:
                self._forget(other)

    def _containers(self) -> list[str]:
        return self._buildah("containers", "--format={{.ContainerName}}").split()

    def _buildah(self, *arguments: str) -> str:
        return self._run(["buildah", *arguments])

    def _run(self, argv: Sequence[str]) -> str:
        done = subprocess.run(
            argv,
            env=self._environ,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            raise Unbuildable(f"{' '.join(argv[:3])}: code {done.returncode}:\n{tail}")
        return done.stdout


def _unpacked(image_id: str) -> str:
    """Return what an image is called where it is unpacked."""
    return f"leaderexec-test-{image_id.rpartition(':')[2][:16]}"


def _distribution() -> tuple[str, str]:
    """Return the name of a release for the base, and where this machine's packages come from."""
    try:
        release = platform.freedesktop_os_release()
        own = release["VERSION_CODENAME"]
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format=$(REPO_URI)", "Created-By: Packages",
             f"Codename: {own}"],
            capture_output=True, text=True, check=True, timeout=_RUN_TIMEOUT_S,
        ).stdout.split()  # fmt: skip
        return _SUITE if release["ID"] == "debian" else own, listed[0]
    except (OSError, KeyError, IndexError, subprocess.SubprocessError) as error:
        missing("base image", f"not a Debian with a package list: {error!r}")


def _python_of(image: Image) -> str:
    """Return the version of an image's Python, without the last number."""
    (python,) = (image.root / "usr/bin").glob("python3.[0-9]*[0-9]")
    return python.name.removeprefix("python")


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
    """What containers of one pod have in common, and a container started anew in its slot."""

    name: str
    namespace: str
    account: Path
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))

    def environ(self, container: str) -> dict[str, str]:
        """Return what the downward API tells a container."""
        return {
            "POD_NAME": self.name,
            "POD_NAMESPACE": self.namespace,
            "POD_UID": self.uid,
            "CONTAINER_NAME": container,
        }


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


def _mounts() -> list[dict[str, Any]]:
    """Return what every container has mounted."""

    def mount(target: str, kind: str, *options: str) -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": kind, "options": list(options)}

    safe = ("nosuid", "noexec", "nodev")
    return [
        mount("/proc", "proc", *safe),
        mount("/dev", "tmpfs", "nosuid", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666"),
        mount("/dev/shm", "tmpfs", *safe, "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", *safe),
        mount("/sys", "sysfs", *safe, "ro"),
        mount("/sys/fs/cgroup", "cgroup", *safe, "relatime", "ro"),
    ]


#: What runtimes hide of /proc and /sys.
_MASKED: Final = (
    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# Run by the runtime when all of a container is there but its program: it moves the one process that
# there is into groups of ours, and with it whatever that starts.
_JOIN: Final = """
import json, sys
pid = json.load(sys.stdin)["pid"]
for path in sys.argv[1:]:
    with open(path, "w") as file:
        file.write(str(pid))
"""


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
    group: Group | None = field(kw_only=True, default=None)
    id: str = ""

    def start(self) -> Self:
        """Start it, under an id of its own."""
        self.id = f"leaderexec-test-{self.name}-{uuid.uuid4().hex[:8]}"
        bundle = self._runtime_directory / self.id
        bundle.mkdir(parents=True)
        (bundle / "config.json").write_text(json.dumps(self._config()))
        return super().start()

    def argv(self) -> list[str]:
        """Return how the runtime is started."""
        return [*self._runc, "run", f"--bundle={self._runtime_directory / self.id}", self.id]

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
    def _runtime_directory(self) -> Path:
        return self.directory / "containers"

    @property
    def _runc(self) -> list[str]:
        return ["runc", f"--root={self.directory / 'runc'}"]

    def _do(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._runc, *arguments],
            capture_output=True,
            text=True,
            timeout=_RUN_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"runc {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def _config(self) -> dict[str, Any]:
        uid, _, gid = self.image.user.partition(":")
        environ = {"PATH": PATH, **self.image.environ, "HOSTNAME": self.pod.name, **self.variables}
        nothing: dict[str, list[str]] = {
            kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
        }
        config: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "hostname": self.pod.name,
            "process": {
                "terminal": False,
                "user": {"uid": int(uid or USER), "gid": int(gid or USER)},
                "args": list(self.args),
                "env": [f"{name}={value}" for name, value in environ.items()],
                "cwd": "/",
                "capabilities": nothing,
                "noNewPrivileges": True,
            },
            "root": {"path": str(self.image.root), "readonly": True},
            "mounts": [*_mounts(), *(mount.spec() for mount in self.mounts)],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "cgroup")],
                "cgroupsPath": f"/{self.id}",
                "seccomp": _seccomp(),
                "maskedPaths": list(_MASKED),
                "readonlyPaths": list(_READ_ONLY),
            },
        }
        if self.group is not None:
            files = [str(self.group.path / "cgroup.procs")]
            join = [sys.executable, "-I", "-S", "-c", _JOIN, *files]
            config["hooks"] = {"createRuntime": [{"path": join[0], "args": join}]}
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
            self.pods[name] = Pod(name, self.namespace, account)
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
            args=[*place.get("entry_point", image.entry_point), *args],
            pod=pod,
            variables={
                "KUBERNETES_SERVICE_HOST": controlplane.HOST,
                "KUBERNETES_SERVICE_PORT": str(self.plane.port),
                **pod.environ("server"),
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
            group=place.get("group"),
        )
        self.by_name[name] = container
        return container

    def contained(self, tree: Tree) -> Container:
        """Return the container that this tree is in."""
        candidate = self.leader(tree)
        assert isinstance(candidate, Container)
        return candidate
