import json
import os
import re
import sys
from types import SimpleNamespace

from d2lcls.machine import compat, devices, doctor
from d2lcls.machine.devices import Gpu

import pytest
import requests

T4, H100 = Gpu("Tesla T4", (7, 5)), Gpu("NVIDIA H100 PCIe", (9, 0))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make distributions that exist only as the folders an installer would have left."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    def make(name, version, requires=(), extras=()):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        folder.joinpath("METADATA").write_text("\n".join(lines) + "\n")

    return make


def only(findings, status, *parts):
    """Check that there is one finding, its status, these parts of its text, and that trouble has a remedy."""
    (finding,) = findings
    assert finding.status == status, finding
    for part in parts:
        assert part in finding.message + "\n" + finding.remedy, finding
    assert bool(finding.remedy) == (status != "ok")
    return finding


@pytest.mark.parametrize(
    "version, status", [((3, 10), "problem"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "problem")]
)
def test_python(version, status):
    finding = only(doctor.python(version), status, f"3.{version[1]}")
    assert ("onnx" in finding.message) == (version == (3, 14))


def test_lock(install, tmp_path):
    path = tmp_path / "requirements.lock"
    only(doctor.lock(path), "ok", "without requirements.lock")
    path.write_text("""\
mxnet==1.9.1 \\
    --hash=sha256:0123456789abcdef
numpy==1.26.4 ; python_full_version < '3' \\
    --hash=sha256:0123456789abcdef
numpy==2.2.6 ; python_full_version >= '3' \\
    --hash=sha256:0123456789abcdef
onnx==1.18.0 \\
    --hash=sha256:0123456789abcdef
""")
    install("mxnet", "1.9.1")
    install("numpy", "2.2.6")
    only(
        doctor.lock(path),
        "note",
        "1 of 3",
        "onnx is missing (locked: 1.18.0)",
        f'--require-hashes --no-deps -r "{path}"',
    )
    install("onnx", "1.18.0")
    only(doctor.lock(path), "ok", "all 3 packages")


def test_lock_with_other_versions(install, tmp_path):
    path = tmp_path / "requirements.lock"
    path.write_text("".join(f"package{i}==2 \\\n    --hash=sha256:0\n" for i in range(11)) + "mxnet==1.9.1 \\\n")
    for i in range(11):
        install(f"package{i}", "1")
    install("mxnet-cu117", "1.9.1")
    finding = only(doctor.lock(path), "note", "11 of 11", "package0 1 (locked: 2), ", "package9 1 (locked: 2) ...")
    assert "package10" not in finding.message and "mxnet" not in finding.message


@pytest.mark.parametrize(
    "version, status",
    [
        ("1.22.4", "problem"),
        ("1.23.5", "ok"),
        ("1.26.4", "ok"),
        ("2.0.0rc1", "ok"),
        ("2.2.6", "ok"),
        ("2.3.0", "problem"),
        ("2.10.1", "problem"),
    ],
)
def test_numpy(version, status):
    only(doctor.numpy(version), status, version)


def test_system():
    only(doctor.system("Linux", "x86_64"), "ok", "x86-64")
    only(doctor.system("Linux", "aarch64"), "ok", "64-bit Arm")
    for name, machine in (("Darwin", "arm64"), ("Windows", "AMD64"), ("Linux", "riscv64")):
        only(doctor.system(name, machine), "problem", f"{name} on {machine}", "docker build -t d2lcls .")


@pytest.mark.parametrize(
    "files, environment, found",
    [
        ({}, {}, False),
        ({"proc/1/cgroup": "0::/init.scope\n"}, {}, False),
        ({".dockerenv": ""}, {}, True),
        ({"run/.containerenv": ""}, {}, True),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
        ({"proc/1/cgroup": "4:memory:/docker/0f3a\n0::/docker/0f3a\n"}, {}, True),
    ],
)
def test_container(tmp_path, files, environment, found):
    files["sys/fs/cgroup/memory.max"] = "max\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    only(doctor.container(tmp_path, environment), "ok", "GiB of memory" if found else "none")


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])  # cgroup 2 and 1
def test_container_with_little_memory(tmp_path, name):
    limit = tmp_path / "sys/fs/cgroup" / name
    limit.parent.mkdir(parents=True)
    (tmp_path / ".dockerenv").touch()
    limit.write_text(f"{2**30}\n")
    only(doctor.container(tmp_path, {}), "note", "one with 1.0 GiB of memory", "--memory=4g")
    limit.write_text(f"{2**63}\n")  # no limit, in cgroup 1
    only(doctor.container(tmp_path, {}), "ok", "GiB of memory")


def test_one_wheel(install):
    install("mxnet", "1.9.1")
    only(doctor.wheels(), "ok", "mxnet")


def test_two_wheels(install):
    install("mxnet", "1.9.1")
    install("mxnet-cu117", "1.9.1")
    only(doctor.wheels(), "problem", "mxnet and mxnet-cu117", "pip uninstall -y mxnet mxnet-cu117")


def test_mxnet_imports_here():
    only(doctor.mxnet(), "ok", "MXNet")


@pytest.mark.parametrize(
    "wheel, error, remedy",
    [
        (None, 'MXNet is not installed: pip install "d2lcls[cpu]"', 'pip install "d2lcls[cpu]"'),
        ("mxnet-cu117", "libcudnn.so.8: cannot open shared object file", 'pip install "d2lcls[cu118]"'),
        ("mxnet-cu117", "libcuda.so.1: cannot open shared object file", "pip uninstall -y mxnet-cu117"),
        ("mxnet", "undefined symbol: MXLoadLib", "pip uninstall -y mxnet"),
        ("mxnet", "libgomp.so.1: cannot open shared object file", "sudo apt-get install libgomp1 libquadmath0"),
    ],
)
def test_mxnet_does_not_import(install, monkeypatch, wheel, error, remedy):
    if wheel:
        install(wheel, "1.9.1")
    start = devices.start_child
    monkeypatch.setattr(devices, "start_child", lambda code: start(f"raise ImportError({error!r})"))
    only(doctor.mxnet(), "problem", error, remedy)


def test_import_order():
    only(doctor.import_order(False), "ok")
    only(doctor.import_order(True), "note", "mxnet was imported before d2lcls", "import d2lcls")


def test_cuda_libraries_do_not_matter_to_the_cpu_wheel(install):
    install("mxnet", "1.9.1")
    only(doctor.cuda_libraries(), "ok", "not needed")


def test_missing_cuda_libraries(install, monkeypatch):
    install("mxnet-cu117", "1.9.1")
    monkeypatch.setattr(compat, "unloadable", {"libcudnn.so.8": "libcudnn.so.8: file too short"})
    only(
        doctor.cuda_libraries(required=["libc.so.6", "libmissing.so.11", "libcudnn-not.so.8"]),
        "problem",
        "mxnet-cu117 cannot load libmissing.so.11, libcudnn-not.so.8",
        "file too short",
        "d2lcls[cu118]",
    )
    only(doctor.cuda_libraries(required=["libc.so.6"]), "ok", "all 1 load")


def test_missing_driver(monkeypatch):
    monkeypatch.setattr(doctor, "can_load", lambda library: library != "libcuda.so.1")
    only(doctor.cuda_libraries("mxnet-cu117"), "problem", "libcuda.so.1", "NVIDIA driver", 'd2lcls[cpu]"')


def test_gpu(monkeypatch):
    monkeypatch.setattr(devices, "gpu_failures", lambda: ("", ""))
    only(doctor.gpu([T4, T4], "mxnet-cu117"), "ok", "Tesla T4, compute capability 7.5")
    only(doctor.gpu([H100], "mxnet-cu117"), "problem", "newer than any MXNet wheel", "ONNX Runtime", "24.06")
    only(doctor.gpu([H100], "mxnet"), "note", "NVIDIA H100 PCIe has compute capability 9.0")
    only(doctor.gpu([T4], "mxnet"), "note", "Tesla T4 is not used", "pip uninstall -y mxnet", "d2lcls[cu118]")
    only(doctor.gpu([T4], "mxnet", "aarch64"), "note", "Tesla T4 is not used: MXNet has GPU wheels for x86-64 only")
    only(doctor.gpu([], "mxnet-cu117"), "problem", "reports no GPU", "d2lcls[cpu]")
    only(doctor.gpu([], "mxnet"), "ok", "CPU")


AVX512 = {"fpu", "avx", "avx2", "avx512f", "avx512bw"}


@pytest.mark.parametrize(
    "flags, limit, message",
    [
        ({"fpu"}, "", "MXNet uses SSE; slow int8 .no VNNI.; no bfloat16; TVM compiles for SSE"),
        ({"avx", "avx2"}, "", "MXNet uses AVX2; slow int8 .*; no bfloat16; TVM compiles for AVX2"),
        (
            {*AVX512, "avx512_vnni"},
            "",
            r"MXNet uses AVX-512; fast int8 \(VNNI\); no bfloat16; TVM compiles for AVX-512",
        ),
        ({*AVX512, "avx512_vnni", "avx512_bf16"}, "", "fast int8 .*; --precision auto may train faster in bfloat16"),
        (
            {*AVX512, "avx512_vnni", "avx512_bf16"},
            "AVX2",
            r"MXNet uses AVX2 \(up to DNNL_MAX_CPU_ISA=AVX2\); slow int8.*; "
            "no bfloat16; TVM compiles for AVX-512",
        ),
    ],
)
def test_instruction_sets(monkeypatch, flags, limit, message):
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    assert re.search(message, only(doctor.instruction_sets(flags, limit), "ok").message)


def test_instruction_sets_of_arm(monkeypatch):
    monkeypatch.setattr(doctor.platform, "machine", lambda: "aarch64")
    only(doctor.instruction_sets({"asimd"}, ""), "ok", "aarch64: slow int8, no bfloat16")


def test_gpu_whose_kernel_fails(monkeypatch):
    monkeypatch.setattr(devices, "gpu_failures", lambda: ("", "out of memory"))
    known, failed = doctor.gpu([T4, T4], "mxnet-cu117")
    only([known], "ok")
    only([failed], "problem", "an MXNet kernel failed: out of memory", "nvidia-smi")


def test_idle_gpu_is_seen_through_nvidia_smi(install, tmp_path, monkeypatch):
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'Tesla T4, 7.5'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    install("mxnet", "1.9.1")
    only(doctor.gpu(), "note", "Tesla T4 is not used")


def test_amx():
    only(doctor.amx("absent"), "ok", "none")
    only(doctor.amx("open"), "ok", "in use")
    only(doctor.amx("refused"), "note", "does not allow")
    only(doctor.amx("off"), "note", "unset DNNL_MAX_CPU_ISA")


@pytest.mark.parametrize(
    "cores, setting, status, part",
    [
        (8, "8", "ok", "8 on 8"),
        (8, "8,2", "ok", "8 on 8"),
        (4, "16", "note", "16 threads on 4 usable cores (OMP_NUM_THREADS=16): they wait"),
        (4, "1", "note", "1 threads on 4 usable cores (OMP_NUM_THREADS=1): the other cores are not used"),
        (4, "all", "note", "OMP_NUM_THREADS=all is not a number"),
        (4, "0", "note", "not a number"),
    ],
)
def test_threads(cores, setting, status, part):
    finding = only(doctor.threads(cores, setting), status, part)
    assert status == "ok" or finding.remedy == f"export OMP_NUM_THREADS={cores}"


def test_shared_memory(tmp_path, monkeypatch):
    for blocks, status in ((2**14, "note"), (2**18, "ok")):  # 64 MiB, as Docker gives, and 1 GiB
        monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_blocks=blocks, f_frsize=4096))
        only(doctor.shared_memory(tmp_path), status, "64 MiB" if status == "note" else "1 GiB")
    only(doctor.shared_memory(tmp_path / "none"), "ok", "no ")


def test_packages(install):
    assert [finding.status for finding in doctor.packages()] == ["ok"] * 2  # none is installed
    for name, version in (("onnx", "1.19.0"), ("jupyter-book", "2.0.1")):
        install(name, version)
    onnx, book = doctor.packages()
    only([onnx], "problem", "1.19.0", "exporter", "onnx==1.18.0")
    only([book], "problem", "2.0.1", "_config.yml", "jupyter-book==1.0.4.post1")


def test_packages_that_work(install):
    for name, version in (("onnx", "1.18.0"), ("jupyter-book", "1.0.4.post1")):
        install(name, version)
    assert [(finding.status, finding.message) for finding in doctor.packages()] == [
        ("ok", "1.18.0"),
        ("ok", "1.0.4.post1"),
    ]


def test_extras(install):
    install(
        "d2lcls",
        "0.1.0",
        [
            "numpy<2,>=1.23",
            'mxnet==1.9.1; extra == "cpu"',
            'mxnet-cu117==1.9.1; extra == "cu118"',
            'nvidia-cudnn-cu11<9; extra == "cu118"',
            'jupyterlab>=4; extra == "book"',
            'nbclient[x]; extra == "book"',
            'tomli; python_version < "3.11" and extra == "book"',
            'tomli-w; python_version >= "3.11"',
            "pytest>=8 ; extra == 'test'",
        ],
        ["cpu", "cu118", "book", "test"],
    )
    for name in ("mxnet", "jupyterlab"):
        install(name, "1.9.1")
    cpu, cu118, book, test = doctor.extras()
    only([cpu], "ok", "installed")
    only([cu118], "ok", "not installed, as mxnet is")
    only([book], "note", "lacks nbclient\n", 'pip install "d2lcls[book]"')
    only([test], "note", "lacks pytest\n", 'pip install "d2lcls[test]"')


def test_extras_without_any_mxnet(install):
    install("d2lcls", "0.1.0", ['mxnet==1.9.1; extra == "cpu"'], ["cpu"])
    only(doctor.extras(), "note", "lacks mxnet\n", 'pip install "d2lcls[cpu]"')


def test_extras_of_a_checkout(install):
    only(doctor.extras(), "note", "not installed", "pip install -e")


def test_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("D2LCLS_HOME", str(tmp_path / "new" / "folder"))
    for free, status, room in ((10 * doctor.GIB, "ok", "10 GiB"), (100 * 2**20, "problem", "100 MiB")):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
        only(doctor.cache(), status, str(tmp_path / "new" / "folder"), room)
    assert not (tmp_path / "new").exists()  # looking leaves nothing behind


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        only(doctor.cache(folder), "problem", "cannot be written", "export D2LCLS_HOME=")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root may write anywhere
    only(doctor.cache(tmp_path), "problem", "cannot be written")


@pytest.fixture
def network(monkeypatch):
    """A network in which every host answers, with an error page, except those named "gone...."."""

    def head(address, timeout):
        if "//gone." in address:
            raise requests.ConnectTimeout(address)
        return SimpleNamespace(status_code=403)

    monkeypatch.delenv("D2LCLS_OFFLINE", raising=False)
    monkeypatch.setattr(requests, "head", head)


def test_data_hosts(network, monkeypatch):
    hosts = {"there.example", "gone.example"}
    only(doctor.data_hosts(hosts), "note", "no answer from gone.example:", "HTTPS_PROXY")
    only(doctor.data_hosts(["there.example"]), "ok", "1 of 1 answer")
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")
    only(doctor.data_hosts(hosts), "ok", "not checked")


def test_examine_makes_every_check(monkeypatch, network):
    """All checks run on this machine, and one that cannot be made does not hide the others."""
    monkeypatch.setattr(doctor, "mxnet", lambda: [doctor.Finding("import mxnet", "ok", "skipped")])

    def amx():
        raise OSError("no /proc")

    monkeypatch.setattr(doctor, "amx", amx)
    findings = doctor.examine()
    names = [finding.name for finding in findings]
    assert {
        "system",
        "container",
        "Python",
        "lock",
        "numpy",
        "MXNet wheels",
        "import mxnet",
        "import order",
        "CUDA libraries",
        "GPU",
        "threads",
        "shared memory",
        "onnx",
        "jupyter-book",
        "data cache",
        "data hosts",
    } <= set(names)
    only([findings[names.index("amx")]], "problem", "could not be checked: OSError('no /proc')")
    assert all(finding.remedy for finding in findings if finding.status != "ok")


def test_report_and_json():
    findings = [doctor.Finding("GPU", "ok", "none"), doctor.Finding("numpy", "problem", "too old", "first\nsecond")]
    assert (
        doctor.report(findings)
        == """\
ok       GPU    none
problem  numpy  too old
                first
                second

problems: 1, notes: 0, ok: 1"""
    )
    assert json.loads(doctor.as_json(findings))[1] == {
        "name": "numpy",
        "status": "problem",
        "message": "too old",
        "remedy": "first\nsecond",
    }


def test_remedies_can_be_pasted_where_the_doctor_stands(tmp_path):
    remedy = 'pip uninstall -y mxnet\npip install "d2lcls[cpu]"'
    assert doctor._for_this_python(remedy, tmp_path) == (
        f'{sys.executable} -m pip uninstall -y mxnet\n{sys.executable} -m pip install "d2lcls[cpu]"'
    )
    (tmp_path / "pyproject.toml").touch()
    assert doctor._for_this_python(remedy, tmp_path).endswith(f' -m pip install "{tmp_path}[cpu]"')


def test_compiler(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    only(doctor.compiler(), "note", "g++ is not installed", "sudo apt install g++")
    monkeypatch.setenv("CXX", "clang++")
    only(doctor.compiler(), "note", "clang++ is not installed", "sudo apt install g++")
    (tmp_path / "clang++").touch(0o755)
    only(doctor.compiler(), "ok", str(tmp_path / "clang++"))
