#!/bin/sh
# Entry point of the container: JupyterLab, or a command of d2lcls such as `doctor`, or another program such as bash.
set -eu
if [ $# = 0 ]; then
    exec jupyter lab --ip=0.0.0.0 --no-browser --notebook-dir=book # Jupyter requires the token that it prints
fi
case $(command -v "$1") in
    /*) exec "$@" ;;
    *) exec d2lcls "$@" ;; # not found, or a shell builtin, such as `export`
esac
