# storgo-node in a container: `docker build -t storgo-node .`, for another platform
# `docker buildx build --platform linux/arm64 .`. Needs BuildKit (Docker 23 has it on; before, DOCKER_BUILDKIT=1).
#
#   RUST      image that compiles          RUNTIME   image that runs: any with glibc, nothing else is needed of it
#   BINARY    `build` compiles here; `prebuilt` takes prebuilt/storgo-node from the build context

ARG RUST=rust:1.95-slim-bookworm
ARG RUNTIME=debian:bookworm-slim
ARG BINARY=build

FROM ${RUST} AS build
WORKDIR /src
COPY . .
# The caches make a second build after a small change short; they are no part of any image.
RUN --mount=type=cache,target=/src/target \
    --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --release --locked --bin storgo-node \
    && install -D --strip target/release/storgo-node /out/storgo-node \
    && mkdir /out/data

FROM scratch AS prebuilt
WORKDIR /out/data
COPY prebuilt/storgo-node /out/storgo-node

FROM ${BINARY} AS binary

FROM ${RUNTIME}
# Files alone, no command is run: so this stage builds for any platform on any machine, and RUNTIME needs no shell.
COPY --from=binary /out/storgo-node /usr/local/bin/storgo-node
COPY --from=binary --chown=10001:10001 /out/data /data
USER 10001:10001
ENV STORGO_DATA_DIR=/data
VOLUME /data
# Peers: TCP and QUIC. The HTTP door stays on the loopback of the container, where `docker exec` reaches it.
EXPOSE 3000/tcp 3000/udp
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/storgo-node", "status"]
ENTRYPOINT ["/usr/local/bin/storgo-node"]
CMD ["--listen", "/ip4/0.0.0.0/tcp/3000", "--listen", "/ip4/0.0.0.0/udp/3000/quic-v1"]
