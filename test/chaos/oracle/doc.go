// Package oracle says what must come of the deliveries in the journal: a model
// of Touchstone for the one domain in chaos.yaml, in one goroutine and in
// memory. It follows docs/definition.md and the decisions in docs/adr, and
// imports nothing of the product, so that a mistake of the one is not a mistake
// of the other. It is written to be right, not to be fast: fields are decided
// anew from all claims with every step.
//
// Values are JSON text in the form that encoding/json gives them without HTML
// escaping; times are microseconds since 1970.
//
// It knows nothing of Kafka: who reads the topics, and compares, is package audit.
package oracle

// Policy of a field; see docs/definition.md.
type policy string

const (
	priority policy = "priority"
	latest   policy = "latest"
	earliest policy = "earliest"
	greatest policy = "max"
	least    policy = "min"
	majority policy = "majority"
	union    policy = "union"
	weighted policy = "weighted"
)

// field says who decides a field, and how.
type field struct {
	name      string
	authority []string
	policy    policy
	maxAge    int64 // microseconds; 0 is for ever
	trust     map[string]float64
	halfLife  int64
}

// event says what a change must be like for an event to happen.
type event struct {
	name                       string
	created, deleted, restored bool
	enters, leaves             string
	changes                    []string // of these one; "any" is all
	raised                     string   // this int must be greater than before
}

// resource is what chaos.yaml says of one.
type resource struct {
	name     string
	identity []string
	fields   []field // sorted by name
	// The address group wins as one; its policy is latest.
	group          []string
	groupAuthority []string
	// status is the lifecycle field.
	status          string
	statusAuthority []string
	initial         string
	moves           map[string][]string
	events          []event
}

const (
	second = int64(1e6)
	hour   = 3600 * second
)

var account = &resource{
	name: "account", identity: []string{"number"},
	fields: []field{
		{name: "creditLimit", authority: []string{"billing", "crm"}, policy: greatest},
		{name: "discount", authority: []string{"billing", "crm"}, policy: least},
		{name: "email", authority: []string{"web", "crm"}, policy: latest},
		{name: "name", authority: []string{"crm", "billing"}, policy: priority},
		{name: "note", authority: []string{"crm"}, policy: priority},
		{name: "noteCopy", authority: []string{"crm"}, policy: priority},
		{name: "number", authority: []string{"crm", "billing", "web"}, policy: priority},
		{name: "phone", authority: []string{"crm", "billing"}, policy: earliest},
		{name: "risk", authority: []string{"billing", "crm", "web"}, policy: weighted, maxAge: 48 * hour, halfLife: hour,
			trust: map[string]float64{"billing": 0.9, "crm": 0.5, "web": 0.3}},
		{name: "score", authority: []string{"web", "crm", "billing"}, policy: priority, maxAge: 6 * hour},
		{name: "tags", authority: []string{"web", "crm"}, policy: union},
		{name: "tier", authority: []string{"crm", "billing", "web"}, policy: majority},
	},
	group: []string{"street", "zip", "city"}, groupAuthority: []string{"billing", "crm"},
	status: "status", statusAuthority: []string{"billing", "crm"}, initial: "new",
	moves: map[string][]string{"new": {"active", "closed"}, "active": {"suspended", "closed"}, "suspended": {"active", "closed"}, "closed": {}},
	events: []event{
		{name: "AccountOpened", created: true},
		{name: "AccountActivated", enters: "active"},
		{name: "AccountReactivated", enters: "active", leaves: "suspended"},
		{name: "AccountSuspended", enters: "suspended"},
		{name: "AccountClosed", enters: "closed"},
		{name: "AccountEmailChanged", changes: []string{"email"}},
		{name: "AccountAddressChanged", changes: []string{"street", "zip", "city"}},
		{name: "AccountLimitRaised", changes: []string{"creditLimit"}, raised: "creditLimit"},
		{name: "AccountChanged", changes: []string{"any"}},
		{name: "AccountRemoved", deleted: true},
		{name: "AccountRestored", restored: true},
	},
}

var device = &resource{
	name: "device", identity: []string{"site", "label"},
	fields: []field{
		{name: "label", authority: []string{"web", "crm"}, policy: priority},
		{name: "mileage", authority: []string{"web", "crm"}, policy: greatest},
		{name: "owner", authority: []string{"crm", "web"}, policy: priority},
		{name: "reading", authority: []string{"web"}, policy: latest, maxAge: 2 * hour},
		{name: "site", authority: []string{"web", "crm"}, policy: priority},
	},
	events: []event{
		{name: "DeviceSeen", created: true},
		{name: "DeviceMoved", changes: []string{"owner"}},
		{name: "DeviceChanged", changes: []string{"any"}},
		{name: "DeviceGone", deleted: true},
		{name: "DeviceBack", restored: true},
	},
}

var resources = map[string]*resource{"account": account, "device": device}
