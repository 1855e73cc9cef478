# A static binary on an image with nothing else in it. BASE may be the debug
# variant, which adds a shell; docker-compose.yml uses it for its health check.
ARG BASE=gcr.io/distroless/static-debian12:nonroot

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -o /out/touchstone ./cmd/touchstone && mkdir /out/data

FROM ${BASE}
COPY --from=build /out/touchstone /touchstone
# The volume takes over the owner of the directory: user 65532, nonroot.
COPY --from=build --chown=65532:65532 /out/data /data
ENV TOUCHSTONE_DATA_DIR=/data TOUCHSTONE_API_LISTEN=0.0.0.0:8080
VOLUME /data
EXPOSE 8080
ENTRYPOINT ["/touchstone"]
CMD ["serve"]
