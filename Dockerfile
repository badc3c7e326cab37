# Two stages: the first installs the locked packages and Headgate into a venv, the second carries that venv and nothing else.
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/headgate
WORKDIR /src
COPY requirements.lock .
RUN /opt/headgate/bin/pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY config config
COPY backends backends
COPY gateway gateway
RUN /opt/headgate/bin/pip install --no-deps --no-build-isolation . \
 && /opt/headgate/bin/pip uninstall --yes pip setuptools wheel

FROM python:3.11-slim
# PYTHONSAFEPATH: a stray config.py in the working directory must not win over ours.
ENV PATH=/opt/headgate/bin:$PATH PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin headgate
COPY --from=build /opt/headgate /opt/headgate
COPY deploy/gateway.yaml /etc/headgate/gateway.yaml
# A container is reached from outside or not at all: it does not start without a key (HEADGATE_KEY_HASH), unless told that
# something in front checks (HEADGATE_ALLOW_ANONYMOUS=true). The operators' listener stays inside without a token.
ENV HEADGATE_HOST=0.0.0.0
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('HEADGATE_PORT', '8080') + '/health', timeout=2)"]
ENTRYPOINT ["headgate"]
CMD ["serve", "--config", "/etc/headgate/gateway.yaml"]
