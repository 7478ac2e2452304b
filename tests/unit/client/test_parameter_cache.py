"""The bounded folder of parameters."""

from __future__ import annotations

import os
from pathlib import Path

from hedgerow.client.parameter_cache import ParameterCache
from hedgerow.records import Blob


def fetch(cache: ParameterCache, digest: str, size: int = 10) -> None:
    with cache.pinned(Blob(digest, size)) as path:
        path.write_bytes(b"x" * size)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = ParameterCache(tmp_path, max_bytes=20)
    fetch(cache, "a")
    fetch(cache, "b")
    with cache.pinned(Blob("a", 10)):
        pass
    fetch(cache, "c")
    assert names(tmp_path) == {"a", "c"}


def test_their_number_is_bounded_too(tmp_path: Path) -> None:
    cache = ParameterCache(tmp_path, max_files=2)
    for name in "abc":
        fetch(cache, name)
    assert names(tmp_path) == {"b", "c"}


def test_what_is_in_use_stays_even_beyond_the_bound(tmp_path: Path) -> None:
    cache = ParameterCache(tmp_path, max_bytes=5)
    with cache.pinned(Blob("a", 10)) as a, cache.pinned(Blob("a", 10)):
        a.write_bytes(b"x" * 10)
        fetch(cache, "b")
        assert names(tmp_path) == {"a", "b"}, "b was used last"
    assert names(tmp_path) == {"a"}


def test_the_newest_stays_however_large_it_is_and_goes_before_the_next_one_comes(tmp_path: Path) -> None:
    cache = ParameterCache(tmp_path, max_bytes=5)
    fetch(cache, "a")
    assert names(tmp_path) == {"a"}, "an evaluation and the next training share it"
    with cache.pinned(Blob("a", 10)):
        pass
    assert names(tmp_path) == {"a"}
    with cache.pinned(Blob("b", 10)):
        assert names(tmp_path) == set(), "there is room for what is to come"


def test_a_file_of_another_size_is_not_the_blob(tmp_path: Path) -> None:
    cache = ParameterCache(tmp_path)
    fetch(cache, "a", size=10)
    assert cache.has(Blob("a", 10))
    assert not cache.has(Blob("a", 11))
    assert not cache.has(Blob("b", 10))


def test_files_from_before_are_used_and_bounded_by_age(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    cache = ParameterCache(tmp_path, max_bytes=20)
    assert names(tmp_path) == {"new", "middle"}
    assert cache.has(Blob("new", 10))


def test_the_part_of_a_running_download_stays(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * 10)
    cache = ParameterCache(tmp_path, max_bytes=12)
    with cache.pinned(Blob("a", 10)):
        fetch(cache, "b")
        assert "a.part" in names(tmp_path)
