"""The programs that JAX has compiled, kept for the next start in a folder that nobody else can write."""

import contextlib
import grp
import hashlib
import os
import pathlib
import pwd
import stat
from collections.abc import Callable, Iterator

import jax
from jax._src import compilation_cache as file_cache
from jax.experimental.compilation_cache import compilation_cache

from imagebind_jax.storage import atomic
from imagebind_jax.storage.cache_dir import CACHE_REMEDY, cache_folder

MAX_CACHE_BYTES = 2 << 30  # bytes of all programs: hundreds of steps; a large model's is 1 to 50 MB
MIN_COMPILE_SECONDS = 0.1  # seconds of compilation; reading a program back takes a few hundredths
DIGEST_BYTES = 32  # bytes
FOLDER = "jax_compilation_cache_dir"
SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": MIN_COMPILE_SECONDS,
    "jax_persistent_cache_min_entry_size_bytes": -1,  # every size
}


@contextlib.contextmanager
def persistent_compilation_cache(say: Callable[[str], None]) -> Iterator[None]:
    """Programs compiled in the block are read from, and written to, $IMAGEBIND_JAX_CACHE/compiled.

    JAX's own settings go first: with JAX_COMPILATION_CACHE_DIR, or jax_compilation_cache_dir, this
    does nothing, and the other settings count where their variables are set. A folder that cannot
    be used is a note, and everything is compiled. JAX's key of a program has its versions, flags
    and the machine's features, so that machines can share a folder. Of a run's hosts the first one
    writes (JAX's rule); a program that is damaged is a note, and compiled again.
    """
    if getattr(jax.config, FOLDER) is not None:
        yield
        return
    try:
        folder = open_private_dir(cache_folder() / "compiled")
    except (OSError, RuntimeError) as error:  # without a home it is a RuntimeError
        file = f": {error.filename}" if isinstance(error, OSError) else ""
        why = getattr(error, "strerror", None) or error
        say(f"compiled programs are not kept: {why}{file}; {CACHE_REMEDY}")
        yield
        return
    settings: dict[str, float | str] = {FOLDER: str(folder)}
    settings |= {name: value for name, value in SETTINGS.items() if name.upper() not in os.environ}
    before = {name: getattr(jax.config, name) for name in settings}
    programs, of_jax = VerifiedCompilationCache(folder, say), file_cache.get_file_cache
    file_cache.get_file_cache = lambda path: (programs, path)
    _set(settings)
    try:
        yield
    finally:
        file_cache.get_file_cache = of_jax
        _set(before)


def _set(settings):
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # which holds the folder that it began with


class VerifiedCompilationCache(file_cache.CacheInterface):
    """JAX's cache of compiled programs in a folder, in which every one has its SHA-256.

    In JAX's own, with zstandard installed (or Python 3.14), nothing notices a changed bit: the
    program that is read computes something else. Nor does that ever replace a damaged one.
    """

    def __init__(self, folder: pathlib.Path, say: Callable[[str], None]):
        self._path, self._say, self._told = folder, say, False

    def _file(self, key: str) -> pathlib.Path:
        return self._path / f"{key}-cache"

    def get(self, key: str) -> bytes | None:
        """The program, or None: not there, or damaged."""
        try:
            data = self._file(key).read_bytes()
        except FileNotFoundError:
            return None
        program, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
        if hashlib.sha256(program).digest() == digest:
            return program
        if not self._told:
            self._say(f"a compiled program in {self._path} is damaged: compiled again")
        self._told = True
        self._file(key).unlink(missing_ok=True)
        return None

    def put(self, key: str, value: bytes) -> None:
        """JAX makes a warning of an OSError."""
        with atomic.atomic_write(self._file(key), shared=True) as file:
            file.write(value + hashlib.sha256(value).digest())


def open_private_dir(folder: pathlib.Path) -> pathlib.Path:
    """The folder, made, checked, and cut to MAX_CACHE_BYTES bytes.

    A program in it is code that will run as this user, so the folder must be the user's own and
    nobody else may write into it or put another in its place. Raises PermissionError, or another
    OSError where it cannot be made or written.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder = folder.parent.resolve() / folder.name  # above it, links are followed; it is none
    for parent in folder.parents:
        status = parent.stat()
        if status.st_uid not in (0, os.getuid()) or _others_rename_in(status):
            raise PermissionError(0, "others could replace folders in it", str(parent))
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(0, "not a folder", str(folder))
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(0, "another user's, or others can write into it", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(0, "cannot be written", str(folder))
    _shorten(folder)
    return folder


def _others_rename_in(status: os.stat_result) -> bool:
    """Whether other users may put something else in the place of what is in a folder."""
    if status.st_mode & stat.S_ISVTX:  # as /tmp: only the owner renames
        return False
    of_group = status.st_mode & stat.S_IWGRP and not _private(status.st_gid)
    return bool(status.st_mode & stat.S_IWOTH or of_group)


def _private(gid: int) -> bool:
    """Whether a group is the user's alone, as systems make one for each, of the same name.

    By members alone a group that is the first of all users would seem empty.
    """
    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except KeyError:  # one of them has no name here
        return False
    own = gid == user.pw_gid and group.gr_name == user.pw_name
    return own and set(group.gr_mem) <= {user.pw_name}


def _shorten(folder):
    """Removes the programs that were read or written longest ago.

    JAX's own limit needs a library more, and a lock that not every shared folder has.
    """
    programs = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process removes them, too
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                programs.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = sum(size for _, size, _ in programs)
    for _, size, path in sorted(programs):
        if total <= MAX_CACHE_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= size
