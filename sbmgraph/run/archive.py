"""Whether a checkpoint's archive is whole, without reading what it holds."""

from __future__ import annotations

import zipfile
from pathlib import Path

_PLAIN_FLAGS = 0x0808  # sizes after the data, names in UTF-8: what torch's archives may set


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's archive, :obj:`None` if nothing.

    Compares every entry with its checksum and unpickles nothing. torch stores entries uncompressed,
    so none may be larger than the file, however large it claims to be.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ~_PLAIN_FLAGS:
                    return f"its entry {entry.filename!r} is not stored as torch stores entries"
            if sum(max(entry.file_size, entry.compress_size) for entry in entries) > size:
                return f"its entries claim more than its {size:,} bytes"
            if not any(entry.filename.endswith("/data.pkl") for entry in entries):
                return "it is not an archive that torch wrote"
            damaged = archive.testzip()
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    except Exception as error:  # damage in the archive's directory surfaces as almost anything
        return f"its archive is damaged ({error or type(error).__name__})"
    return None if damaged is None else f"its entry {damaged!r} differs from its checksum"
