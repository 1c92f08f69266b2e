// A model server in Go, written from two protos alone: model-runtime.proto, which the mesh speaks, and
// classifier.proto, which clients speak.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"example.com/words/classifier"
	"example.com/words/mmesh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// management answers the mesh. predictModelSize is left out: it answers UNIMPLEMENTED, and the mesh goes by the
// default size.
type management struct {
	mmesh.UnimplementedModelRuntimeServer
	models *store
}

func (m *management) RuntimeStatus(context.Context, *mmesh.RuntimeStatusRequest) (*mmesh.RuntimeStatusResponse, error) {
	m.models.clear() // READY means empty: a mesh that starts knows of no loaded model
	return &mmesh.RuntimeStatusResponse{
		Status:                  mmesh.RuntimeStatusResponse_READY,
		CapacityInBytes:         m.models.capacity,
		DefaultModelSizeInBytes: 64 << 10,
		MaxLoadingConcurrency:   2,
		ModelLoadingTimeoutMs:   10_000,
		RuntimeVersion:          "words-go",
	}, nil
}

func (m *management) LoadModel(ctx context.Context, r *mmesh.LoadModelRequest) (*mmesh.LoadModelResponse, error) {
	size, err := m.models.load(ctx, r.ModelId, r.ModelPath)
	if err != nil {
		return nil, err
	}
	return &mmesh.LoadModelResponse{SizeInBytes: size}, nil
}

func (m *management) UnloadModel(_ context.Context, r *mmesh.UnloadModelRequest) (*mmesh.UnloadModelResponse, error) {
	m.models.unload(r.ModelId)
	return &mmesh.UnloadModelResponse{}, nil
}

func (m *management) ModelSize(_ context.Context, r *mmesh.ModelSizeRequest) (*mmesh.ModelSizeResponse, error) {
	model := m.models.get(r.ModelId)
	if model == nil {
		return nil, status.Errorf(codes.NotFound, "model %q is not loaded", r.ModelId)
	}
	return &mmesh.ModelSizeResponse{SizeInBytes: model.bytes}, nil
}

// inference answers clients.
type inference struct {
	classifier.UnimplementedClassifierServer
	models *store
}

func (i *inference) Classify(ctx context.Context, r *classifier.ClassifyRequest) (*classifier.ClassifyReply, error) {
	id := modelID(ctx)
	model := i.models.get(id)
	if model == nil { // the mesh answers NOT_FOUND by loading the model
		return nil, status.Errorf(codes.NotFound, "model %q is not loaded", id)
	}
	label, score, err := model.classify(r.Text)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &classifier.ClassifyReply{Label: label, Score: score}, nil
}

// modelID is the id in the call's metadata; mm-model-id-bin, for ids that are not ASCII, goes first.
func modelID(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, key := range []string{"mm-model-id-bin", "mm-model-id"} {
		if values := md.Get(key); len(values) > 0 {
			return values[0]
		}
	}
	return ""
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8085", "host:port or unix:///path")
	flag.Parse()
	network, address := "tcp", *listen
	if path, ok := strings.CutPrefix(*listen, "unix://"); ok {
		network, address = "unix", path
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		log.Fatal(err)
	}
	models := &store{capacity: 64 << 20, slots: map[string]*slot{}}
	server := grpc.NewServer()
	mmesh.RegisterModelRuntimeServer(server, &management{models: models})
	classifier.RegisterClassifierServer(server, &inference{models: models})
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	context.AfterFunc(stop, server.GracefulStop)
	log.Printf("listening at %s", *listen)
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
