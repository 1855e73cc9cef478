package clienttest

import (
	"fmt"
	"os"

	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/internal/testkit/domaintest"
)

// play runs a fixture against the domain it names.
func play(name string, domains []*definition.Domain) (*domaintest.Result, *domaintest.Fixture, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, err
	}
	f, err := domaintest.Parse(name, text)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range domains {
		if d.Name == f.Domain {
			r, err := domaintest.Run(d, builtin.Kinds(), f)
			return r, f, err
		}
	}
	return nil, nil, fmt.Errorf("%s: found domain %q, expected a sample's", name, f.Domain)
}
