import os

from d2lcls.machine.cores import cpu_flags, int8_saturates, onednn_flags, usable_cores

import pytest


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


@pytest.mark.parametrize(
    "files, cores",
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "1600000 100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_quota_limits(machine, files, cores):
    assert machine(files) == cores


def test_flags_are_those_of_the_first_processor(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu avx2\n")
    assert cpu_flags(info) == {"fpu", "avx2"}
    info.write_text("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n")  # 64-bit Arm
    assert cpu_flags(info) == {"fp", "asimd"}
    assert cpu_flags(tmp_path / "missing") == set()


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("sse2 avx2", True),
        ("sse2 avx512bw", True),
        ("sse2 avx512_vnni", False),
        ("sse2 avx_vnni", False),
        ("asimd asimddp", False),
        ("", False),
    ],
)
def test_int8_saturates_on_x86_without_vnni(flags, expected, monkeypatch):
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    assert int8_saturates(set(flags.split())) == expected
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    assert int8_saturates(set(flags.split())) == ("sse2" in flags)


@pytest.mark.parametrize(
    "limit, lost",
    [
        ("", {"amx_bf16"}),
        ("nonsense", {"amx_bf16"}),
        ("AVX512_CORE_AMX", set()),
        ("ALL", set()),
        ("AVX512_CORE_VNNI", {"amx_bf16", "avx512_bf16"}),
        ("AVX512_CORE", {"amx_bf16", "avx512_bf16", "avx512_vnni"}),
        ("AVX2", {"amx_bf16", "avx512_bf16", "avx512_vnni", "avx512bw"}),
        ("SSE41", {"amx_bf16", "avx512_bf16", "avx512_vnni", "avx512bw", "avx2"}),
    ],
)
def test_onednn_uses_what_the_limit_allows(limit, lost):
    flags = {"avx2", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_bf16"}
    assert onednn_flags({"fpu", *flags}, limit) == flags - lost
