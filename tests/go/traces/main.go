// Traces takes spans as a collector does, by OpenTelemetry's own protocol code in Go, for tests. It
// prints its address, and then each message as a line of JSON with the headers that it came with.
// With three arguments, it shows a certificate: its file, that of its key, and that of the clients'
// authority.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
)

type server struct {
	collector.UnimplementedTraceServiceServer
	lines sync.Mutex
}

func (s *server) Export(ctx context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	message, err := protojson.Marshal(request)
	if err != nil {
		return nil, err
	}
	headers, _ := metadata.FromIncomingContext(ctx)
	s.lines.Lock()
	defer s.lines.Unlock()
	line := map[string]any{"headers": headers, "message": json.RawMessage(message)}
	return &collector.ExportTraceServiceResponse{}, json.NewEncoder(os.Stdout).Encode(line)
}

func options(arguments []string) ([]grpc.ServerOption, error) {
	if len(arguments) == 0 {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(arguments[0], arguments[1])
	if err != nil {
		return nil, err
	}
	roots, err := os.ReadFile(arguments[2])
	if err != nil {
		return nil, err
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(roots)
	config := &tls.Config{
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
	}
	return []grpc.ServerOption{grpc.Creds(credentials.NewTLS(config))}, nil
}

func run() error {
	options, err := options(os.Args[1:])
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	grpcServer := grpc.NewServer(options...)
	collector.RegisterTraceServiceServer(grpcServer, &server{})
	return grpcServer.Serve(listener)
}

func main() {
	if err := run(); err != nil {
		panic(err)
	}
}
