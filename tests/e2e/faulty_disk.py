"""A relay whose disk can be made to fail while it runs: `python -m tests.e2e.faulty_disk serve ...`.

It puts itself between SQLite and its file system, as SQLite allows for (sqlite3_vfs), before anything else runs: each write and
each sync first asks the file that FAULT_FILE names which fault there is now. So the real server runs on a real file, and needs
no compiler, no privilege and no file system of its own. Kept alive by the module: what SQLite points to.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
import sys
from pathlib import Path
from typing import Any

FAULT_FILE = "RELAY_TEST_FAULT_FILE"

FAULTS = {
    "full": ("xWrite", 13),  # SQLITE_FULL
    "readonly": ("xWrite", 8),  # SQLITE_READONLY
    "sync": ("xSync", 10 | 4 << 8),  # SQLITE_IOERR_FSYNC
}
"""What fails, and with which of SQLite's codes."""

_METHODS = (
    "xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize", "xLock", "xUnlock", "xCheckReservedLock", "xFileControl",
    "xSectorSize", "xDeviceCharacteristics", "xShmMap", "xShmLock", "xShmBarrier", "xShmUnmap", "xFetch", "xUnfetch",
)  # fmt: skip
_OPERATIONS = (
    "xOpen", "xDelete", "xAccess", "xFullPathname", "xDlOpen", "xDlError", "xDlSym", "xDlClose", "xRandomness", "xSleep",
    "xCurrentTime", "xGetLastError", "xCurrentTimeInt64", "xSetSystemCall", "xGetSystemCall", "xNextSystemCall",
)  # fmt: skip


class _IoMethods(ctypes.Structure):
    _fields_ = [("iVersion", ctypes.c_int), *((name, ctypes.c_void_p) for name in _METHODS)]


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", ctypes.c_void_p),
        ("zName", ctypes.c_char_p),
        ("pAppData", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in _OPERATIONS),
    ]


_Open = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_Write = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)

_kept: list[Any] = []
_tables: dict[int, _IoMethods] = {}


def _fault(method: str) -> int:
    """The code that a method fails with now, 0 if it does not."""
    name = Path(os.environ[FAULT_FILE]).read_text().strip()
    if not name:
        return 0
    failing, code = FAULTS[name]
    return code if failing == method else 0


def _faulty(original: _IoMethods) -> _IoMethods:
    """The methods of a file, of which some can fail."""
    write, sync = _Write(original.xWrite), _Sync(original.xSync)

    def x_write(file: int, data: int, size: int, offset: int) -> int:
        return _fault("xWrite") or int(write(file, data, size, offset))

    def x_sync(file: int, flags: int) -> int:
        # What a disk did before it said that it failed is done all the same.
        return _fault("xSync") or int(sync(file, flags))

    table = _IoMethods.from_buffer_copy(original)
    table.xWrite = _pointer(_Write(x_write))
    table.xSync = _pointer(_Sync(x_sync))
    return table


def _pointer(function: Any) -> int | None:
    _kept.append(function)
    return ctypes.cast(function, ctypes.c_void_p).value


def install() -> None:
    """Have every database that this process opens from now on use the disk that can fail."""
    # Finds what the module is linked with; in some builds it is part of the interpreter.
    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    original = library.sqlite3_vfs_find(None)
    open_ = _Open(original.contents.xOpen)

    def x_open(_vfs: int, name: int, file: int, flags: int, out_flags: int) -> int:
        code = int(open_(ctypes.addressof(original.contents), name, file, flags, out_flags))
        methods = ctypes.cast(file, ctypes.POINTER(ctypes.c_void_p))
        address = methods[0]
        if address:
            if address not in _tables:
                _tables[address] = _faulty(_IoMethods.from_address(address))
            methods[0] = ctypes.addressof(_tables[address])
        return code

    vfs = _Vfs.from_buffer_copy(original.contents)
    vfs.zName = b"faulty"
    vfs.xOpen = _pointer(_Open(x_open))
    _kept.append(vfs)
    assert library.sqlite3_vfs_register(ctypes.byref(vfs), 1) == 0


if __name__ == "__main__":
    install()
    from relay.cli.main import main

    sys.argv[0] = "relay"
    main()
