"""Files and folders in places where other users of the machine may write: what was put there for us is not used.

A link in the place of a lock file would have us empty the file that it names; a named pipe would have us wait for ever.
"""

import errno
import os
import pwd
import stat
from pathlib import Path

from qtuning.errors import UserError

_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ODD = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENOTDIR, errno.EEXIST)  # a link, a folder, a socket, a file
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def open_plain(path: Path, flags: int, mode: int = 0o666) -> int:
    """A descriptor of a plain file that has no other name, opened without following a link and without waiting.

    FileNotFoundError and FileExistsError as `os.open`; UserError if there is anything else, or if it may not be opened.
    """
    try:
        descriptor = os.open(path, flags | _SAFE, mode)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise _refusal(path, error) from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise UserError(_in_the_way(path, found))
    return descriptor


def open_ours(path: Path, flags: int) -> int:
    """`open_plain` in a results folder: not of a file that a stranger may have put there."""
    descriptor = open_plain(path, flags)
    try:
        _check_owner(path, os.fstat(descriptor))
    except UserError:
        os.close(descriptor)
        raise
    return descriptor


def make_folder(path: Path) -> None:
    """Make a folder of the results, unless it is there. UserError if it cannot be made, or is a stranger's."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in (*_ODD, *_DENIED):
            raise
        raise _refusal(path, error) from None
    _check_owner(path, path.lstat())


def check_private(folder: Path) -> None:
    """PermissionError unless the folder is one, ours, and closed to all others."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder}: must be a folder that is ours alone; remove it")


def check_common(folder: Path) -> None:
    """UserError unless the folder is one in which nobody can remove or rename what another user made."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise UserError(_in_the_way(folder, found))
    if found.st_uid not in (0, os.geteuid()) and not found.st_mode & stat.S_ISVTX:
        raise UserError(f"{folder}: {_name(found.st_uid)} could take others' locks away there; {_remove(found)}")


def check_results(root: Path, to_write: bool = True) -> None:
    """UserError, which says what is needed, if it is no folder, or this user may not write to it or a folder in it."""
    nearest = next(folder for folder in (root, *root.absolute().parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        raise UserError(f"results = {root}: {nearest} is no folder; choose another: --config results=FOLDER")
    if not to_write:
        return
    inside = sorted(nearest.iterdir()) if nearest == root and os.access(root, os.R_OK | os.X_OK) else []
    for folder in (nearest, *(path for path in inside if path.is_dir())):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise _refusal(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _check_owner(path: Path, found: os.stat_result) -> None:
    """UserError if all may write there and the owner is neither this user nor root nor that of the folder around."""
    around = path.parent.stat()
    if around.st_mode & stat.S_IWOTH and found.st_uid not in (os.geteuid(), 0, around.st_uid):
        raise UserError(
            f"{path}: belongs to {_name(found.st_uid)}, whose folder this is not; {_remove(found)}, or close "
            f"{path.parent} to others (chmod o-w)"
        )


def _refusal(path: Path, error: OSError) -> UserError:
    """What is in the way, and what it takes to get on."""
    place = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    if error.errno in _ODD:
        return UserError(_in_the_way(place, place.lstat()))
    if error.errno not in _DENIED:
        return UserError(f"{path}: cannot be opened: {error.strerror}")
    owner, me = _name(place.lstat().st_uid), _name(os.geteuid())
    share = f"or have {owner} share it with a group (docs/security.md)" if owner != me else "or `chmod u+w` it"
    return UserError(
        f"{path}: {error.strerror}: {place} belongs to {owner}, and {me} may not write there; take a results folder of "
        f"your own (--config results=FOLDER, --results FOLDER), {share}"
    )


def _in_the_way(path: Path, found: os.stat_result) -> str:
    return f"{path}: is {_kind(found)}, which is in the way of qtuning's locks; {_remove(found)}"


def _kind(found: os.stat_result) -> str:
    """What a file is, by `lstat`."""
    mode = found.st_mode
    if stat.S_ISREG(mode):
        return "a file" if found.st_nlink < 2 else f"a file with {found.st_nlink} names"
    kinds = {stat.S_ISLNK: "a symbolic link", stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe"}
    return next((kind for is_so, kind in kinds.items() if is_so(mode)), "no plain file")


def _remove(found: os.stat_result) -> str:
    return "remove it" if found.st_uid == os.geteuid() else f"have {_name(found.st_uid)} remove it"


def _name(user: int) -> str:
    """The name of a user, or the number of one without."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
