// Bundles reads bundles as go-spiffe does, for tests that compare it with what we hand on. Each line
// of the input is JSON with the roots of a trust domain in concatenated DER, or with its JWKS; each
// line of the output says why go-spiffe refuses it, if it does.
package main

import (
	"bufio"
	"encoding/json"
	"os"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

type input struct {
	X509 []byte `json:"x509,omitempty"`
	JWKS []byte `json:"jwks,omitempty"`
}

type output struct {
	Refused string `json:"refused"`
}

func read(in input) error {
	domain := spiffeid.RequireTrustDomainFromString("partner.example")
	if in.JWKS != nil {
		_, err := jwtbundle.Parse(domain, in.JWKS)
		return err
	}
	_, err := x509bundle.ParseRaw(domain, in.X509)
	return err
}

func main() {
	lines := bufio.NewReader(os.Stdin)
	decoder, encoder := json.NewDecoder(lines), json.NewEncoder(os.Stdout)
	for decoder.More() {
		var in input
		if err := decoder.Decode(&in); err != nil {
			panic(err)
		}
		var out output
		if err := read(in); err != nil {
			out.Refused = err.Error()
		}
		if err := encoder.Encode(out); err != nil {
			panic(err)
		}
	}
}
