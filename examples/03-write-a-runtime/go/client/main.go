// Command client calls any unary method of a model with plain grpc-go: it asks for the server's health, sends a
// message given in hexadecimal and prints the answer so.
package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// raw passes messages as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = append([]byte{}, data...); return nil }
func (raw) Name() string                       { return "proto" }

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: client host:port model /package.Service/Method hex-message")
		os.Exit(2)
	}
	if err := call(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func call(target, model, method, message string) error {
	request, err := hex.DecodeString(message)
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	answer, err := health.NewHealthClient(connection).Check(ctx, &health.HealthCheckRequest{})
	if err != nil {
		return err
	}
	fmt.Println(answer.Status)
	var reply []byte
	ctx = metadata.AppendToOutgoingContext(ctx, "mm-model-id", model)
	if err := connection.Invoke(ctx, method, &request, &reply, grpc.ForceCodec(raw{})); err != nil {
		return err
	}
	fmt.Println(hex.EncodeToString(reply))
	return nil
}
