from d2lcls.machine.memory import available_memory, check_memory

import psutil
import pytest


@pytest.mark.parametrize(
    "files, left",
    [
        ({}, None),
        ({"memory.max": "max\n", "memory.current": "5\n"}, None),
        ({"memory.max": "3000000\n", "memory.current": "1000000\n"}, 2_000_000),
        ({"memory/memory.limit_in_bytes": "3000000\n", "memory/memory.usage_in_bytes": "0\n"}, 3_000_000),
    ],
)
def test_a_container_has_what_its_limit_leaves(tmp_path, files, left):
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    available = available_memory(tmp_path)
    assert available == left if left else 0.5 < available / psutil.virtual_memory().available < 2


def test_what_cannot_fit_is_refused_in_one_sentence():
    check_memory(1e6, "A megabyte", "Buy some.")
    with pytest.raises(
        MemoryError,
        match=r"^The universe needs at least 1,000,000.0 GB of memory; [\d.,]+ GB are available. "
        "Use less.$",
    ):
        check_memory(1e15, "The universe", "Use less.")
