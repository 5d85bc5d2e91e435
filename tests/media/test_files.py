# SPDX-License-Identifier: Apache-2.0
import os

import pytest
from intarsia.media import atomic_file, check_writable


def test_file_appears_whole(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_file(path) as file:
        file.write(b"x" * 1000)
        assert not path.exists()
    assert path.read_bytes() == b"x" * 1000
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_file(path) as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_full_disk_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="too large"), atomic_file(tmp_path / "a.bin") as file:
            file.write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


def test_symbolic_link_survives(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.bin").write_bytes(b"old")
    link = tmp_path / "link.bin"
    link.symlink_to(tmp_path / "real" / "a.bin")
    check_writable(link)
    with atomic_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert (tmp_path / "real" / "a.bin").read_bytes() == b"new"


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a.bin"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


def test_check_leaves_the_folder_as_it_was(tmp_path):
    check_writable(tmp_path / "a.bin")
    assert os.listdir(tmp_path) == []


def test_name_that_is_not_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.bin")
    with atomic_file(path) as file:
        file.write(b"x")
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9.bin"]


@pytest.mark.parametrize("check", [check_writable, lambda path: atomic_file(path).__enter__()])
def test_places_that_cannot_be_written(tmp_path, check):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="absent"):
        check(tmp_path / "absent" / "a.bin")
    with pytest.raises(NotADirectoryError, match="file"):
        check(tmp_path / "file" / "a.bin")
    with pytest.raises(IsADirectoryError):
        check(tmp_path)
    with pytest.raises(OSError, match="Not a regular file"):
        check("/dev/null")
    with pytest.raises(OSError, match="too long"):
        check(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_file_is_respected(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"precious")
    path.chmod(0o444)
    with pytest.raises(PermissionError):
        check_writable(path)
