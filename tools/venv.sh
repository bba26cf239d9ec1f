#!/bin/sh
# Make a virtual environment: venv.sh PYTHON FOLDER
# Debian and Ubuntu keep the pip that `python3 -m venv` needs in a package of its own, python3-venv. Where that is
# missing, take pip from Debian's wheel package, which a user without root rights can download and unpack.
set -eu
python=$1
folder=$2

"$python" - <<'PY'
import sys
if not (3, 9) <= sys.version_info[:2] <= (3, 11):
    sys.exit(f"MXNet 1.9.1 needs Python 3.9 to 3.11; {sys.executable} is {sys.version.split()[0]}. "
             "Install Python 3.11 and run: make PYTHON=python3.11 ...")
PY

rm -rf "$folder"
if "$python" -c "import ensurepip" 2>/dev/null; then
    "$python" -m venv "$folder"
    exit
fi
"$python" -m venv --without-pip "$folder"
unpack=$(mktemp -d)
trap 'rm -rf "$unpack"' EXIT
if ! (cd "$unpack" && apt-get download -q python3-pip-whl >/dev/null && dpkg-deb -x python3-pip-whl_*.deb .); then
    rm -rf "$folder"
    echo "This Python cannot make virtual environments. Run: sudo apt-get install python3-venv" >&2
    exit 1
fi
"$folder/bin/python" "$(ls "$unpack"/usr/share/python-wheels/pip-*.whl)/pip" install --quiet pip setuptools wheel
