from __future__ import annotations

import gzip
import io
import tarfile

import numpy as np
import pytest

from sbmgraph.data import archive as module
from sbmgraph.data.archive import archive_files
from tests.data.damage import count_refusals, damaged

CONTENT = {f"folder/{k}.txt": np.random.default_rng(k).bytes(500 * k) for k in range(4)}
EVERYTHING = lambda name: True  # noqa: E731


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **options) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in options.items():
        setattr(info, key, value)
    return info


def packed(*more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, content in CONTENT.items():
            archive.addfile(member(name, len(content)), io.BytesIO(content))
        for info, content in more:
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.tar.gz"


def read(path, wanted=EVERYTHING, largest: int = 10_000) -> dict[str, bytes]:
    return dict(archive_files(path, wanted, largest))


def test_wanted_files(path):
    path.write_bytes(packed())
    assert read(path) == CONTENT
    names = ["folder/1.txt", "folder/3.txt"]
    assert list(read(path, lambda name: name in names)) == names


def test_every_damaged_archive_is_refused_or_undamaged(path):
    copies = damaged(packed((member("ä" * 150, 3), b"abc")), 1200)
    whole = {**CONTENT, "ä" * 150: b"abc"}
    refused, results = count_refusals(lambda: read(path), path.write_bytes, copies, str(path))
    assert refused > 1000
    assert all(result == whole for result in results)


def test_every_damaged_tar_with_a_right_checksum(path):
    """The tar inside is damaged before gzip sums it up: another content, or no other error."""
    content = gzip.decompress(packed((member("ä" * 150, 3), b"abc")))
    copies = (gzip.compress(copy, 1) for copy in damaged(content, 800))
    refused, results = count_refusals(lambda: read(path), path.write_bytes, copies, str(path))
    assert refused > 100
    for result in results:
        assert all(len(value) <= 10_000 for value in result.values())


@pytest.mark.parametrize("share", np.linspace(0, 0.999, 12))
def test_truncation(path, share):
    content = packed()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=rf"^{path}: expected a complete \.tar\.gz archive"):
        read(path)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (member("a", kind=tarfile.SYMTYPE, linkname="/etc/passwd"), "'a' to be a regular file"),
        (member("a", kind=tarfile.LNKTYPE, linkname="folder/1.txt"), "'a' to be a regular file"),
        (member("a", kind=tarfile.FIFOTYPE), "'a' to be a regular file, got another kind"),
        (member("a", kind=tarfile.CHRTYPE), "'a' to be a regular file, got another kind"),
        (member("a", kind=tarfile.DIRTYPE), "'a' to be a regular file, got another kind"),
        (member("folder/1.txt", 5), "'folder/1.txt' once, got it twice"),
        (member("a", 10_001), "'a' to have at most 10,000 bytes, got 10,001"),
        (
            member("a", pax_headers={"comment": "x" * 1_100_000}),
            "at most .* bytes of a header",
        ),
    ],
)
def test_what_is_refused(path, info, reason):
    path.write_bytes(packed((info, bytes(info.size))))
    with pytest.raises(ValueError, match=rf"^{path}: expected .*{reason}"):
        read(path)


def test_what_is_not_wanted_may_be_anything(path):
    link = member("link", kind=tarfile.SYMTYPE, linkname="/etc/passwd")
    path.write_bytes(packed((link, b""), (member("large", 20_000), bytes(20_000))))
    assert read(path, lambda name: name.startswith("folder")) == CONTENT


def test_an_archive_that_unpacks_without_end(path, monkeypatch):
    """A file that nobody wants is skipped, but not through gigabytes of it."""
    monkeypatch.setattr(module, "_LARGEST_ARCHIVE", 1 << 20)
    path.write_bytes(packed((member("zeros", 1 << 21), bytes(1 << 21))))
    with pytest.raises(ValueError, match=r"at most 1,048,576 bytes unpacked, got more"):
        read(path, lambda name: name.startswith("folder"))
    path.write_bytes(packed() + gzip.compress(bytes(1 << 21)))
    with pytest.raises(ValueError, match=r"at most 1,048,576 bytes unpacked, got more"):
        read(path)


def test_too_many_files(path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_FILES", 3)
    path.write_bytes(packed())
    with pytest.raises(ValueError, match=rf"^{path}: expected at most 3 files, got more"):
        read(path)
