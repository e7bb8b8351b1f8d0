package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// interval is the time between two fetches. Each fetch leaves a connection open.
const interval = 300 * time.Millisecond

// watch says each bundle of an endpoint, and why there is none.
func watch(ctx context.Context, domain, url, profile, whom string) error {
	of, err := spiffeid.TrustDomainFromString(domain)
	if err != nil {
		return err
	}
	var authentication federation.FetchOption
	switch profile {
	case "web":
		text, err := os.ReadFile(whom)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(text)
		authentication = federation.WithWebPKIRoots(roots)
	case "spiffe":
		id, err := spiffeid.FromString(whom)
		if err != nil {
			return err
		}
		source, err := workloadapi.NewX509Source(ctx)
		if err != nil {
			return err
		}
		authentication = federation.WithSPIFFEAuth(source, id)
	default:
		return fmt.Errorf("no such profile: %s", profile)
	}
	return federation.WatchBundle(ctx, of, url, watched{}, authentication)
}

type watched struct{}

func (watched) NextRefresh(time.Duration) time.Duration { return interval }

func (watched) OnUpdate(bundle *spiffebundle.Bundle) {
	sequence, _ := bundle.SequenceNumber()
	hint, _ := bundle.RefreshHint()
	say(line{
		"roots": len(bundle.X509Authorities()), "keys": len(bundle.JWTAuthorities()),
		"sequence": sequence, "refresh_s": hint.Seconds(),
	})
}

func (watched) OnError(err error) { say(line{"refused": err.Error()}) }

// partner is a trust domain whose files are read each time.
type partner struct {
	bundle, certificate, key string
	signer                   *ecdsa.PublicKey
}

// GetBundleForTrustDomain returns the roots of the file, one key of each other kind, and a sequence
// number that grows with the file.
func (p *partner) GetBundleForTrustDomain(of spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	file, err := os.Stat(p.bundle)
	if err != nil {
		return nil, err
	}
	roots, err := x509bundle.Load(of, p.bundle)
	if err != nil {
		return nil, err
	}
	bundle := spiffebundle.FromX509Bundle(roots)
	bundle.SetSequenceNumber(uint64(file.ModTime().UnixMilli()))
	bundle.SetRefreshHint(time.Second)
	if err := bundle.AddJWTAuthority("jwt", p.signer); err != nil {
		return nil, err
	}
	return bundle, bundle.AddWITAuthority("wit", p.signer)
}

func (p *partner) GetX509SVID() (*x509svid.SVID, error) {
	return x509svid.Load(p.certificate, p.key)
}

// federate serves the bundle of a trust domain.
func federate(domain, bundle, profile, certificate, key string) error {
	of, err := spiffeid.TrustDomainFromString(domain)
	if err != nil {
		return err
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	served := &partner{bundle, certificate, key, &signer.PublicKey}
	handler, err := federation.NewHandler(of, served)
	if err != nil {
		return err
	}
	config := &tls.Config{}
	switch profile {
	case "web":
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{pair}
	case "spiffe":
		config = tlsconfig.TLSServerConfig(served)
	default:
		return fmt.Errorf("no such profile: %s", profile)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return err
	}
	say(line{"address": listener.Addr().String()})
	return http.Serve(listener, handler)
}
