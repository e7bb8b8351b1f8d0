package main

import (
	"context"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

// identity says all that the Workload API gives, once, and then each X.509 context that follows.
func identity(ctx context.Context, audience string) error {
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	first, err := all(ctx, client, audience)
	if err != nil {
		return err
	}
	say(first)
	return client.WatchX509Context(ctx, &contexts{ctx, client, audience})
}

// all asks each method of the Workload API, and lets go-spiffe verify each document.
func all(ctx context.Context, client *workloadapi.Client, audience string) (line, error) {
	x509, err := workloadapi.NewX509Source(ctx, workloadapi.WithClient(client))
	if err != nil {
		return nil, err
	}
	defer x509.Close()
	jwt, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClient(client))
	if err != nil {
		return nil, err
	}
	defer jwt.Close()
	svid, err := x509.GetX509SVID()
	if err != nil {
		return nil, err
	}
	verified, _, err := x509svid.Verify(svid.Certificates, x509)
	if err != nil {
		return nil, err
	}
	token, err := jwt.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return nil, err
	}
	byKeys, err := jwtsvid.ParseAndValidate(token.Marshal(), jwt, []string{audience})
	if err != nil {
		return nil, err
	}
	byCall, err := client.ValidateJWTSVID(ctx, token.Marshal(), audience)
	if err != nil {
		return nil, err
	}
	_, elsewhere := client.ValidateJWTSVID(ctx, token.Marshal(), "https://elsewhere.example")
	_, wit := client.FetchWITSVID(ctx, "")
	roots, keys, err := bundles(ctx, client)
	if err != nil {
		return nil, err
	}
	return line{
		"x509": verified, "jwt_by_keys": byKeys.ID, "jwt_by_call": byCall.ID,
		"elsewhere": status.Code(elsewhere).String(), "wit": status.Code(wit).String(),
		"roots": roots, "keys": keys,
	}, nil
}

// bundles returns how many roots and keys each trust domain has.
func bundles(ctx context.Context, client *workloadapi.Client) (roots, keys map[string]int, err error) {
	x509, err := client.FetchX509Bundles(ctx)
	if err != nil {
		return nil, nil, err
	}
	jwt, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return nil, nil, err
	}
	roots, keys = map[string]int{}, map[string]int{}
	for _, bundle := range x509.Bundles() {
		roots[bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	for _, bundle := range jwt.Bundles() {
		keys[bundle.TrustDomain().Name()] = len(bundle.JWTAuthorities())
	}
	return roots, keys, nil
}

// contexts says each context that a watch brings, and why it brings none.
type contexts struct {
	ctx      context.Context
	client   *workloadapi.Client
	audience string
}

func (c *contexts) OnX509ContextUpdate(next *workloadapi.X509Context) {
	svid := next.DefaultSVID()
	roots := map[string]int{}
	for _, bundle := range next.Bundles.Bundles() {
		roots[bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	say(line{"id": svid.ID, "serial": svid.Certificates[0].SerialNumber.Text(16), "roots": roots})
}

func (c *contexts) OnX509ContextWatchError(err error) {
	_, x509 := c.client.FetchX509SVID(c.ctx)
	_, jwt := c.client.FetchJWTSVID(c.ctx, jwtsvid.Params{Audience: c.audience})
	say(line{
		"watch": status.Code(err).String(), "x509": status.Code(x509).String(),
		"jwt": status.Code(jwt).String(),
	})
}
