"""Files that the system does not let a process read. They may be intact: such an error is no evidence of damage.

try:
    table = read(path)
except (pa.ArrowException, OSError, ValueError) as error:
    raise_if_unreadable(error, path)
    raise DamagedError(f"{path}: damaged, {error}: get this file again") from error
"""

import errno
import os

_UNREADABLE = {
    *(errno.EACCES, errno.EPERM),  # no permission
    *(errno.EIO, errno.EREMOTEIO),  # a disk that fails
    *(errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN),  # a network file system that fails
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),  # a limit of this process or machine
}


def raise_if_unreadable(error: BaseException, path: object) -> None:
    """Raise the `OSError` of a read that the system refused, with the file's name. Return for any other error.

    pyarrow raises an `OSError` without an errno for a damaged file, and names the file in the text alone.

    Args:
        error: the error of the read.
        path: names the file, or the folder, of an error without a name.
    """
    if isinstance(error, OSError) and error.errno in _UNREADABLE:
        raise OSError(error.errno, os.strerror(error.errno), error.filename or str(path)) from error
