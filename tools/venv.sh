#!/bin/sh
# Make a virtual environment that can hold MXNet: venv.sh PYTHON FOLDER
# A bare Debian or Ubuntu lacks two things. The pip that `python3 -m venv` needs is in a package of its own,
# python3-venv; and MXNet needs two libraries of the system's compiler. Where one is missing, its package is downloaded
# and unpacked into the environment, for which nobody has to be root.
set -eu
python=$1
folder=$2

"$python" - <<'PY'
import sys
if sys.version_info[:2] != (3, 11):
    sys.exit(f"requirements.lock is for Python 3.11; {sys.executable} is {sys.version.split()[0]}. "
             "Install Python 3.11 and run: make PYTHON=python3.11 ...")
PY

unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT

unpack() { # package, what it is for
    if ! (cd "$unpacked" && apt-get download -q "$1" >/dev/null 2>&1 && dpkg-deb -x "$1"_*.deb .); then
        rm -rf "$folder"
        echo "$2 is missing and could not be downloaded. Run: sudo apt-get update && sudo apt-get install $3" >&2
        exit 1
    fi
}

rm -rf "$folder"
if "$python" -c "import ensurepip" 2>/dev/null; then
    "$python" -m venv "$folder"
else
    unpack python3-pip-whl "Python's venv" python3-venv
    "$python" -m venv --without-pip "$folder"
    "$folder/bin/python" "$(ls "$unpacked"/usr/share/python-wheels/pip-*.whl)/pip" install --quiet pip setuptools wheel
fi
if [ "$(uname)" = Linux ]; then
    for pair in libgomp.so.1:libgomp1 libquadmath.so.0:libquadmath0; do
        library=${pair%:*} package=${pair#*:}
        if ! "$python" -c "import ctypes; ctypes.CDLL('$library')" 2>/dev/null; then
            unpack "$package" "$library" "$package"
            mkdir -p "$folder/lib/system" # d2lcls.compat loads them from there
            find "$unpacked" -name "$library*" -exec cp -P {} "$folder/lib/system/" \;
        fi
    done
fi
