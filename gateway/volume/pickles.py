"""Is this `.bin` whole, and would unpickling it stay within its size? Nothing is unpickled here.

torch writes a zip whose members are stored. Its directory is the last thing in the file, so every cut copy lacks
it; a member that is deflated, or sizes that add up to more than the file, is no file that torch wrote.
"""

from __future__ import annotations

import errno
import io
import os
import pickletools
import struct
import zipfile
from dataclasses import dataclass
from typing import IO, Final

from gateway.volume.files import Folder
from gateway.volume.reasons import unfit

END: Final = struct.Struct("<4s4H2LH")  # the end-of-central-directory record, APPNOTE.TXT 4.3.16
MAX_DIRECTORY: Final = 16 * 1024**2  # bytes of names and sizes; 200,000 tensors need less
MAX_PROGRAM: Final = 16 * 1024**2  # bytes of data.pkl, which holds names and shapes only
DTYPES: Final = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
}
BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
FAULTS: Final = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,  # an encrypted member
    ValueError,
    EOFError,
    LookupError,
    OverflowError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class Pickle:
    """`stored_bytes` of tensors. `dtype` is that of the first storage; numbers are counted by it."""

    stored_bytes: int
    dtype: str

    @property
    def parameters(self) -> int:
        return self.stored_bytes // BYTES[self.dtype]


def read_pickle(folder: Folder, name: str) -> Pickle:
    """Raises Unfit (weights_truncated, weights_invalid, pickle_legacy, and the reading ones)."""
    with folder.open(name) as descriptor, os.fdopen(os.dup(descriptor), "rb") as stream:
        size = os.fstat(descriptor).st_size
        _check_end(stream, size, name)
        try:
            with zipfile.ZipFile(stream) as archive:
                return _read_archive(archive, size, name)
        except (*FAULTS, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a place before the file's begin
                raise
            raise unfit("weights_invalid", f"{name} is not an archive that torch wrote", name) from error


def _check_end(stream: IO[bytes], size: int, name: str) -> None:
    if stream.read(4) != b"PK\x03\x04":
        if size < 4:
            raise unfit("weights_truncated", f"{name} has {size} bytes", name)
        raise unfit("pickle_legacy", f"{name} is a bare pickle, which torch wrote before 1.6", name)
    stream.seek(max(0, size - END.size))
    last = stream.read(END.size)
    if len(last) < END.size or not last.startswith(b"PK\x05\x06") or not last.endswith(b"\0\0"):
        raise unfit("weights_truncated", f"{name} ends before its directory ({size:,} bytes)", name)
    directory_bytes = END.unpack(last)[5]
    if directory_bytes > MAX_DIRECTORY:  # also what a 64-bit archive says, 0xFFFFFFFF: its true count is beside it
        directory_bytes = _large_directory(stream, size)
    if directory_bytes > MAX_DIRECTORY:
        raise unfit("weights_invalid", f"{name} has a directory of {directory_bytes:,} bytes", name)


def _large_directory(stream: IO[bytes], size: int) -> int:
    """Bytes of the directory as the 64-bit end record says, which stands before its locator and the old record."""
    stream.seek(max(0, size - END.size - 20 - 56))
    record = stream.read(56)
    if len(record) < 56 or not record.startswith(b"PK\x06\x06"):
        return 2**63
    return int.from_bytes(record[40:48], "little")


def _read_archive(archive: zipfile.ZipFile, size: int, name: str) -> Pickle:
    members = archive.infolist()
    if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members):
        raise unfit("weights_invalid", f"{name} has compressed members, which torch never writes", name)
    if sum(m.file_size for m in members) > size:
        raise unfit("weights_invalid", f"{name} has members that are larger than the file", name)
    programs = [m for m in members if m.filename.count("/") == 1 and m.filename.endswith("/data.pkl")]
    if len(programs) != 1 or programs[0].file_size > MAX_PROGRAM:
        raise unfit("weights_invalid", f"{name} has no data.pkl of a sensible size", name)
    tensors = programs[0].filename.removesuffix("data.pkl") + "data/"
    stored = sum(m.file_size for m in members if m.filename.startswith(tensors))
    return Pickle(stored, _first_dtype(archive.read(programs[0])))


def _first_dtype(program: bytes) -> str:
    for _, argument, _ in pickletools.genops(io.BytesIO(program)):  # reads the operations, and runs none
        if isinstance(argument, str):
            word = argument.rpartition(" ")[2]
            if word in DTYPES:
                return DTYPES[word]
    return "F32"
