module github.com/descentnet/minerd

go 1.26.6

require google.golang.org/protobuf v1.36.12 // indirect
