# The image of a node, a trigger host and a replicator: one command, `headrace`, with everything it can do.
# It runs as uid 10001 and needs only /var/lib/headrace to be writable: docker run --read-only --tmpfs /tmp works.
# A new volume takes that folder's owner and mode, 0700, which a node insists on.

FROM python:3.12-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/headrace
WORKDIR /src
COPY constraints.txt ./
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY broker broker
COPY clients/python clients/python
RUN /opt/headrace/bin/pip install --constraint constraints.txt "./clients/python[triggers]" ".[uvloop]"

FROM python:3.12-slim-bookworm
RUN groupadd --system --gid 10001 headrace \
    && useradd --system --uid 10001 --gid headrace --home-dir /var/lib/headrace --create-home headrace \
    && chmod 700 /var/lib/headrace
COPY --from=build /opt/headrace /opt/headrace
COPY LICENSE NOTICE /usr/share/doc/headrace/
ENV PATH=/opt/headrace/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/headrace
VOLUME /var/lib/headrace
EXPOSE 7420 7421
# A node drains on SIGTERM: give it longer to stop than its drain takes (docs/operations.md).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["headrace", "health"]
ENTRYPOINT ["headrace"]
# This listens on the container's loopback only; compose.yaml shows how to be reached from outside.
CMD ["serve", "--data", "/var/lib/headrace"]
