package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/internal/app"
)

// Oracle: with the simulated back ends, a canonical customer with provenance
// from several sources and its domain events appear; an order goes through
// its lifecycle.
func TestSamplesComeAlive(t *testing.T) {
	s := start(t, t.TempDir(), samples(t), func(o *app.DevOptions) { o.Simulate, o.SimulatePause = true, 50*time.Millisecond })
	eventually(t, "customer C-1001 with provenance of three sources", 30*time.Second, func() (bool, string) {
		a := s.get("/v1/customer-management/customer/C-1001?include=provenance")
		provenance, _ := a.json["provenance"].(map[string]any)
		sources := map[any]bool{}
		for _, p := range provenance {
			sources[p.(map[string]any)["source"]] = true
		}
		return sources["crm"] && sources["billing"] && sources["marketing"] && sources["risk"], fmt.Sprintf("%d %s", a.status, a.body)
	})
	eventually(t, "a paid order", 30*time.Second, func() (bool, string) {
		a := s.get("/v1/order-fulfilment/order?status=paid")
		items, _ := a.json["items"].([]any)
		return len(items) > 0, fmt.Sprintf("%d %s", a.status, a.body)
	})
}
