"""Examines this machine and says what keeps MXNet or the book from running, and what to do.

Each check returns a list of `Finding` and takes the facts that it judges as arguments, whose defaults are
those of this machine.
"""

import ctypes
import dataclasses
import json
import os
import platform
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from d2lcls.machine import compat, devices
from d2lcls.machine.cores import cpu_flags, onednn_flags, usable_cores
from d2lcls.machine.files import cache_folder

from packaging.markers import Marker

GIB = 2**30

# What libmxnet.so of the GPU wheels asks the loader for; the last one belongs to the driver.
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
    """What one check found.

    status is "ok", "note" (works, and worth knowing) or "problem" (something will fail). remedy
    is what to paste into a shell, or where it starts with "#", what to do; "" for "ok".
    """

    name: str
    status: str
    message: str
    remedy: str = ""


def examine(hosts=()):
    """Run every check and return the list of `Finding`.

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
    return [dataclasses.replace(finding, remedy=_here(finding.remedy)) for finding in findings]


def _findings_of(check, *arguments):
    try:
        return check(*arguments)
    except Exception as error:  # one check that cannot be made must not hide the others
        name = check.__name__.replace("_", " ")
        return [_problem(name, f"could not be checked: {error!r}", "pip check")]


def _here(remedy, root=Path(__file__).resolve().parents[2]):
    """Turn `pip` into this Python's pip and, in a checkout, the package's name into its folder."""
    remedy = re.sub(r"^pip ", f"{sys.executable} -m pip ", remedy, flags=re.M)
    return remedy.replace('"d2lcls[', f'"{root}[') if (root / "pyproject.toml").is_file() else remedy


def report(findings):
    """Return the findings as text, remedies indented below what they remedy."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<8} {finding.name:<{width}}  {finding.message}")
        lines += [f"{'':<{width + 11}}{line}" for line in finding.remedy.splitlines()]
    counts = [sum(finding.status == status for finding in findings) for status in ("problem", "note", "ok")]
    return "\n".join([*lines, "", "problems: {}, notes: {}, ok: {}".format(*counts)])


def as_json(findings):
    """Return the findings as a JSON list of objects with name, status, message and remedy."""
    return json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2)


def installed(name):
    """Return the installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def system(name=None, machine=None):
    """MXNet 1.9.1 has wheels for Linux on x86-64 and 64-bit Arm, and one for Intel Macs, which was not tried."""
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


def container(root=Path("/"), environment=os.environ):
    """A container may have less memory than its machine, and a program that needs more is killed without a word."""
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
    limit = (_read(groups / "memory.max") or _read(groups / "memory/memory.limit_in_bytes")).strip()
    limit = min(int(limit), total) if limit.isdigit() else total
    message = f"one with {limit / GIB:.1f} GiB of memory"
    if limit >= 2 * GIB:
        return [_ok("container", message)]
    return [
        _note(
            "container",
            f"{message}: training on CIFAR-10 takes about 1 GiB, and JupyterLab runs beside it",
            "docker run --memory=4g ...  # in Docker Desktop: Settings, Resources",
        )
    ]


def _read(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def python(version=sys.version_info):
    """d2lcls and its lock are for Python 3.11 to 3.13.

    Python 3.14 has no numpy below 2.3, with which `mx.recordio` fails, and no onnx below 1.19, with which MXNet's
    exporter fails. Python 3.10 gets security fixes no longer, nor new versions of most packages.
    """
    text = f"Python {version[0]}.{version[1]}"
    if (3, 11) <= tuple(version[:2]) <= (3, 13):
        return [_ok("Python", text)]
    why = (
        ": numpy 2.2 and onnx 1.18, the newest that MXNet 1.9.1 wholly works with, have no wheel for 3.14"
        if tuple(version[:2]) > (3, 13)
        else ""
    )
    return [_problem("Python", f"{text}: d2lcls runs on 3.11 to 3.13{why}", "conda create -n d2lcls python=3.11")]


def lock(path=Path(__file__).resolve().parents[2] / "requirements.lock"):
    """In a checkout, the installed packages should be those of requirements.lock, with which the book is tested."""
    if not path.is_file():
        return [_ok("lock", "d2lcls was installed without requirements.lock")]
    pins = re.findall(r"^([\w.-]+)==(\S+)(?: ; (.+?))? \\$", path.read_text(), flags=re.M)
    pins = [(name, version) for name, version, marker in pins if not marker or Marker(marker).evaluate()]
    if _is_gpu(_wheel()):
        pins = [(name, version) for name, version in pins if name != "mxnet"]  # the GPU wheel stands in for it
    different = [
        f"{name} {installed(name) or 'is missing'} (locked: {version})"
        for name, version in pins
        if installed(name) != version
    ]
    if not different:
        return [_ok("lock", f"all {len(pins)} packages of requirements.lock are installed")]
    named = ", ".join(different[:10]) + (" ..." if len(different) > 10 else "")
    return [
        _note(
            "lock",
            f"{len(different)} of {len(pins)} packages are not those of requirements.lock: {named}",
            f'pip install --require-hashes --no-deps -r "{path}"',
        )
    ]


def numpy(version=None):
    """The numpy versions that were run are listed in `d2lcls.machine.compat`."""
    version = version or installed("numpy")
    if (1, 23) <= _release(version) < (2, 3):
        return [_ok("numpy", f"numpy {version}")]
    return [_problem("numpy", f"numpy {version}: parts of MXNet 1.9.1 fail with it", 'pip install "numpy>=1.26,<2.3"')]


def wheels(names=None):
    """The wheels mxnet and mxnet-cu... install the same module, so only one of them can be right."""
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


def mxnet():
    """Import mxnet in a child process, because a failing import can take the process with it."""
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


def import_order(mxnet_came_first=None):
    """Importing d2lcls prepares an import of mxnet that is still to come."""
    if compat.mxnet_came_first if mxnet_came_first is None else mxnet_came_first:
        return [
            _note(
                "import order",
                "mxnet was imported before d2lcls, which could not prepare it",
                "import d2lcls  # above `import mxnet`; then restart Python",
            )
        ]
    return [_ok("import order", "d2lcls came before mxnet")]


def cuda_libraries(wheel=None, required=CUDA_LIBRARIES):
    """The GPU wheels bring no CUDA libraries: they come from the ``nvidia-*-cu11`` wheels or from a CUDA 11."""
    wheel = wheel or _wheel()
    if not _is_gpu(wheel):
        return [_ok("CUDA libraries", "not needed without a GPU wheel of MXNet")]
    missing = [library for library in required if not _loads(library)]
    if not missing:
        return [_ok("CUDA libraries", f"all {len(required)} load")]
    remedy = 'pip install "d2lcls[cu118]"'
    if missing == ["libcuda.so.1"]:  # that one comes with the driver
        remedy = f"# install the NVIDIA driver, or use the CPU:\n{_USE_CPU_WHEEL.format(wheel)}"
    errors = "".join(f"; {error}" for error in compat.unloadable.values())
    return [_problem("CUDA libraries", f"{wheel} cannot load {', '.join(missing)}{errors}", remedy)]


def gpu(gpus=None, wheel=None, machine=None):
    """A GPU needs a GPU wheel that holds machine code for it, and then has to run a kernel."""
    gpus = devices.installed_gpus() if gpus is None else gpus
    wheel = wheel or _wheel()
    if not gpus and _is_gpu(wheel):
        return [_problem("GPU", f"{wheel} is installed, but nvidia-smi reports no GPU", _USE_CPU_WHEEL.format(wheel))]
    if not gpus:
        return [_ok("GPU", "none: MXNet computes on the CPU")]
    findings = []
    for card in dict.fromkeys(gpus):
        if not card.supported:
            tell = _problem if _is_gpu(wheel) else _note
            findings.append(
                tell("GPU", f"{card.why_unsupported()}: the CPU is used", f"# to compute on it, {devices.OTHER_WAYS}")
            )
        elif (machine or platform.machine()) == "aarch64":
            findings.append(
                _note(
                    "GPU",
                    f"{card.name} lies idle: MXNet has GPU wheels for x86-64 only",
                    "# to compute on it, export the network to ONNX: d2lcls onnx",
                )
            )
        elif not _is_gpu(wheel):
            findings.append(
                _note(
                    "GPU",
                    f"{card.name} lies idle: no GPU wheel of MXNet is installed",
                    _USE_GPU_WHEEL.format(wheel or "mxnet"),
                )
            )
        else:
            findings.append(
                _ok(
                    "GPU",
                    f"{card.name}, compute capability {'%d.%d' % card.capability}; "
                    "float16, several GPUs and pinned memory have only been run on CPU contexts",
                )
            )
    if _is_gpu(wheel) and any(card.supported for card in gpus):
        failures = [failure for failure in devices.gpu_failures() if failure]
        findings += [_problem("GPU", f"an MXNet kernel failed: {failure}", "nvidia-smi") for failure in failures]
    return findings


def amx(state=None):
    """Intel's matrix units speed up bf16 and int8, where Linux and oneDNN let MXNet use them."""
    state = state or compat.amx
    if state == "refused":
        return [
            _note(
                "AMX",
                "the processor has AMX, but Linux did not grant it",
                "# bf16 and int8 run without it, slower; Linux 5.16 and later can grant it",
            )
        ]
    if state == "off":
        return [
            _note(
                "AMX",
                "the processor has AMX, but DNNL_MAX_CPU_ISA keeps oneDNN from using it",
                "unset DNNL_MAX_CPU_ISA",
            )
        ]
    return [_ok("AMX", "in use" if state == "open" else "this processor has none")]


def instruction_sets(flags=None, limit=None):
    """The processor's instruction sets decide what int8 and bfloat16 are worth, and what code TVM writes.

    Where DNNL_MAX_CPU_ISA keeps MXNet from using some of them, the first two follow what it may use.
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


def threads(cores=None, setting=None):
    """MXNet computes with OMP_NUM_THREADS threads, which `d2lcls.machine.compat` sets to the number of usable cores."""
    cores = cores or usable_cores()
    setting = os.environ.get("OMP_NUM_THREADS", "") if setting is None else setting
    remedy = f"export OMP_NUM_THREADS={cores}"
    first = setting.split(",")[0].strip()  # a list gives the number for each level of nesting
    if not (first.isdigit() and int(first) > 0):
        return [_note("threads", f"OMP_NUM_THREADS={setting} is not a number, and is ignored", remedy)]
    count = int(first)
    if count == cores:
        return [_ok("threads", f"{count} on {cores} usable cores")]
    why = "they wait for each other" if count > cores else "the other cores lie idle"
    return [_note("threads", f"{count} threads on {cores} usable cores (OMP_NUM_THREADS={setting}): {why}", remedy)]


def shared_memory(folder="/dev/shm"):
    """The workers of Gluon's DataLoader hand batches over in shared memory, and die when it is full."""
    if not Path(folder).is_dir():
        return [_ok("shared memory", f"no {folder} on this system")]
    status = os.statvfs(folder)
    size = status.f_blocks * status.f_frsize
    if size >= GIB:
        return [_ok("shared memory", f"{folder} holds {size / GIB:.0f} GiB")]
    return [
        _note(
            "shared memory",
            f"{folder} holds {size / 2**20:.0f} MiB: DataLoader workers may die of a bus error",
            "docker run --shm-size=2g ...  # or use num_workers=0",
        )
    ]


_FIRST_BROKEN = {
    "onnx": ((1, 19), "MXNet's ONNX exporter fails with onnx 1.19 and later", "onnx==1.18.0"),
    "jupyter-book": ((2,), "Jupyter Book 2 ignores _config.yml and _toc.yml", "jupyter-book==1.0.4.post1"),
}


def packages():
    """Later versions of a few packages break what the book does with them."""
    findings = []
    for name, (broken, reason, requirement) in _FIRST_BROKEN.items():
        version = installed(name)
        if version and _release(version) >= broken:
            findings.append(_problem(name, f"{version}: {reason}", f'pip install "{requirement}"'))
        else:
            findings.append(_ok(name, version or "not installed"))
    return findings


def extras(requirements=None):
    """Say which of d2lcls's extras are not wholly installed."""
    if requirements is None:
        if not installed("d2lcls"):
            return [_note("extras", "d2lcls runs from a checkout and is not installed", 'pip install -e ".[cpu]"')]
        requirements = metadata.requires("d2lcls") or []
    wanted = {}
    for requirement in requirements:
        extra = re.search(r"""extra\s*==\s*["']([^"']+)""", requirement)
        if extra and not re.search(r"python_|platform|sys_|os_name|implementation", requirement):
            wanted.setdefault(extra[1], []).append(re.match(r"[\w.-]+", requirement)[0])
    findings = []
    for extra, names in wanted.items():
        missing = [name for name in names if not installed(name)]
        other_wheels = [wheel for wheel in compat.mxnet_wheels() if wheel not in names]
        if not missing:
            findings.append(_ok(f"extra {extra}", "installed"))
        elif other_wheels and any(name == "mxnet" or _is_gpu(name) for name in names):
            # Two MXNet wheels overwrite each other: the second one must not be recommended.
            findings.append(_ok(f"extra {extra}", f"not installed, as {other_wheels[0]} is"))
        else:
            findings.append(_note(f"extra {extra}", f"lacks {', '.join(missing)}", f'pip install "d2lcls[{extra}]"'))
    return findings


def compiler():
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


def cache(folder=None):
    """The data cache must be writable and have room for archives and what is unpacked from them."""
    if folder is None:
        folder = cache_folder()
    folder = Path(folder).absolute()
    remedy = 'export D2LCLS_HOME="$HOME/d2lcls-data"  # any folder that you may write to, with room'
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return [_problem("data cache", f"{folder} cannot be written to", remedy)]
    free = shutil.disk_usage(existing).free
    if free < GIB:
        return [_problem("data cache", f"{folder} has {free / 2**20:.0f} MiB free; 1024 are wanted", remedy)]
    return [_ok("data cache", f"{folder}, {free / GIB:.0f} GiB free")]


def data_hosts(hosts, answers=None):
    """The lessons run without any host, on the images that come with the package."""
    if os.environ.get("D2LCLS_OFFLINE") == "1":
        return [_ok("data hosts", "not asked, as D2LCLS_OFFLINE=1")]
    hosts = sorted(hosts)
    with ThreadPoolExecutor(max_workers=8) as pool:
        answered = dict(zip(hosts, pool.map(answers or _answers, hosts)))
    silent = [host for host in hosts if not answered[host]]
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


def _answers(host):
    import requests

    try:
        requests.head(f"https://{host}/", timeout=4)  # any status is an answer; proxies are respected
    except requests.RequestException:
        return False
    return True


def _ok(name, message):
    return Finding(name, "ok", message)


def _note(name, message, remedy):
    return Finding(name, "note", message, remedy)


def _problem(name, message, remedy):
    return Finding(name, "problem", message, remedy)


def _release(version):
    """Return "1.26.4" as (1, 26, 4)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _wheel():
    """Return the name of the installed MXNet wheel, the GPU one where there are two, or ""."""
    return max(compat.mxnet_wheels(), default="")


def _is_gpu(wheel):
    return wheel.startswith("mxnet-cu")


def _loads(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
