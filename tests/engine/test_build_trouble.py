"""Compilers and disks that do not do what they should: a chain runs uncompiled, with one warning, and never crashes."""

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, make_params, run
from torchzero_core.engine.backends import c, c_build

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="the rights of POSIX")
real = pytest.mark.skipif(c_build.compiler() is None, reason="no C compiler")
#: What a compiler has to answer when it is asked for its version.
VERSION = '[ "$1" = --version ] && echo "odd 1.0" && exit 0\n'
#: Finds the file that is to be written.
TARGET = 'while [ "$1" != -o ]; do shift; done; out="$2"\n'


class Odd(tz.Transform):
    """Multiplies by a number that becomes part of the source, so that no two tests share a library."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def rule(self, u, ctx):
        return u * self.factor


def forget():
    """Be like a new process."""
    for cached in (c_build.compiler, c.library):
        cached.cache_clear()
    c_build._hung.clear()


@contextlib.contextmanager
def as_a_new_process():
    """Forgets what was found out, before and after."""
    forget()
    try:
        yield
    finally:
        forget()


def train(factor):
    """Warnings of a compiled run that gives what the eager one does."""
    results = []
    with as_a_new_process(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for compile in (False, True):
            params = make_params()
            optimizer = tz.Modular(params, tz.m.ClipValue(3), tz.m.EMA(0.5), Odd(factor), tz.m.LR(0.1), compile=compile)
            run(optimizer, params, 3)
            results.append(bits(params))
    for p, q in zip(*results, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-13)
    assert all(w.category is UserWarning for w in caught)
    return [str(w.message) for w in caught]


@pytest.fixture
def cc(tmp_path, monkeypatch):
    """Makes a shell script the compiler."""
    monkeypatch.setenv("TORCHZERO_CACHE", str(tmp_path / "cache"))

    def use(text):
        script = tmp_path / "oddcc"
        script.write_text(f"#!/bin/sh\n{text}")
        script.chmod(0o755)
        monkeypatch.setenv("CC", str(script))

    return use


@posix
@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("sleep 1000", "does not come to an end"),
        ("kill -9 $$", "the C compiler failed: exit status -9"),
        ("kill -11 $$", "the C compiler failed: exit status -11"),
        ("head -c 100000 /dev/urandom; head -c 100000 /dev/urandom >&2; exit 1", "the C compiler failed"),
        ("printf '\\377\\376\\000' >&2; exit 3", "the C compiler failed"),
        ("exit 0", "the C compiler made no library"),
        (f"{TARGET}echo garbage > $out", "compile=True has no effect"),
        (f"{TARGET}: > $out", "compile=True has no effect"),
        (f"{TARGET}mkdir $out", "the C compiler made no library"),
        (f"{TARGET}ln -s /dev/zero $out", "the C compiler made no library"),
    ],
    ids=["hangs", "killed", "crashes", "noise", "no text", "nothing", "garbage", "empty", "a folder", "a device"],
)
def test_a_strange_compiler(does, said, cc, monkeypatch):
    monkeypatch.setattr(c_build, "LONG_PATIENCE", 0.5)
    cc(VERSION + does)
    found = train(1.0 + len(does) / 512)
    assert len(found) == 1 and said in found[0], found


@posix
@pytest.mark.parametrize("text", ["sleep 1000", "exit 1", "kill -9 $$", 'printf "\\377\\000" && exit 0; exit 0'])
def test_a_compiler_that_does_not_say_its_version(text, cc, monkeypatch, tmp_path):
    """Another one is taken; where there is none, it is said once."""
    monkeypatch.setattr(c_build, "PATIENCE", 0.5)
    cc(text)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = train(2.0 + len(text) / 512)
    assert len(found) == 1, found


CHILD = """
import sys, warnings
sys.path.insert(0, {root!r})
from tests.engine.test_build_trouble import train
{more}
for number in {numbers}:
    print(len(train(number)), flush=True)
"""


def child(more, numbers, **environment):
    """What the warnings of runs in a process of its own count."""
    code = CHILD.format(root=str(ROOT), more=more, numbers=numbers)
    env = {k: v for k, v in {**os.environ, **environment}.items() if v is not None}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr[-2000:])
    return [int(line) for line in done.stdout.split()]


@posix
@real
@pytest.mark.slow
def test_a_compiler_that_writes_half_a_library(cc, tmp_path):
    """At every kind of place; to load one of them kills the process that does."""
    path = shlex.quote(c_build.compiler()[0])
    sizes = [1, 63, 64, 500, 1000, 4095, 4096, 5000, 8192, 12000]
    (tmp_path / "sizes").write_text("\n".join(map(str, sizes)) + "\n")
    list_of = shlex.quote(str(tmp_path / "sizes"))
    cc(
        f'{VERSION}{path} "$@" || exit 1\n{TARGET}n=$(head -1 {list_of})\n'
        f'sed -i 1d {list_of}\n[ -n "$n" ] && truncate -s $n "$out"\nexit 0\n'
    )
    numbers = [3.0 + size / 2**16 for size in sizes]
    more = f"import os; os.environ['CC'] = {str(tmp_path / 'oddcc')!r}"
    other = str(tmp_path / "file")
    Path(other).write_text("")
    more += f"; import tempfile; tempfile.tempdir = {other!r}"
    found = child(more, numbers, TORCHZERO_CACHE=str(tmp_path / "cache"), XDG_CACHE_HOME=other)
    assert found == [1] * len(sizes)


@real
def test_what_reaches_its_end(tmp_path):
    """Of a real library every beginning is half a one."""
    source = tmp_path / "f.c"
    source.write_text("int f(void) { return 1; }")
    subprocess.run([c_build.compiler()[0], "-shared", "-fPIC", str(source), "-o", str(tmp_path / "f.so")], check=True)
    content = (tmp_path / "f.so").read_bytes()
    assert c_build._reaches_its_end(content) and c_build._reaches_its_end(content + b"seal")
    if content[:4] == b"\x7fELF":
        assert not any(c_build._reaches_its_end(content[:n]) for n in [*range(4, len(content), 97), len(content) - 1])


@posix
@real
@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_full_disk(size, tmp_path):
    """No file may become larger than this."""
    more = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    more += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    assert child(more, [4.0 + size / 2**16], TORCHZERO_CACHE=str(tmp_path), PYTHONDONTWRITEBYTECODE="1") == [1]


@posix
@real
@pytest.mark.parametrize("home", [None, "", "relative", "~", "/dev/null", "/proc/nothing", "x" * 300, "/" + "y" * 5000])
def test_homes_of_every_kind(home, tmp_path, monkeypatch):
    """There is a temporary folder yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHZERO_CACHE", raising=False)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False) if home is None else monkeypatch.setenv(name, home)
    if home in (None, ""):
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # nobody knows the user
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    assert train(5.0 + len(home or "") / 2**16 + (home is None) / 8) == []
    assert {p.name for p in tmp_path.iterdir()} == {"temp"}  # nothing is written beside what is run
    assert list((tmp_path / "temp").rglob("*.so"))


@posix
@real
@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_folder_of_somebody_else(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)
    os.chown(folder, 12345, 12345)
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("TORCHZERO_CACHE", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    monkeypatch.setattr(tempfile, "tempdir", str(file))
    found = train(6.5)
    assert len(found) == 1 and "set TORCHZERO_CACHE" in found[0]
    assert not list(folder.iterdir())
