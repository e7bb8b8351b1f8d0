package main

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// patience is how long a peer may take.
const patience = 5 * time.Second

func authorizer(whom string) (tlsconfig.Authorizer, error) {
	if strings.HasPrefix(whom, "spiffe://") {
		id, err := spiffeid.FromString(whom)
		return tlsconfig.AuthorizeID(id), err
	}
	domain, err := spiffeid.TrustDomainFromString(whom)
	return tlsconfig.AuthorizeMemberOf(domain), err
}

// peer returns whom the other end has proven to be.
func peer(connection *tls.Conn) (spiffeid.ID, error) {
	connection.SetDeadline(time.Now().Add(patience))
	if err := connection.Handshake(); err != nil {
		return spiffeid.ID{}, err
	}
	return spiffetls.PeerIDFromConnectionState(connection.ConnectionState())
}

// serve tells each client who it is, and says so.
func serve(ctx context.Context, whom string) error {
	allowed, err := authorizer(whom)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	config := tlsconfig.MTLSServerConfig(source, source, allowed)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return err
	}
	say(line{"address": listener.Addr().String()})
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		if id, err := peer(connection.(*tls.Conn)); err != nil {
			say(line{"refused": err.Error()})
		} else {
			say(line{"peer": id})
			io.WriteString(connection, id.String())
		}
		connection.Close()
	}
}

// dial shakes hands with a broker, and has a nonce from it.
func dial(ctx context.Context, address, whom string) error {
	allowed, err := authorizer(whom)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	id, err := peer(tls.Client(connection, tlsconfig.MTLSClientConfig(source, source, allowed)))
	if err != nil {
		return err
	}
	credentials := grpccredentials.MTLSClientCredentials(source, source, allowed)
	broker, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials))
	if err != nil {
		return err
	}
	defer broker.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// The fields of the answer are unknown to this message, which keeps them.
	answer := &emptypb.Empty{}
	if err := broker.Invoke(ctx, "/sundew.v1.AgentService/Challenge", &emptypb.Empty{}, answer); err != nil {
		return err
	}
	say(line{"peer": id, "answer": len(answer.ProtoReflect().GetUnknown())})
	return nil
}
