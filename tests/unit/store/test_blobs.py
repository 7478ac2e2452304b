from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import blake3
import pytest

from hedgerow.errors import ConfigError, InvalidArgument, LimitReached
from hedgerow.store.blobs import ArrivingBlob, BlobFolder

NAME = "blob00000001"


@pytest.fixture
def folder(tmp_path: Path) -> BlobFolder:
    return BlobFolder(tmp_path / "blobs", reserve_bytes=0)


def digest(data: bytes) -> str:
    return blake3.blake3(data).hexdigest()


def test_pieces_become_one_file_with_its_digest(folder: BlobFolder) -> None:
    blob = ArrivingBlob(folder, NAME, 6)
    blob.open()
    blob.append([b"ab", b"", b"c"])
    assert (blob.offset, blob.complete) == (3, False)
    blob.append([b"def"])
    blob.close()
    assert (blob.complete, blob.digest()) == (True, digest(b"abcdef"))
    assert folder.file(NAME).read_bytes() == b"abcdef"


def test_blob_is_continued_in_this_process_and_in_the_next(folder: BlobFolder) -> None:
    blob = ArrivingBlob(folder, NAME, 6)
    blob.open()
    blob.append([b"ab"])
    blob.close()
    blob.open()
    blob.append([b"cd"])
    blob.close()
    after_restart = ArrivingBlob(folder, NAME, 6)
    after_restart.open()
    assert after_restart.offset == 4
    after_restart.append([b"ef"])
    after_restart.close()
    assert after_restart.digest() == digest(b"abcdef")


def test_file_that_changed_while_closed_is_hashed_again(folder: BlobFolder) -> None:
    blob = ArrivingBlob(folder, NAME, 6)
    blob.open()
    blob.append([b"abcd"])
    blob.close()
    os.truncate(folder.file(NAME), 2)
    blob.open()
    assert blob.offset == 2
    blob.append([b"xxxx"])
    blob.close()
    assert blob.digest() == digest(b"abxxxx")


def test_file_longer_than_the_blob_starts_again(folder: BlobFolder) -> None:
    folder.file(NAME).write_bytes(b"too long")
    blob = ArrivingBlob(folder, NAME, 3)
    blob.open()
    assert blob.offset == 0
    blob.append([b"abc"])
    blob.close()
    assert blob.digest() == digest(b"abc")
    assert folder.file(NAME).read_bytes() == b"abc"


def test_bytes_beyond_the_size_are_refused_and_nothing_of_them_is_kept(folder: BlobFolder) -> None:
    blob = ArrivingBlob(folder, NAME, 3)
    blob.open()
    blob.append([b"ab"])
    with pytest.raises(InvalidArgument, match="3 bytes"):
        blob.append([b"c", b"d"])
    assert blob.offset == 2
    blob.close()
    assert folder.file(NAME).read_bytes() == b"ab"


def test_empty_blob_is_complete_at_once(folder: BlobFolder) -> None:
    blob = ArrivingBlob(folder, NAME, 0)
    blob.open()
    blob.close()
    assert (blob.complete, blob.digest(), folder.file(NAME).exists()) == (True, digest(b""), True)


def test_append_to_a_closed_blob_is_a_mistake(folder: BlobFolder) -> None:
    with pytest.raises(ValueError, match="not open"):
        ArrivingBlob(folder, NAME, 1).append([b"x"])


def test_no_space_for_the_rest_is_refused_before_the_first_byte(folder: BlobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlobFolder, "free_bytes", lambda self: 10)
    with pytest.raises(LimitReached, match="disk is full"):
        ArrivingBlob(folder, NAME, 11).open()
    assert not folder.file(NAME).exists()
    folder.file(NAME).write_bytes(b"abc")
    ArrivingBlob(folder, NAME, 13).open()


def test_disk_that_fills_up_keeps_what_was_appended_before(folder: BlobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Filling(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 6:
                super().write(data[: 6 - self.tell()])
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    blob = ArrivingBlob(folder, NAME, 10)
    with monkeypatch.context() as patch:
        patch.setattr("hedgerow.store.blobs.io.FileIO", Filling)
        blob.open()
    blob.append([b"abcd"])
    with pytest.raises(LimitReached, match="stopped at byte 4 of 10"):
        blob.append([b"efghij"])
    blob.close()
    assert folder.file(NAME).read_bytes() == b"abcd"
    blob.open()  # there is space again
    blob.append([b"efghij"])
    blob.close()
    assert blob.digest() == digest(b"abcdefghij")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a b", "é", "x" * 65, "\0"])
def test_name_that_is_no_id_is_refused(folder: BlobFolder, name: str) -> None:
    for call in (folder.file, folder.size, folder.delete):
        with pytest.raises(InvalidArgument):
            call(name)


def test_reserve_is_kept_free(folder: BlobFolder, tmp_path: Path) -> None:
    free = folder.free_bytes()
    assert 0 < BlobFolder(tmp_path / "blobs", reserve_bytes=free // 2).free_bytes() < free
    assert BlobFolder(tmp_path / "blobs", reserve_bytes=1 << 62).free_bytes() == 0


def test_deleting_twice_is_the_same_as_once(folder: BlobFolder) -> None:
    folder.file(NAME).write_bytes(b"x")
    folder.delete(NAME)
    folder.delete(NAME)
    assert folder.size(NAME) == 0


def test_orphans_are_files_without_a_row_that_are_old_enough(folder: BlobFolder) -> None:
    for name, age in (("live0000", 100), ("old00000", 100), ("new00000", 0)):
        folder.file(name).write_bytes(b"x")
        os.utime(folder.file(name), (1_000_000 - age, 1_000_000 - age))
    (folder.path / "folder00").mkdir()
    (folder.path / "not-ours.txt").write_text("kept")
    os.utime(folder.path / "not-ours.txt", (1, 1))
    assert folder.orphans({"live0000"}, older_than=999_950) == ["not-ours.txt", "old00000"]
    assert folder.delete_orphans({"live0000"}, older_than=999_950) == ["old00000"]
    assert folder.delete_orphans({"live0000"}) == ["new00000"]
    assert sorted(path.name for path in folder.path.iterdir()) == ["folder00", "live0000", "not-ours.txt"]


def test_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="blob folder"):
        BlobFolder(tmp_path / "file" / "blobs")
