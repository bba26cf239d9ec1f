#!/bin/sh
# What a container runs: JupyterLab; or a command of d2lcls, such as `doctor`; or any other program, such as bash.
set -eu
if [ $# = 0 ]; then
    exec jupyter lab --ip=0.0.0.0 --no-browser --notebook-dir=book # Jupyter asks for the token that it prints
fi
case $(command -v "$1") in
    /*) exec "$@" ;;
    *) exec d2lcls "$@" ;; # not found, or a word of the shell's, such as `export`
esac
