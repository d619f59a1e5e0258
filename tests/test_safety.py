"""No file, name or answer can make the pipeline run code, and it never goes onto the network.

Both are read off the syntax trees.

Between its own processes multiprocessing pickles tasks and results; that goes through a pipe that only they hold, and
is no file that anybody could have put there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("data", "transforms", "networks", "pipeline", "bench", "tools", "tests")
SOURCES = [p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))] + [ROOT / "run_pipeline.py"]

OBJECTS_FROM_BYTES = {"pickle", "_pickle", "cPickle", "pickle5", "dill", "cloudpickle", "joblib", "jsonpickle",
                      "shelve",
                      "marshal", "copyreg"}  # fmt: skip
CODE_FROM_TEXT = {"code", "codeop", "runpy", "imp", "pty", "commands"}
CLIENTS = {"requests", "httpx", "aiohttp", "urllib3", "urllib.request", "http.client", "ftplib", "smtplib", "telnetlib",
           "poplib", "imaplib", "nntplib", "xmlrpc", "websockets", "websocket", "paramiko", "huggingface_hub", "gdown",
           "boto3", "socketserver"}  # fmt: skip
MODULES = OBJECTS_FROM_BYTES | CODE_FROM_TEXT | CLIENTS
"""Not imported, nor is anything within them."""

NAMES = {
    *("eval", "exec", "compile", "__import__", "importlib.import_module"),
    *("os.system", "os.popen", "os.startfile", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *(f"os.{kind}{how}" for kind in ("exec", "spawn") for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *("tempfile.mktemp", "os.tempnam", "os.tmpnam"),
    *(f"yaml.{name}" for name in ("load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all")),
    *(f"yaml.{name}" for name in ("Loader", "FullLoader", "UnsafeLoader", "CLoader", "CFullLoader", "CUnsafeLoader")),
    *("torch.load", "torch.serialization.load", "torch.jit.load", "torch.hub", "torch.package", "torch.export.load"),
    *("torch.utils.model_zoo", "torch.serialization.add_safe_globals", "torch.serialization.safe_globals"),
    *("numpy.load", "pandas.read_pickle", "pandas.read_hdf", "pandas.eval"),
    *("monai.bundle", "monai.apps", "nilearn.datasets"),
    *(f"socket.{name}" for name in ("socket", "create_connection", "create_server", "getaddrinfo", "gethostbyname")),
    *("shutil.unpack_archive", "ssl._create_unverified_context"),
}
"""Not named, nor is anything within them, but where :data:`ALLOWED_WITH` says how."""
METHODS = {"extractall", "read_pickle", "to_pickle", "from_pretrained", "urlopen", "urlretrieve", "load_from_url"}
"""Not called, of whatever object."""
ALLOWED_WITH = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
"""Calls that are safe with this keyword, written out as a literal."""
HARMLESS = {"nilearn.datasets.load_mni152_template"}
"""Within what is forbidden, but from the installed package."""
SAFE_VALUES = {"shell": False, "weights_only": True, "allow_pickle": False, "trust_remote_code": False}
"""A keyword of any call, which has this value as a literal."""

EXCEPTIONS = {
    ("transforms/skull.py", "torch.jit.load"): "loads two files of an installed package, whose SHA-256 it knows",
    ("tests/test_vgg19_unet.py", "torch.load"): "shows that the file which is refused would have run code",
    ("tests/test_vgg19_unet.py", "weights_only="): "the same",
    ("tests/test_readme.py", "exec"): "runs the example of docs/segment.md",
    ("tests/test_readme.py", "compile"): "the same",
    ("tests/test_cli.py", "shell="): "runs the README's commands as they would be typed",
    ("tests/test_augment.py", "pickle"): "sends a chain of transforms as a worker gets it, its own bytes",
    ("tests/faults/files.py", "socket.socket"): "makes a socket file under an image's name",
    ("tests/web_server.py", "socket.create_server"): "serves the web app to the test, on this machine alone",
    ("tests/test_web_security.py", "socket.create_connection"): "requests that no client would make, to that server",
    ("tests/test_web_uploads.py", "socket.create_connection"): "the same",
    ("tests/test_web_connections.py", "socket.create_connection"): "the same",
    ("tests/test_web_connections.py", "socket.socket"): "the same, with a small buffer for answers",
    ("tests/test_web_sessions.py", "socket.create_connection"): "tokens that no client would send, to that server",
    ("tests/test_web_sessions.py", "httpx"): "many visitors of that server at once",
    ("tests/test_web_proxy.py", "httpx"): "a browser at a proxy that the test runs before that server",
    ("pipeline/web/app.py", "socket.create_server"): "the web app's own door",
    ("pipeline/web/app.py", "socket.socket"): "the type of that",
    ("tests/test_web_proxy.py", "socket.create_server"): "finds a free port for nginx",
    ("tests/test_web_readme.py", "socket.create_server"): "finds a free port for the server that it starts",
    ("tests/web/test_page.py", "httpx"): "shows the server of the browser tests a cookie that was signed out",
    ("tests/web/conftest.py", "socket.socket"): "finds a free port for the server of the browser tests",
    ("bench/timings/web_load.py", "httpx"): "twenty users of a server that it starts itself",
    ("bench/timings/web_load.py", "socket.create_server"): "that server",
    ("bench/speed/traced_start.py", "runpy"): "starts run_pipeline.py, with a clock on its imports",
    ("pipeline/__init__.py", "importlib.import_module"): "the modules of the public names, listed there",
    ("tests/test_web_jobs.py", "importlib.import_module"): "the modules that the server names to its worker",
    ("bench/timings/time_metrics.py", "importlib.import_module"): "other people's libraries, where they are installed",
    (
        "pipeline/web/compute/worker.py",
        "importlib.import_module",
    ): "the function that the server names to its own worker",
}
"""File and part, and why. None of the library's makes code or objects of a file whose SHA-256 it does not know."""


def imported_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: ``import numpy as np`` gives {"np": "numpy"}."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_modules(tree: ast.AST) -> set[str]:
    return {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names} | {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        for alias in node.names
    }


def within(name: str, forbidden: set[str]) -> str | None:
    """The forbidden name that ``name`` is or lies in."""
    parts = name.split(".")
    return next((part for n in range(len(parts)) if (part := ".".join(parts[: n + 1])) in forbidden), None)


def is_literal(node: ast.AST, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def unsafe_parts(source: str) -> Iterator[str]:
    """What a source file has that it must not: modules, names, methods and keywords, each as in the tables above."""
    tree = ast.parse(source)
    known = imported_names(tree)

    def full_name(node: ast.AST) -> str:
        first, *rest = ast.unparse(node).removeprefix("builtins.").split(".")
        return ".".join([known.get(first, first), *rest]).removeprefix("builtins.")

    safe = set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        keyword, wanted = ALLOWED_WITH.get(full_name(call.func), ("", None))
        if any(k.arg == keyword and is_literal(k.value, wanted) for k in call.keywords):
            safe.add(call.func)
        if isinstance(call.func, ast.Attribute) and call.func.attr in METHODS:
            yield call.func.attr
        for k in call.keywords:
            if k.arg in SAFE_VALUES and not is_literal(k.value, SAFE_VALUES[k.arg]):
                yield f"{k.arg}="
    for name in sorted(imported_modules(tree)):
        if (module := within(name, MODULES)) is not None:
            yield module
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and node not in safe:
            name = full_name(node)
            if name not in HARMLESS and (found := within(name, NAMES)) is not None and not _is_prefix(name):
                yield found


def _is_prefix(name: str) -> bool:
    """``nilearn.datasets`` within ``nilearn.datasets.load_mni152_template`` is looked at with the whole."""
    return any(harmless.startswith(f"{name}.") for harmless in HARMLESS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_file_has_a_part_that_could_run_what_it_is_given(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    found = {(name, part) for part in unsafe_parts(path.read_text(encoding="utf-8"))}
    assert found - EXCEPTIONS.keys() == set()


def test_every_exception_is_needed_and_the_library_has_none_that_makes_code_of_an_unknown_file() -> None:
    needed = {(name, part) for name, _ in EXCEPTIONS for part in unsafe_parts((ROOT / name).read_text())}
    assert needed >= EXCEPTIONS.keys()
    library = {each for each in EXCEPTIONS if not each[0].startswith(("tests/", "bench/", "tools/"))}
    assert {each for each in library if each[1] != "importlib.import_module"} == {
        ("transforms/skull.py", "torch.jit.load"),
        ("pipeline/web/app.py", "socket.create_server"),
        ("pipeline/web/app.py", "socket.socket"),
    }


def test_every_source_file_of_the_repository_is_looked_at() -> None:
    hidden_or_built = (".", "build", "dist", "out", "htmlcov")
    folders = [p for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(hidden_or_built)]
    assert {folder.name for folder in folders if any(folder.rglob("*.py"))} == set(FOLDERS)
    assert {path.name for path in ROOT.glob("*.py")} == {"run_pipeline.py"}
    assert len(SOURCES) > 100


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("import torch; torch.load(path)", {"torch.load"}),
        ("import torch; torch.load(path, weights_only=False)", {"torch.load", "weights_only="}),
        ("import torch; torch.load(path, weights_only=1)", {"torch.load", "weights_only="}),
        ("import torch; torch.load(path, weights_only=safe)", {"torch.load", "weights_only="}),
        ("import torch; torch.load(path, allow_pickle=False)", {"torch.load"}),
        ("import torch; torch.load(path, **{'weights_only': True})", {"torch.load"}),
        ("import torch; torch.load(path, weights_only=True); torch.load(path)", {"torch.load"}),
        ("import torch; read = torch.load; read(path)", {"torch.load"}),
        ("import torch as t; t.load(path)", {"torch.load"}),
        ("from torch import load; load(path)", {"torch.load"}),
        ("from torch import load as read; read(path)", {"torch.load"}),
        ("import torch.nn; torch.load(path)", {"torch.load"}),
        ("from torch import serialization; serialization.load(path)", {"torch.serialization.load"}),
        ("import torch; torch.hub.load(name)", {"torch.hub"}),
        ("import torch; torch.hub.load_state_dict_from_url(url)", {"torch.hub"}),
        ("import torch; torch.serialization.add_safe_globals([f])", {"torch.serialization.add_safe_globals"}),
        ("import numpy as np; np.load(path)", {"numpy.load"}),
        ("import numpy as np; np.load(path, allow_pickle=True)", {"numpy.load", "allow_pickle="}),
        ("import numpy as np; np.load(path, allow_pickle=0)", {"numpy.load", "allow_pickle="}),
        ("import numpy as np; np.load(path, None, False)", {"numpy.load"}),
        ("from numpy import load; load(path)", {"numpy.load"}),
        ("import pandas as pd; pd.read_pickle(path)", {"pandas.read_pickle", "read_pickle"}),
        ("frame.to_pickle(path)", {"to_pickle"}),
        ("import yaml; yaml.load(text, Loader=yaml.SafeLoader)", {"yaml.load"}),
        ("import yaml; yaml.full_load(text)", {"yaml.full_load"}),
        ("from yaml import unsafe_load as read; read(text)", {"yaml.unsafe_load"}),
        ("import yaml; yaml.compose(text, Loader=yaml.UnsafeLoader)", {"yaml.UnsafeLoader"}),
        ("import yaml\nclass L(yaml.Loader): pass", {"yaml.Loader"}),
        ("def run(text):\n    return eval(text)", {"eval"}),
        ("exec(text)", {"exec"}),
        ("run = compile(text, 'x', 'exec')", {"compile"}),
        ("import builtins; builtins.eval(text)", {"eval"}),
        ("from builtins import exec as run; run(text)", {"exec"}),
        ("__import__(name)", {"__import__"}),
        ("import importlib; importlib.import_module(name)", {"importlib.import_module"}),
        ("def read(path):\n    import pickle as safe\n    return safe.load(path)", {"pickle"}),
        ("from pickle import loads", {"pickle"}),
        ("import dill, marshal", {"dill", "marshal"}),
        ("import shelve", {"shelve"}),
        ("import joblib; joblib.load(path)", {"joblib"}),
        ("import os; os.system(text)", {"os.system"}),
        ("from os import popen as run; run(text)", {"os.popen"}),
        ("import os; os.execvp(name, names)", {"os.execvp"}),
        ("import subprocess; subprocess.run(text, shell=True)", {"shell="}),
        ("import subprocess as s; s.Popen(text, shell=wanted)", {"shell="}),
        ("import subprocess; subprocess.getoutput(text)", {"subprocess.getoutput"}),
        ("import tempfile; tempfile.mktemp()", {"tempfile.mktemp"}),
        ("archive.extractall(folder)", {"extractall"}),
        ("import shutil; shutil.unpack_archive(path)", {"shutil.unpack_archive"}),
        ("import requests; requests.get(url)", {"requests"}),
        ("from urllib.request import urlopen", {"urllib.request"}),
        ("from urllib import request", {"urllib.request"}),
        ("import urllib.request as u; u.urlopen(url)", {"urllib.request", "urlopen"}),
        ("import http.client", {"http.client"}),
        ("from http import client", {"http.client"}),
        ("import socket; socket.create_connection(address)", {"socket.create_connection"}),
        ("from socket import socket; socket()", {"socket.socket"}),
        ("from monai.bundle import download; download(name)", {"monai.bundle"}),
        ("from nilearn.datasets import fetch_icbm152_2009; fetch_icbm152_2009()", {"nilearn.datasets"}),
        ("Model.from_pretrained(name)", {"from_pretrained"}),
    ],
)
def test_a_rule_bites_however_the_code_is_written(source: str, caught: set[str]) -> None:
    assert set(unsafe_parts(source)) == caught


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load(path, map_location='cpu', weights_only=True)",
        "import torch as t; t.load(path, weights_only=True)",
        "from torch import load; load(path, weights_only=True)",
        "import torch; torch.save(state, path)",  # writing runs nothing
        "import numpy as np; np.load(path, mmap_mode='r', allow_pickle=False)",
        "import json; json.load(file)",
        "import re; re.compile(text)",
        "import torch; torch.compile(network)",
        "network.eval()",
        "import yaml; yaml.safe_load(text); yaml.compose(text, Loader=yaml.SafeLoader)",
        "import subprocess; subprocess.run([program, option], shell=False)",
        "from urllib.parse import quote; from http import HTTPStatus",
        "from nilearn.datasets import load_mni152_template; load_mni152_template(2)",
        "import socket; socket.gethostname()",
        "from starlette.requests import Request",
        "import importlib.metadata; importlib.metadata.version('torch')",
        "from .code import requests",
    ],
)
def test_what_is_safe_is_let_through(source: str) -> None:
    assert set(unsafe_parts(source)) == set()
