# One image for both sidecars, the proxy and the agent. What it needs is written down once, in .ci/packages and
# pyproject.toml, and put in place by the same script as on a developer's machine.
FROM debian:12-slim
WORKDIR /opt/midstream
COPY .ci .ci
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
COPY checkpoint checkpoint
COPY controller controller
RUN apt-get -qq update && .ci/setup --image && apt-get clean && rm -rf /var/lib/apt/lists/* /root/.cache
# proxy.main (then drops to its own user with CAP_NET_ADMIN only) or checkpoint.main (privileged), with their arguments
ENTRYPOINT ["/opt/midstream/.venv/bin/python", "-m"]
CMD ["proxy.main", "--help"]
