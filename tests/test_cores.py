import os

import pytest

from d2lcls.cores import usable_cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Eight processors, two to a core, in a container with these files of its control group."""
    def build(files=None, siblings=True, processors=8):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(processors)), raising=False)
        for number in range(8 if siblings else 0):
            folder = tmp_path / f"topology/cpu{number}/topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
        for name, text in (files or {}).items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return usable_cores(tmp_path / "topology", tmp_path / "groups")
    return build


def test_hardware_threads_of_a_core_count_once(machine):
    assert machine() == 4


def test_without_a_topology_each_processor_is_a_core(machine):
    assert machine(siblings=False) == 8


def test_affinity_limits(machine):
    assert machine(processors=2) == 2


@pytest.mark.parametrize("files, cores", [
    ({"cpu.max": "150000 100000\n"}, 2), ({"cpu.max": "max 100000\n"}, 4), ({"cpu.max": "1600000 100000\n"}, 4),
    ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4)])
def test_quota_limits(machine, files, cores):
    assert machine(files) == cores
