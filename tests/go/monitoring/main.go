// Command monitoring reads objects of the Prometheus operator from standard input as the operator
// reads them, into its own types, and refuses a field that these do not have. A document of another
// group is passed over. The names of the objects that were read are printed, one a line.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring"
	v1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run reads all documents of in.
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
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		if err := read(document, out); err != nil {
			return err
		}
	}
}

// read takes one document, if it is of the operator's group.
func read(document []byte, out io.Writer) error {
	var object metav1.PartialObjectMetadata
	if err := yaml.Unmarshal(document, &object); err != nil {
		return err
	}
	version, err := schema.ParseGroupVersion(object.APIVersion)
	if err != nil {
		return err
	}
	if version.Group != monitoring.GroupName {
		return nil
	}
	var into any
	switch object.Kind {
	case v1.ServiceMonitorsKind:
		into = new(v1.ServiceMonitor)
	case v1.PrometheusRuleKind:
		into = new(v1.PrometheusRule)
	default:
		return fmt.Errorf("%s/%s is not known here", object.APIVersion, object.Kind)
	}
	if err := yaml.UnmarshalStrict(document, into); err != nil {
		return fmt.Errorf("%s %s: %w", object.Kind, object.Name, err)
	}
	_, err = fmt.Fprintf(out, "%s %s\n", object.Kind, object.Name)
	return err
}
