# The environment, the book and the package, for amd64 and arm64:
#   docker build -t d2lcls .
#   docker run --rm -it -p 8888:8888 --shm-size=2g -v d2lcls-data:/home/reader/.cache/d2lcls d2lcls
# starts JupyterLab, and prints the address to open. Any command of d2lcls may follow: docker run --rm d2lcls doctor
# tools/container.py carries these steps out without Docker, and checks what they make.
# A tag, not a digest: each build gets Debian's security updates. Python packages come from requirements.lock, with hashes.
FROM debian:bookworm-slim

# g++ links what `d2lcls compile` makes, and brings the compiler's libraries that MXNet needs.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ git make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --shell /bin/bash reader \
    && install -d -o reader -g reader /home/reader/d2lcls

USER reader
WORKDIR /home/reader/d2lcls
COPY --chown=reader:reader . .
ENV PATH=/home/reader/d2lcls/.venv/bin:$PATH PIP_NO_CACHE_DIR=1
# The cache of the data sets exists, so that a volume mounted there belongs to the user.
RUN make .venv/installed && mkdir -p ~/.cache/d2lcls

EXPOSE 8888
ENTRYPOINT ["sh", "tools/entrypoint.sh"]
