"""The way to the Kubernetes API: credentials, connections and the meaning of an answer.

Owns the use of the `kubernetes` package, and only the Kubernetes locks use this module. Objects
stay the JSON that they are on the wire, because the package's models drop fields that they do not
know and write whole seconds in a form that the API refuses. Every call has a timeout and is made
once: whether to try again is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import ssl
import sys
import tempfile
import types
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from leaderexec import __version__
from leaderexec.locks.base import LockError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: No answer about one object is longer; a server that sends more is not what we think it is.
_MAX_BYTES: Final = 4 * 1024 * 1024
_NAMESPACE_FILE: Final = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
#: Where a container with a read-only root has room still.
_MEMORY: Final = "/dev/shm"  # noqa: S108 - a directory of our own is made in it
_STUBS: Final = ("kubernetes", "kubernetes.client", "kubernetes.config", "kubernetes.utils")


class NotConfigured(Exception):
    """There are no usable credentials; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where to find the API server and who we are there.

    In-cluster unless `kubeconfig` (None: the default files) is asked for.
    """

    in_cluster: bool
    kubeconfig: str | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said: the HTTP status, the decoded object, its wish for a pause."""

    status: int
    body: dict[str, Any]
    retry_after_s: float | None

    @property
    def message(self) -> str:
        """The server's explanation, for people."""
        text = self.body.get("message")
        return text if isinstance(text, str) else ""

    @property
    def about_namespace(self) -> bool:
        """Whether a 404 means that the namespace is missing, not the object."""
        details = self.body.get("details")
        return isinstance(details, dict) and details.get("kind") == "namespaces"


class Api:
    """Connections to one API server under one identity."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._configuration, self._pool = _connect(credentials)

    def namespace(self) -> str:
        """Return the namespace that the credentials come with, `default` if none."""
        return _own_namespace(self._credentials) or "default"

    def call(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        body: object = None,
        timeout_s: float,
    ) -> Answer:
        """Make one request and return the answer, whatever its status.

        A 401 may mean that the token was rotated: credentials are read again and the request is
        made once more. Raise Unavailable, with a message that starts with `cannot {verb}`, when
        there is no answer or one that cannot be understood.
        """
        answer = self._once(method, path, verb=verb, body=body, timeout_s=timeout_s)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            self._reconnect(verb)
            answer = self._once(method, path, verb=verb, body=body, timeout_s=timeout_s)
        return answer

    def _once(self, method: str, path: str, *, verb: str, body: object, timeout_s: float) -> Answer:
        try:
            response = self._request(method, path, body=body, connect_s=timeout_s, read_s=timeout_s)
            try:
                data = response.read(_MAX_BYTES)
                if len(data) == _MAX_BYTES:
                    raise Unavailable(f"cannot {verb}: the answer is too long")
            except BaseException:
                response.close()
                raise
            response.release_conn()
        except LockError:
            raise
        except ssl.SSLError as error:
            raise Unavailable(f"cannot {verb}: {_reason(error)}") from error
        except Exception as error:
            if "SSL" in type(error).__name__:
                # The server's certificate authority may have been replaced.
                with contextlib.suppress(LockError):
                    self._reconnect(verb)
            raise Unavailable(f"cannot {verb}: {_reason(error)}") from error
        return _answer(response.status, response.headers, data, verb)

    def watch(
        self, path: str, query: Mapping[str, str], *, verb: str, connect_s: float, idle_s: float
    ) -> Stream:
        """Open a watch that ends when nothing has come for `idle_s`.

        The `status` of what is returned tells whether it is one.
        """
        try:
            response = self._request(
                "GET", f"{path}?{urlencode(query)}", body=None, connect_s=connect_s, read_s=idle_s
            )
        except Exception as error:
            raise Unavailable(f"cannot {verb}: {_reason(error)}") from error
        return Stream(response, verb)

    def _request(
        self, method: str, path: str, *, body: object, connect_s: float, read_s: float
    ) -> Any:
        import urllib3  # noqa: PLC0415 - it comes with the kubernetes package, after the fork

        configuration = self._configuration
        headers = {"Accept": "application/json", "User-Agent": f"leaderexec/{__version__}"}
        for setting in configuration.auth_settings().values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"]
        if body is not None:
            headers["Content-Type"] = "application/json"
        return self._pool.request(
            method,
            configuration.host.rstrip("/") + path,
            body=None if body is None else json.dumps(body).encode(),
            headers=headers,
            timeout=urllib3.Timeout(connect=connect_s, read=read_s),
            retries=False,
            redirect=False,
            preload_content=False,
        )

    def _reconnect(self, verb: str) -> None:
        try:
            configuration, pool = _connect(self._credentials)
        except Exception as error:
            raise Unavailable(f"cannot {verb}: {_reason(error)}") from error
        old, self._pool = self._pool, pool
        self._configuration = configuration
        old.clear()

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()


class Stream:
    """The answer to a watch, read line by line."""

    def __init__(self, response: Any, verb: str) -> None:
        self._response = response
        self._verb = verb
        self.status: int = response.status

    def answer(self) -> Answer:
        """Read it as an ordinary answer: it is not a watch."""
        try:
            data = self._response.read(_MAX_BYTES)
        except Exception as error:
            raise Unavailable(f"cannot {self._verb}: {_reason(error)}") from error
        finally:
            self.close()
        return _answer(self._response.status, self._response.headers, data, self._verb)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield each event until the server ends the watch."""
        pending = b""
        try:
            for chunk in self._response.stream(65536):
                pending += chunk
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _object(line, self._verb)
                if len(pending) > _MAX_BYTES:
                    raise Unavailable(f"cannot {self._verb}: an event is too long")
        except LockError:
            raise
        except Exception as error:
            if type(error).__name__ == "ReadTimeoutError":
                return
            raise Unavailable(f"cannot {self._verb}: {_reason(error)}") from error
        finally:
            self.close()

    def interrupt(self) -> None:
        """Make `events` end soon; called from another thread."""
        with contextlib.suppress(Exception):
            self._response.shutdown()

    def close(self) -> None:
        """Drop the connection: what is left of the stream is of no use to anybody."""
        with contextlib.suppress(Exception):
            self._response.close()


def _answer(status: int, headers: Mapping[str, str], data: bytes, verb: str) -> Answer:
    retry_after_s = None
    with contextlib.suppress(ValueError):
        retry_after_s = float(headers["Retry-After"]) if "Retry-After" in headers else None
    if retry_after_s is not None and not 0 <= retry_after_s <= 3600:  # noqa: PLR2004 - an hour
        retry_after_s = None
    if status < HTTPStatus.BAD_REQUEST:
        return Answer(status, _object(data, verb), retry_after_s)
    try:
        body = _object(data, verb)
    except Unavailable:
        body = {"message": data[:200].decode(errors="replace")}
    return Answer(status, body, retry_after_s)


def _object(data: bytes, verb: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"cannot {verb}: the answer is not JSON: {data[:80]!r}") from error
    if not isinstance(value, dict):
        raise Unavailable(f"cannot {verb}: the answer is not an object: {data[:80]!r}")
    return value


def _reason(error: BaseException) -> str:
    """Name the innermost cause: `ConnectionRefusedError: ...`, not the layers around it."""
    cause = error
    for _ in range(8):
        inner = getattr(cause, "reason", None) or cause.__cause__
        if not isinstance(inner, BaseException):
            break
        cause = inner
    text = str(cause)
    # urllib3 puts the connection's repr before its words.
    if "object at 0x" in text or text.startswith(("HTTPSConnection(", "HTTPConnection(")):
        text = text.partition(": ")[2]
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


# --- credentials ---


def _connect(credentials: Credentials) -> tuple[Any, Any]:
    """Read the credentials and return the package's configuration and a pool of connections.

    What a kubeconfig carries inline the package writes to temporary files, which would outlive a
    killed process: they are gone again before the first request.
    """
    modules = _import_kubernetes(slim=credentials.in_cluster)
    configuration = modules.configuration_class()
    if credentials.in_cluster:
        modules.load_incluster_config(client_configuration=configuration)
        return configuration, _pool(modules, configuration)
    kube_config = _kube_config()
    getattr(kube_config, "_temp_files", {}).clear()  # they name files that are deleted below
    with _scratch() as directory:
        try:
            kube_config.load_kube_config(
                config_file=credentials.kubeconfig,
                context=credentials.context,
                client_configuration=configuration,
                persist_config=False,
                temp_file_path=directory,
            )
        except Exception as error:
            raise NotConfigured(f"cannot use the kubeconfig: {error}") from error
        return configuration, _pool(modules, configuration)


def _scratch() -> tempfile.TemporaryDirectory[str]:
    for place in (None, _MEMORY):
        with contextlib.suppress(OSError):
            return tempfile.TemporaryDirectory(prefix="leaderexec-", dir=place)
    raise NotConfigured(
        "cannot use the kubeconfig: there is no directory for temporary files; accepted: a "
        f"writable /tmp or {_MEMORY}, or one that TMPDIR names"
    )


def _pool(modules: _Modules, configuration: Any) -> Any:
    """Make the pool as the package does (proxies, NO_PROXY), with certificates read only once."""
    pool = modules.rest_client_class(configuration).pool_manager
    settings = pool.connection_pool_kw
    settings["retries"] = False
    if not configuration.host.startswith("https:"):
        return pool
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
    if getattr(configuration, "ca_cert_data", None):
        context.load_verify_locations(cadata=configuration.ca_cert_data)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    settings["ssl_context"] = context
    for key in ("ca_certs", "ca_cert_data", "cert_file", "key_file"):
        settings.pop(key, None)
    return pool


def _own_namespace(credentials: Credentials) -> str:
    if credentials.in_cluster:
        with contextlib.suppress(OSError), open(_NAMESPACE_FILE) as file:
            return file.read().strip()
        return ""
    contexts, active = _kube_config().list_kube_config_contexts(credentials.kubeconfig)
    for context in contexts:
        if context["name"] == (credentials.context or active["name"]):
            return str(context["context"].get("namespace") or "")
    return ""


# --- importing no more than is needed ---


def _kube_config() -> Any:
    return importlib.import_module("kubernetes.config.kube_config")


@dataclass(frozen=True, slots=True)
class _Modules:
    configuration_class: Any
    rest_client_class: Any
    load_incluster_config: Any


def _import_kubernetes(*, slim: bool) -> _Modules:
    """Import what is needed of the package.

    Its top-level packages import every model of every API: some 20 MiB and a quarter of a second
    that an elector in a cluster has no use for. Slim means that empty packages stand in for them
    while the few modules are imported. Should a release not stand that, the whole is imported.
    """
    if slim and "kubernetes" not in sys.modules:
        try:
            return _import_slim()
        except Exception:  # noqa: BLE001 - whatever a future release does, the whole works
            for name in [n for n in sys.modules if n.partition(".")[0] == "kubernetes"]:
                del sys.modules[name]
    configuration = importlib.import_module("kubernetes.client.configuration")
    rest = importlib.import_module("kubernetes.client.rest")
    incluster = importlib.import_module("kubernetes.config.incluster_config")
    return _Modules(
        configuration.Configuration, rest.RESTClientObject, incluster.load_incluster_config
    )


def _import_slim() -> _Modules:
    spec = importlib.util.find_spec("kubernetes")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("no kubernetes package")
    roots = list(spec.submodule_search_locations)
    for name in _STUBS:
        stub = types.ModuleType(name)
        below = name.split(".")[1:]
        stub.__path__ = [os.path.join(root, *below) for root in roots]
        stub.__spec__ = importlib.util.spec_from_loader(name, None, is_package=True)
        sys.modules[name] = stub
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, stub)
    configuration = importlib.import_module("kubernetes.client.configuration")
    sys.modules["kubernetes.client"].Configuration = configuration.Configuration  # type: ignore[attr-defined]
    rest = importlib.import_module("kubernetes.client.rest")
    incluster = importlib.import_module("kubernetes.config.incluster_config")
    return _Modules(
        configuration.Configuration, rest.RESTClientObject, incluster.load_incluster_config
    )
