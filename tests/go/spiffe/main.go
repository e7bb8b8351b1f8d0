// Spiffe is a workload, a server, a client and a partner that are built on go-spiffe, for tests of
// what Sundew serves and takes. Each line of the output is JSON. What is not a partner has its
// identity from the Workload API that SPIFFE_ENDPOINT_SOCKET names.
//
//	spiffe identity AUDIENCE                      what the Workload API gives, and what it gives next
//	spiffe serve WHOM                             a server with mutual TLS
//	spiffe dial ADDRESS WHOM                      a client of it, and of a broker
//	spiffe watch DOMAIN URL web CA                the bundle of an endpoint, and the next ones
//	spiffe watch DOMAIN URL spiffe ID
//	spiffe federate DOMAIN BUNDLE web CERTIFICATE KEY     a bundle endpoint
//	spiffe federate DOMAIN BUNDLE spiffe CERTIFICATE KEY
//
// WHOM is a SPIFFE ID, or a trust domain for all its members.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
)

// line is a line of the output.
type line map[string]any

// say writes a line at once.
func say(said line) {
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	switch command := fmt.Sprintf("%s %d", arguments[0], len(arguments)-1); command {
	case "identity 1":
		return identity(ctx, arguments[1])
	case "serve 1":
		return serve(ctx, arguments[1])
	case "dial 2":
		return dial(ctx, arguments[1], arguments[2])
	case "watch 4":
		return watch(ctx, arguments[1], arguments[2], arguments[3], arguments[4])
	case "federate 5":
		return federate(arguments[1], arguments[2], arguments[3], arguments[4], arguments[5])
	default:
		return fmt.Errorf("no such command: %s", command)
	}
}

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		say(line{"refused": err.Error()})
		os.Exit(1)
	}
}
