// Eventlog reads logs of measured boots by go-attestation, for tests that compare it with our own
// reader. Each line of the input is JSON with a log and the quoted PCRs of the SHA-256 bank; each
// line of the output says what the log proves.
package main

import (
	"bufio"
	"crypto"
	"encoding/json"
	"os"

	"github.com/google/go-attestation/attest"
)

type input struct {
	Log  []byte         `json:"log"`
	PCRs map[int][]byte `json:"pcrs"`
}

type output struct {
	// Error is why the log was refused.
	Error string `json:"error,omitempty"`
	// Digests are those of the events, by PCR.
	Digests map[int][][]byte `json:"digests,omitempty"`
	// SecureBoot is absent if the log does not prove one or the other.
	SecureBoot *bool `json:"secure_boot,omitempty"`
}

func read(in input) output {
	log, err := attest.ParseEventLog(in.Log)
	if err != nil {
		return output{Error: err.Error()}
	}
	var pcrs []attest.PCR
	for index, digest := range in.PCRs {
		pcrs = append(pcrs, attest.PCR{Index: index, Digest: digest, DigestAlg: crypto.SHA256})
	}
	events, err := log.Verify(pcrs)
	if err != nil {
		return output{Error: err.Error()}
	}
	out := output{Digests: map[int][][]byte{}}
	for _, event := range events {
		out.Digests[event.Index] = append(out.Digests[event.Index], event.Digest)
	}
	if state, err := attest.ParseSecurebootState(events); err == nil {
		out.SecureBoot = &state.Enabled
	}
	return out
}

func main() {
	lines := bufio.NewReader(os.Stdin)
	decoder, encoder := json.NewDecoder(lines), json.NewEncoder(os.Stdout)
	for decoder.More() {
		var in input
		if err := decoder.Decode(&in); err != nil {
			panic(err)
		}
		if err := encoder.Encode(read(in)); err != nil {
			panic(err)
		}
	}
}
