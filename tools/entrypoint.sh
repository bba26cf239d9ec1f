#!/bin/sh
# What a container runs: JupyterLab; or a command of d2lcls, such as `doctor`; or any other program, such as bash.
set -eu
if [ $# = 0 ]; then
    set -- jupyter lab --ip=0.0.0.0 --no-browser --notebook-dir=book # Jupyter asks for the token that it prints
elif ! command -v "$1" >/dev/null; then
    set -- d2lcls "$@"
fi
exec "$@"
