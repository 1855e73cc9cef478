package app_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/internal/app"
	"github.com/touchstone-platform/touchstone/registry"
	"github.com/touchstone-platform/touchstone/topology"
)

const machines = `apiVersion: touchstone/v1
domain: %s
owners: {business: a, technical: b, changeAuthority: c}
resources:
  machine:
    identity: serial
    fields:
      serial: {type: string, authority: [sensors]}
sources:
  sensors:
    connector: webhook
    settings: {scheme: none}
    map:
      - {resource: machine, key: body.serial, fields: {serial: body.serial}}
`

func define(t *testing.T, text string) []*definition.Domain {
	t.Helper()
	d, err := registry.Parse("test.yaml", []byte(text), builtin.Kinds())
	if err != nil {
		t.Fatal(err)
	}
	return []*definition.Domain{d}
}

// Oracle: a start that fails late, when goroutines wait for the end of the
// process already, ends the process with its error instead of hanging.
func TestAFailedStartEnds(t *testing.T) {
	domains := define(t, fmt.Sprintf(machines, "machines"))
	domains[0].Name = "events" // a path of the API, which is assembled last
	o := app.DevOptions{Dir: t.TempDir(), Listen: "127.0.0.1:0", KafkaListen: "127.0.0.1:0", RegistryListen: "127.0.0.1:0"}
	o.Domains, o.Topology = domains, topology.Defaults()
	o.Secrets = func(ref string) (string, error) { return "", fmt.Errorf("secret %s is not set", ref) }
	ended := make(chan error, 1)
	go func() { ended <- app.Dev(context.Background(), o) }()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "domain events") {
			t.Fatalf("ended with %v, expected the reason to name the domain", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the process hangs")
	}
}
