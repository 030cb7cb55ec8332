# A static binary in an otherwise empty image. No `# syntax=` line: the front
# end that ships with the engine is enough, and nothing more need be pulled.
FROM golang:1.26-bookworm AS build
WORKDIR /src
# The modules first, in a layer that a change of the source leaves alone.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/minerd ./cmd/minerd
# The runtime stage has no shell: make its files here. The data folder is there
# so that a named volume mounted on it starts out writable by our user.
RUN mkdir -p /out/etc /out/data \
 && echo 'minerd:x:65532:65532:minerd:/data:/minerd' > /out/etc/passwd \
 && echo 'minerd:x:65532:' > /out/etc/group

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="minerd" \
      org.opencontainers.image.description="Proof-of-training blockchain daemon" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION"
COPY --from=build /out/etc /etc
COPY --from=build /out/minerd /minerd
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532
VOLUME /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["/minerd"]
CMD ["run", "--data-dir", "/data"]
