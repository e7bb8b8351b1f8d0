// Command objects reads YAML documents from standard input as Kubernetes' clients read them, and
// prints each as JSON, one a line. A member that is there twice is an error.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	documents := utilyaml.NewYAMLReader(bufio.NewReader(in))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		object, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return err
		}
		if bytes.Equal(object, []byte("null")) {
			continue
		}
		if _, err := fmt.Fprintf(out, "%s\n", object); err != nil {
			return err
		}
	}
}
