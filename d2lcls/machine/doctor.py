"""Check this machine for what keeps MXNet or the book from running, and suggest remedies.

Each check returns a list of `Finding`. Its arguments are the facts that it judges; their defaults are those of this
machine.
"""

import dataclasses
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from d2lcls.machine import compat, devices
from d2lcls.machine.armpl import can_load
from d2lcls.machine.cores import cpu_flags, onednn_flags, usable_cores
from d2lcls.machine.files import cache_folder, check_writable, nearest_existing

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

GIB = 2**30
ROOT = Path(__file__).resolve().parents[2]  # in a checkout, its folder

# The libraries that libmxnet.so of the GPU wheels is linked against; the last one is part of the driver.
CUDA_LIBRARIES = (
    "libcudnn.so.8",
    "libcudart.so.11.0",
    "libcublas.so.11",
    "libcufft.so.10",
    "libcurand.so.10",
    "libcusolver.so.11",
    "libcusparse.so.11",
    "libnccl.so.2",
    "libnvrtc.so.11.2",
    "libnvToolsExt.so.1",
    "libcuda.so.1",
)

CONTAINER = (
    "docker build -t d2lcls .\n"
    "docker run --rm -it -p 8888:8888 --shm-size=2g -v d2lcls-data:/home/reader/.cache/d2lcls d2lcls"
)
_USE_CPU_WHEEL = 'pip uninstall -y {}\npip install "d2lcls[cpu]"'
_USE_GPU_WHEEL = 'pip uninstall -y {}\npip install "d2lcls[cu118]"'


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        status: "ok", "note" (it works, but could be better) or "problem" (something will fail).
        remedy: shell commands, or after a "#" what to do; "" for "ok".
    """

    name: str
    status: str
    message: str
    remedy: str = ""


def examine(hosts: Iterable[str] = ()) -> list[Finding]:
    """Run every check.

    Args:
        hosts: names of the hosts from which data sets can be downloaded.
    """
    findings = []
    for check in (
        system,
        container,
        python,
        lock,
        numpy,
        wheels,
        mxnet,
        import_order,
        cuda_libraries,
        gpu,
        amx,
        instruction_sets,
        threads,
        shared_memory,
        packages,
        extras,
        compiler,
        cache,
    ):
        findings += _findings_of(check)
    findings += _findings_of(data_hosts, hosts)
    return [dataclasses.replace(finding, remedy=_for_this_python(finding.remedy)) for finding in findings]


def _findings_of(check: Callable[..., list[Finding]], *arguments: Any) -> list[Finding]:
    try:
        return check(*arguments)
    except Exception as error:  # a check that fails must not hide the others
        name = check.__name__.replace("_", " ")
        return [_problem(name, f"could not be checked: {error!r}", "pip check")]


def _for_this_python(remedy: str, root: Path = ROOT) -> str:
    """Replace `pip` with this Python's pip and, in a checkout, the package's name with its folder."""
    remedy = re.sub(r"^pip ", f"{sys.executable} -m pip ", remedy, flags=re.M)
    return remedy.replace('"d2lcls[', f'"{root}[') if (root / "pyproject.toml").is_file() else remedy


def report(findings: Sequence[Finding]) -> str:
    """Return the findings as text, with each remedy indented below its finding."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<8} {finding.name:<{width}}  {finding.message}")
        lines += [f"{'':<{width + 11}}{line}" for line in finding.remedy.splitlines()]
    counts = [sum(finding.status == status for finding in findings) for status in ("problem", "note", "ok")]
    return "\n".join([*lines, "", "problems: {}, notes: {}, ok: {}".format(*counts)])


def as_json(findings: Iterable[Finding]) -> str:
    """Return the findings as a JSON list of objects with name, status, message and remedy."""
    return json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2)


def installed(name: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def system(name: str | None = None, machine: str | None = None) -> list[Finding]:
    """MXNet 1.9.1 has wheels for Linux on x86-64 and 64-bit Arm, and one for Intel Macs, which was not tested."""
    name, machine = name or platform.system(), machine or platform.machine()
    if (name, machine) == ("Linux", "x86_64"):
        return [_ok("system", "Linux on x86-64")]
    if (name, machine) == ("Linux", "aarch64"):
        return [_ok("system", "Linux on 64-bit Arm")]
    return [
        _problem(
            "system",
            f"{name} on {machine}: d2lcls runs on Linux on x86-64 and 64-bit Arm; use the container",
            f"# in the checkout, with Docker:\n{CONTAINER}",
        )
    ]


def container(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """A container may have less memory than its machine; a program that needs more is killed without a message."""
    import psutil

    if not (
        (root / ".dockerenv").exists()
        or (root / "run/.containerenv").exists()
        or "KUBERNETES_SERVICE_HOST" in environment
        or re.search(r"/(docker|kubepods|libpod|lxc)\b", _read(root / "proc/1/cgroup"))
    ):
        return [_ok("container", "none")]
    total = psutil.virtual_memory().total
    groups = root / "sys/fs/cgroup"
    text = (_read(groups / "memory.max") or _read(groups / "memory/memory.limit_in_bytes")).strip()
    limit = min(int(text), total) if text.isdigit() else total
    message = f"one with {limit / GIB:.1f} GiB of memory"
    if limit >= 2 * GIB:
        return [_ok("container", message)]
    return [
        _note(
            "container",
            f"{message}: training on CIFAR-10 needs about 1 GiB, and JupyterLab some more",
            "docker run --memory=4g ...  # in Docker Desktop: Settings, Resources",
        )
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def python(version: Sequence[Any] = sys.version_info) -> list[Finding]:
    """d2lcls and its lock are for Python 3.11 to 3.13.

    Python 3.14 has no numpy below 2.3, with which `mx.recordio` fails, and no onnx below 1.19, with which MXNet's
    exporter fails. For Python 3.10 there are no more security fixes, and no new versions of most packages.
    """
    text = f"Python {version[0]}.{version[1]}"
    if (3, 11) <= tuple(version[:2]) <= (3, 13):
        return [_ok("Python", text)]
    why = (
        ": numpy 2.2 and onnx 1.18, the newest versions that MXNet 1.9.1 fully supports, have no wheel for 3.14"
        if tuple(version[:2]) > (3, 13)
        else ""
    )
    return [_problem("Python", f"{text}: d2lcls runs on 3.11 to 3.13{why}", "conda create -n d2lcls python=3.11")]


def lock(path: Path = ROOT / "requirements.lock") -> list[Finding]:
    """In a checkout, the installed packages should be those of requirements.lock, with which the book is tested."""
    if not path.is_file():
        return [_ok("lock", "d2lcls was installed without requirements.lock")]
    # The other lines are hashes and comments.
    pins = [Requirement(line.rstrip(" \\")) for line in path.read_text().splitlines() if line[:1].isalnum()]
    pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    if _is_gpu(_wheel()):
        pins = [pin for pin in pins if pin.name != "mxnet"]  # the GPU wheel replaces it
    different = [
        f"{pin.name} {version or 'is missing'} (locked: {str(pin.specifier).removeprefix('==')})"
        for pin in pins
        if not _fits(version := installed(pin.name), pin.specifier)
    ]
    if not different:
        return [_ok("lock", f"all {len(pins)} packages of requirements.lock are installed")]
    first = ", ".join(different[:10]) + (" ..." if len(different) > 10 else "")
    return [
        _note(
            "lock",
            f"{len(different)} of {len(pins)} packages differ from requirements.lock: {first}",
            f'pip install --require-hashes --no-deps -r "{path}"',
        )
    ]


def numpy(version: str | None = None) -> list[Finding]:
    """The numpy versions that were tested are listed in `d2lcls.machine.compat`."""
    version = version or installed("numpy")
    if _fits(version, ">=1.23,<2.3"):
        return [_ok("numpy", f"numpy {version}")]
    return [_problem("numpy", f"numpy {version}: parts of MXNet 1.9.1 fail with it", 'pip install "numpy>=1.26,<2.3"')]


def wheels(names: Sequence[str] | None = None) -> list[Finding]:
    """The wheels mxnet and mxnet-cu... install the same module, so only one of them should be installed."""
    names = compat.mxnet_wheels() if names is None else names
    if len(names) < 2:
        return [_ok("MXNet wheels", names[0] if names else "none installed by pip")]
    return [
        _problem(
            "MXNet wheels",
            f"{' and '.join(names)} overwrite each other's files: keep one",
            _USE_CPU_WHEEL.format(" ".join(names)),
        )
    ]


def mxnet() -> list[Finding]:
    """Import mxnet in a child process, because a failing import can crash the process."""
    failure = devices.child_failure(devices.start_child("from d2lcls.machine import compat; compat.import_mxnet()"))
    wheel = _wheel()
    if not failure:
        return [_ok("import mxnet", f"works (MXNet {installed(wheel) if wheel else 'without a wheel'})")]
    remedy = 'pip install "d2lcls[cpu]"'
    if _is_gpu(wheel) and ".so" in failure and "libcuda.so.1" not in failure:
        remedy = 'pip install "d2lcls[cu118]"'
    elif "libgomp.so.1" in failure or "libquadmath.so.0" in failure:
        remedy = "sudo apt-get install libgomp1" + " libquadmath0" * (platform.machine() == "x86_64")
    elif wheel:
        remedy = _USE_CPU_WHEEL.format(wheel)
    return [_problem("import mxnet", f"fails: {failure}", remedy)]


def import_order(mxnet_came_first: bool | None = None) -> list[Finding]:
    """d2lcls prepares the import of mxnet, and so has to be imported first."""
    if compat.mxnet_came_first if mxnet_came_first is None else mxnet_came_first:
        return [
            _note(
                "import order",
                "mxnet was imported before d2lcls, which could not prepare it",
                "import d2lcls  # above `import mxnet`; then restart Python",
            )
        ]
    return [_ok("import order", "d2lcls came before mxnet")]


def cuda_libraries(wheel: str | None = None, required: Sequence[str] = CUDA_LIBRARIES) -> list[Finding]:
    """The GPU wheels contain no CUDA libraries: they come from the ``nvidia-*-cu11`` wheels or a CUDA 11."""
    wheel = wheel or _wheel()
    if not _is_gpu(wheel):
        return [_ok("CUDA libraries", "not needed without a GPU wheel of MXNet")]
    missing = [library for library in required if not can_load(library)]
    if not missing:
        return [_ok("CUDA libraries", f"all {len(required)} load")]
    remedy = 'pip install "d2lcls[cu118]"'
    if missing == ["libcuda.so.1"]:  # it is part of the driver
        remedy = f"# install the NVIDIA driver, or use the CPU:\n{_USE_CPU_WHEEL.format(wheel)}"
    errors = "".join(f"; {error}" for error in compat.unloadable.values())
    return [_problem("CUDA libraries", f"{wheel} cannot load {', '.join(missing)}{errors}", remedy)]


def gpu(
    gpus: Sequence[devices.Gpu] | None = None, wheel: str | None = None, machine: str | None = None
) -> list[Finding]:
    """A GPU needs a GPU wheel with machine code for it, and then has to run a kernel."""
    gpus = devices.installed_gpus() if gpus is None else gpus
    wheel = wheel or _wheel()
    if not gpus and _is_gpu(wheel):
        return [_problem("GPU", f"{wheel} is installed, but nvidia-smi reports no GPU", _USE_CPU_WHEEL.format(wheel))]
    if not gpus:
        return [_ok("GPU", "none: MXNet computes on the CPU")]
    findings = []
    for card in dict.fromkeys(gpus):
        if not card.supported:
            finding = _problem if _is_gpu(wheel) else _note
            message = f"{card.why_unsupported()}: the CPU is used"
            findings.append(finding("GPU", message, f"# to compute on it, {devices.OTHER_WAYS}"))
        elif (machine or platform.machine()) == "aarch64":
            findings.append(
                _note(
                    "GPU",
                    f"{card.name} is not used: MXNet has GPU wheels for x86-64 only",
                    "# to compute on it, export the network to ONNX: d2lcls onnx",
                )
            )
        elif not _is_gpu(wheel):
            findings.append(
                _note(
                    "GPU",
                    f"{card.name} is not used: no GPU wheel of MXNet is installed",
                    _USE_GPU_WHEEL.format(wheel or "mxnet"),
                )
            )
        else:
            findings.append(
                _ok(
                    "GPU",
                    f"{card.name}, compute capability {card.capability[0]}.{card.capability[1]}; "
                    "float16, several GPUs and pinned memory have only been tested on CPU contexts",
                )
            )
    if _is_gpu(wheel) and any(card.supported for card in gpus):
        failures = [failure for failure in devices.gpu_failures() if failure]
        findings += [_problem("GPU", f"an MXNet kernel failed: {failure}", "nvidia-smi") for failure in failures]
    return findings


def amx(state: str | None = None) -> list[Finding]:
    """Intel's matrix units speed up bfloat16 and int8, if Linux and oneDNN let MXNet use them."""
    state = state or compat.amx
    if state == "refused":
        return [
            _note(
                "AMX",
                "the processor has AMX, but Linux does not allow it",
                "# bfloat16 and int8 work without it, but slower; it needs Linux 5.16 or later",
            )
        ]
    if state == "off":
        return [
            _note("AMX", "the processor has AMX, but DNNL_MAX_CPU_ISA disables it in oneDNN", "unset DNNL_MAX_CPU_ISA")
        ]
    return [_ok("AMX", "in use" if state == "open" else "this processor has none")]


def instruction_sets(flags: set[str] | None = None, limit: str | None = None) -> list[Finding]:
    """The processor's instruction sets determine the speed of int8 and bfloat16, and the code that TVM generates.

    For int8 and bfloat16, only those count that DNNL_MAX_CPU_ISA lets MXNet use.
    """
    flags = cpu_flags() if flags is None else flags
    limit = os.environ.get("DNNL_MAX_CPU_ISA", "") if limit is None else limit
    used = onednn_flags(flags, limit)
    if platform.machine() != "x86_64":
        return [_ok("instruction sets", f"{platform.machine()}: slow int8, no bfloat16; TVM compiles for NEON")]
    widest = next(
        (name for flag, name in (("avx512bw", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX")) if flag in used), "SSE"
    )
    int8 = "fast int8 (VNNI)" if used & {"avx512_vnni", "avx_vnni", "amx_int8"} else "slow int8 (no VNNI)"
    bf16 = "--precision auto may train faster in bfloat16" if used & {"avx512_bf16", "amx_bf16"} else "no bfloat16"
    tvm = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "SSE"
    by_limit = f" (up to DNNL_MAX_CPU_ISA={limit})" if limit and used != onednn_flags(flags, "ALL") else ""
    return [_ok("instruction sets", f"MXNet uses {widest}{by_limit}; {int8}; {bf16}; TVM compiles for {tvm}")]


def threads(cores: int | None = None, setting: str | None = None) -> list[Finding]:
    """MXNet computes with OMP_NUM_THREADS threads, which `d2lcls.machine.compat` sets to the number of usable cores."""
    cores = cores or usable_cores()
    setting = os.environ.get("OMP_NUM_THREADS", "") if setting is None else setting
    remedy = f"export OMP_NUM_THREADS={cores}"
    first = setting.split(",")[0].strip()  # in a list, one number for each level of nesting
    if not (first.isdigit() and int(first) > 0):
        return [_note("threads", f"OMP_NUM_THREADS={setting} is not a number, and is ignored", remedy)]
    count = int(first)
    if count == cores:
        return [_ok("threads", f"{count} on {cores} usable cores")]
    why = "they wait for each other" if count > cores else "the other cores are not used"
    return [_note("threads", f"{count} threads on {cores} usable cores (OMP_NUM_THREADS={setting}): {why}", remedy)]


def shared_memory(folder: str | Path = "/dev/shm") -> list[Finding]:
    """The workers of Gluon's DataLoader pass batches through shared memory, and crash when it is full."""
    if not Path(folder).is_dir():
        return [_ok("shared memory", f"no {folder} on this system")]
    status = os.statvfs(folder)
    size = status.f_blocks * status.f_frsize
    if size >= GIB:
        return [_ok("shared memory", f"{folder} holds {size / GIB:.0f} GiB")]
    return [
        _note(
            "shared memory",
            f"{folder} holds {size / 2**20:.0f} MiB: DataLoader workers may crash with a bus error",
            "docker run --shm-size=2g ...  # or use num_workers=0",
        )
    ]


_WORKING = {
    "onnx": ("<1.19", "MXNet's ONNX exporter fails with onnx 1.19 and later", "onnx==1.18.0"),
    "jupyter-book": ("<2", "Jupyter Book 2 ignores _config.yml and _toc.yml", "jupyter-book==1.0.4.post1"),
}


def packages() -> list[Finding]:
    """Later versions of a few packages do not work with MXNet or the book."""
    findings = []
    for name, (working, reason, requirement) in _WORKING.items():
        version = installed(name)
        if version and not _fits(version, working):
            findings.append(_problem(name, f"{version}: {reason}", f'pip install "{requirement}"'))
        else:
            findings.append(_ok(name, version or "not installed"))
    return findings


def extras() -> list[Finding]:
    """The extras of d2lcls may be installed in part, or not at all."""
    if not installed("d2lcls"):
        return [_note("extras", "d2lcls runs from a checkout and is not installed", 'pip install -e ".[cpu]"')]
    requirements = [Requirement(text) for text in metadata.requires("d2lcls") or ()]
    optional = [(r.name, r.marker) for r in requirements if r.marker and not r.marker.evaluate({"extra": ""})]
    findings = []
    for extra in metadata.metadata("d2lcls").get_all("Provides-Extra") or ():
        names = [name for name, marker in optional if marker.evaluate({"extra": extra})]
        missing = [name for name in names if not installed(name)]
        other_wheels = [wheel for wheel in compat.mxnet_wheels() if wheel not in names]
        if not missing:
            findings.append(_ok(f"extra {extra}", "installed"))
        elif other_wheels and any(name == "mxnet" or _is_gpu(name) for name in names):
            # Two MXNet wheels overwrite each other: do not recommend the second one.
            findings.append(_ok(f"extra {extra}", f"not installed, as {other_wheels[0]} is"))
        else:
            findings.append(_note(f"extra {extra}", f"lacks {', '.join(missing)}", f'pip install "d2lcls[{extra}]"'))
    return findings


def compiler() -> list[Finding]:
    """`d2lcls compile` links machine code with the system's C++ compiler."""
    name = os.environ.get("CXX") or "g++"
    path = shutil.which(name)
    if path:
        return [_ok("C++ compiler", path)]
    return [
        _note(
            "C++ compiler",
            f"{name} is not installed; d2lcls compile and the chapter on phones need it",
            "sudo apt install g++",
        )
    ]


def cache(folder: Path | None = None) -> list[Finding]:
    """The data cache must be writable and have room for archives and their content."""
    folder = folder or cache_folder()
    remedy = 'export D2LCLS_HOME="$HOME/d2lcls-data"  # any writable folder with enough space'
    try:
        check_writable(folder / "data")
    except OSError as error:
        return [_problem("data cache", str(error), remedy)]
    free = shutil.disk_usage(nearest_existing(folder)).free
    if free < GIB:
        return [_problem("data cache", f"{folder} has {free / 2**20:.0f} MiB free; it needs 1024", remedy)]
    return [_ok("data cache", f"{folder}, {free / GIB:.0f} GiB free")]


def data_hosts(hosts: Iterable[str]) -> list[Finding]:
    """The lessons run without any host, on the images that come with the package."""
    if os.environ.get("D2LCLS_OFFLINE") == "1":
        return [_ok("data hosts", "not checked, as D2LCLS_OFFLINE=1")]
    hosts = sorted(hosts)
    with ThreadPoolExecutor(max_workers=8) as pool:
        silent = [host for host, answers in zip(hosts, pool.map(_answers, hosts)) if not answers]
    if not silent:
        return [_ok("data hosts", f"{len(hosts)} of {len(hosts)} answer")]
    return [
        _note(
            "data hosts",
            f"no answer from {', '.join(silent)}: other sources, cached data or the "
            "sample that comes with d2lcls are used",
            "export HTTPS_PROXY=http://your-proxy:port  # if you are behind a proxy",
        )
    ]


def _answers(host: str) -> bool:
    import requests

    try:
        requests.head(f"https://{host}/", timeout=4)  # any status is an answer; proxies are respected
    except requests.RequestException:
        return False
    return True


def _ok(name: str, message: str) -> Finding:
    return Finding(name, "ok", message)


def _note(name: str, message: str, remedy: str) -> Finding:
    return Finding(name, "note", message, remedy)


def _problem(name: str, message: str, remedy: str) -> Finding:
    return Finding(name, "problem", message, remedy)


def _fits(version: str | None, specifier: str | SpecifierSet) -> bool:
    return version is not None and SpecifierSet(str(specifier)).contains(version, prereleases=True)


def _wheel() -> str:
    """Return the name of the installed MXNet wheel, the GPU one where there are two, or ""."""
    return max(compat.mxnet_wheels(), default="")


def _is_gpu(wheel: str) -> bool:
    return wheel.startswith("mxnet-cu")
