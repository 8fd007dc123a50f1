from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uid2_async.bulk.private_files import (
    Disk,
    attempt,
    check_folder,
    make_private_folder,
    open_private,
    reopen_private,
    replace,
    sync_file,
    sync_folder,
    write_all,
)
from uid2_async.errors import JobError

NOBODY = 65534


def mode_of(path: Path) -> int:
    """Give the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777], ids=oct)
def test_a_file_is_private_whatever_the_umask(
    tmp_path: Path, umask: Callable[[int], Any], mask: int
) -> None:
    """F14: a new file has mode 0600."""
    umask(mask)

    os.close(open_private(tmp_path / "file"))

    assert mode_of(tmp_path / "file") == 0o600


def test_a_file_is_gone_on_with_behind_what_was_saved(tmp_path: Path) -> None:
    """What was written after that is written again."""
    path = tmp_path / "file"
    path.write_bytes(b"saved, and then not")

    descriptor = reopen_private(path, 5)
    os.write(descriptor, b"!")
    os.close(descriptor)

    assert path.read_bytes() == b"saved!"
    assert mode_of(path) == 0o600


def test_a_file_that_has_lost_something_is_refused(tmp_path: Path) -> None:
    """To go on would leave a hole of NUL bytes where rows have been."""
    path = tmp_path / "file"
    path.write_bytes(b"save")

    with pytest.raises(JobError, match="shorter than what was saved"):
        reopen_private(path, 5)

    assert path.read_bytes() == b"save"


def test_a_folder_is_private_whatever_the_umask(
    tmp_path: Path, umask: Callable[[int], Any]
) -> None:
    """F14: a new folder has mode 0700."""
    umask(0)

    make_private_folder(tmp_path / "folder")

    assert mode_of(tmp_path / "folder") == 0o700


def test_a_folder_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    """Nobody else's folder is taken for a new one."""
    with pytest.raises(JobError, match="cannot be made: File exists"):
        make_private_folder(tmp_path)


def test_a_file_that_was_open_to_others_becomes_private(tmp_path: Path) -> None:
    """A file that is opened again is private from then on, and as it was."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)

    descriptor = open_private(path, exclusive=False)

    assert os.read(descriptor, 9) == b"old"
    os.close(descriptor)

    assert mode_of(path) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_file_of_another_user_is_refused(unprivileged: None) -> None:
    """What cannot be made private is not written to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        os.seteuid(0)
        path.touch()
        path.chmod(0o666)
        os.seteuid(NOBODY)

        with pytest.raises(JobError, match="cannot be opened: Operation not permitted"):
            open_private(path, exclusive=False)


def test_a_new_file_must_be_new(tmp_path: Path) -> None:
    """Nothing is written into a file that another user has put there."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    with pytest.raises(JobError, match="cannot be opened: File exists"):
        open_private(path)

    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_link_is_not_followed(tmp_path: Path, *, exclusive: bool) -> None:
    """F7: a symbolic link leads nowhere, dangling or not."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(JobError, match="cannot be opened"):
        open_private(tmp_path / "link", exclusive=exclusive)

    assert not (tmp_path / "elsewhere").exists()


def test_only_a_file_is_opened(tmp_path: Path) -> None:
    """F7: a folder or a pipe in its place is refused, and not waited for."""
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(JobError, match="it is not a file"):
        open_private(tmp_path / "pipe", exclusive=False)
    with pytest.raises(JobError, match="Is a directory"):
        open_private(tmp_path, exclusive=False)


def test_a_descriptor_is_not_inherited(tmp_path: Path) -> None:
    """A program that is started meanwhile gets no hold of the file."""
    descriptor = open_private(tmp_path / "file")

    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_appended_bytes_go_to_the_end(tmp_path: Path) -> None:
    """With append, the place in the file does not matter."""
    (tmp_path / "file").write_bytes(b"old")
    descriptor = open_private(tmp_path / "file", exclusive=False, append=True)

    write_all(descriptor, b"new", "It")

    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"oldnew"


@pytest.mark.parametrize(
    ("mode", "words"),
    [(0o777, "other users"), (0o1777, ""), (0o755, "")],
)
def test_others_must_not_be_able_to_replace_files(
    tmp_path: Path, mode: int, words: str
) -> None:
    """A folder that others can write to is refused, unless it is sticky."""
    tmp_path.chmod(mode)

    if not words:
        check_folder(tmp_path)
        return
    with pytest.raises(JobError, match=words) as caught:
        check_folder(tmp_path)
    assert "chmod go-w" in caught.value.hint
    check_folder(tmp_path, allow_shared=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_private_group_has_no_others(tmp_path: Path) -> None:
    """Umask 002 makes folders of 0775; who is alone in the group has no others."""
    tmp_path.chmod(0o775)
    os.chown(tmp_path, 0, 0)
    owner, group = pwd.getpwuid(0), grp.getgrgid(0)
    is_alone = (owner.pw_name, group.gr_mem) == (group.gr_name, []) and not [
        user for user in pwd.getpwall() if user.pw_gid == 0 and user.pw_uid != 0
    ]
    if is_alone:
        check_folder(tmp_path)
    for uid, gid in ((0, NOBODY), (0, 123_456), (123_456, 0)):
        os.chown(tmp_path, uid, gid)
        with pytest.raises(JobError, match="other users"):
            check_folder(tmp_path)
        check_folder(tmp_path, allow_shared=True)


def test_a_folder_must_be_there(tmp_path: Path) -> None:
    """F7: what is missing, or no folder, is refused."""
    (tmp_path / "file").touch()

    with pytest.raises(JobError, match="No such file"):
        check_folder(tmp_path / "missing")
    with pytest.raises(JobError, match="it is not a folder"):
        check_folder(tmp_path / "file")


def test_a_folder_must_be_writable(unprivileged: None) -> None:
    """F7: a folder in which nothing can be written is refused at once."""
    with pytest.raises(JobError, match="cannot be written to"):
        check_folder(Path("/"))


def test_short_writes_are_gone_on_with(tmp_path: Path) -> None:
    """A disk that takes one byte at a time gets them all."""
    disk = Disk(write=lambda descriptor, data: os.write(descriptor, data[:1]))
    descriptor = open_private(tmp_path / "file")

    write_all(descriptor, b"abc", "It", disk=disk)

    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"abc"


def test_a_full_disk_is_told_by_name(tmp_path: Path, failing: Any) -> None:
    """F5: the message names the file, and the hint says that nothing is lost."""
    descriptor = open_private(tmp_path / "file")

    message = r"The output cannot be written: No space left on device\."
    with pytest.raises(JobError, match=message) as caught:
        write_all(descriptor, b"abc", "The output", disk=failing(0).disk())

    os.close(descriptor)
    assert "Free disk space" in caught.value.hint


def test_a_failed_sync_is_an_error(tmp_path: Path) -> None:
    """F6: EIO is never taken for saved."""

    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, "made up")

    descriptor = open_private(tmp_path / "file")
    message = r"cannot be saved: Input/output error\."
    with pytest.raises(JobError, match=message) as caught:
        sync_file(descriptor, "It", disk=Disk(fsync=fsync))
    with pytest.raises(JobError, match=message):
        sync_folder(tmp_path, disk=Disk(fsync=fsync))

    os.close(descriptor)
    assert "Check the disk" in caught.value.hint


def test_a_file_system_without_folder_sync_will_do(tmp_path: Path) -> None:
    """Some know no sync of a folder, and say so."""

    def fsync(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "invalid")

    sync_folder(tmp_path, disk=Disk(fsync=fsync))


def test_a_file_is_saved_before_and_after_it_is_renamed(
    tmp_path: Path, failing: Any
) -> None:
    """The content is on the disk before the name is, and then the name."""
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")
    disk = failing()

    replace(tmp_path / "new", tmp_path / "target", disk=disk.disk())

    assert disk.calls == ["fsync", "replace", "fsync"]
    assert (tmp_path / "target").read_bytes() == b"new"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("call", [0, 1], ids=["save", "rename"])
def test_a_target_is_old_until_it_is_new(
    tmp_path: Path, failing: Any, call: int
) -> None:
    """F5, F6: where the save or the rename fails, both files are as they were."""
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")

    with pytest.raises(JobError, match="target"):
        replace(tmp_path / "new", tmp_path / "target", disk=failing(call).disk())

    assert (tmp_path / "target").read_bytes() == b"old"
    assert (tmp_path / "new").read_bytes() == b"new"


def test_the_error_of_the_system_is_left_behind() -> None:
    """Ours has neither cause nor context."""
    with pytest.raises(JobError) as caught:
        attempt("No", os.stat, "/missing/person@example.com")

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "person" not in "".join(traceback.format_exception_only(caught.value))
