#!/bin/sh
# Create a virtual environment in which MXNet works: venv.sh FOLDER [PYTHON]
# Without PYTHON, it uses the first of python3.11, python3.12, python3.13 and python3 that is suitable; 3.11 comes first
# because the stored outputs and results were made with it. If none is suitable, uv finds or downloads one.
# A bare Debian or Ubuntu lacks two things: the pip that `python3 -m venv` needs, which is in the package python3-venv,
# and two libraries of the system's compiler that MXNet needs. If one is missing, its package is downloaded and unpacked
# into the environment, which does not require root.
set -eu
folder=$1
python=${2:-}
versions="Python 3.11, 3.12 or 3.13"

unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT

fits() {
    "$1" -c 'import sys, sysconfig
free_threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) or bool(free_threaded))' 2>/dev/null
}

unpack() { # package, what it is for, package to install instead
    if ! (cd "$unpacked" && apt-get download -q "$1" >/dev/null 2>&1 && dpkg-deb -x "$1"_*.deb .); then
        rm -rf "$folder"
        echo "$2 is missing and could not be downloaded. Run: sudo apt-get update && sudo apt-get install $3" >&2
        exit 1
    fi
}

make_environment() { # Python, folder
    if "$1" -c "import ensurepip" 2>/dev/null; then
        "$1" -m venv "$2"
    else
        unpack python3-pip-whl "Python's venv" python3-venv
        "$1" -m venv --without-pip "$2"
        wheel=$(ls "$unpacked"/usr/share/python-wheels/pip-*.whl)
        "$2/bin/python" "$wheel/pip" install --quiet --no-index "$wheel"
    fi
}

find_python() { # prints the first suitable one on PATH
    for name in python3.11 python3.12 python3.13 python3; do
        if fits "$name"; then
            command -v "$name"
            break
        fi
    done
}

uv_python() { # prints a Python that uv has or downloads
    uv=$(command -v uv) || {
        make_environment python3 "$unpacked/uv" || return
        sed -n '/^uv==/,/[^\\]$/p' "$(dirname "$0")/../requirements.lock" >"$unpacked/uv.txt"
        "$unpacked/uv/bin/python" -m pip install --quiet --require-hashes --no-deps -r "$unpacked/uv.txt" || return
        uv=$unpacked/uv/bin/uv
    }
    "$uv" python find ">=3.11,<3.14" 2>/dev/null || { "$uv" python install 3.11 >&2 && "$uv" python find 3.11; }
}

# Do not create the environment from the Python of this or another virtual environment.
PATH=$(printf %s "$PATH" | sed "s|$PWD/$folder/bin:||g${VIRTUAL_ENV:+; s|$VIRTUAL_ENV/bin:||g}")
if [ -z "$python" ]; then
    python=$(find_python)
    if [ -z "$python" ]; then
        echo "There is no $versions on PATH: asking uv for one." >&2
        python=$(uv_python) || {
            echo "$versions is needed, and none could be downloaded. Install one (Debian 12 and 13, Ubuntu 24.04:" \
                "sudo apt-get install python3 python3-venv), or uv and then: uv python install 3.11" >&2
            exit 1
        }
    fi
elif ! fits "$python"; then
    echo "requirements.lock is for $versions; $python is $("$python" --version 2>/dev/null || echo no Python)." \
        "Name one that fits (make PYTHON=python3.12 ...), or none, and one is looked for." >&2
    exit 1
fi

rm -rf "$folder"
make_environment "$python" "$folder"
if [ "$(uname)" = Linux ]; then
    libraries=libgomp.so.1:libgomp1
    if [ "$(uname -m)" = x86_64 ]; then # other processors' compilers have no such library
        libraries="$libraries libquadmath.so.0:libquadmath0"
    fi
    for pair in $libraries; do
        library=${pair%:*} package=${pair#*:}
        if ! "$python" -c "import ctypes; ctypes.CDLL('$library')" 2>/dev/null; then
            unpack "$package" "$library" "$package"
            mkdir -p "$folder/lib/system" # d2lcls.machine.compat loads them from there
            find "$unpacked" -name "$library*" -exec cp -P {} "$folder/lib/system/" \;
        fi
    done
fi
