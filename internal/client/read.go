package client

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/touchstone-platform/touchstone/domain/authority"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// Entity is a canonical entity; Provenance only if it was asked for.
type Entity struct {
	ID         string                          `json:"id"`
	Resource   string                          `json:"resource"`
	Version    int64                           `json:"version"`
	State      string                          `json:"state,omitempty"`
	CreatedAt  envelope.Instant                `json:"createdAt"`
	UpdatedAt  envelope.Instant                `json:"updatedAt"`
	Fields     map[string]canonical.Value      `json:"fields"`
	Provenance map[string]canonical.Provenance `json:"provenance,omitempty"`
}

// EntityQuery says how to read one entity.
type EntityQuery struct {
	Provenance bool
	// Wait for what a delivery, by its journal id, did to the entity; Timeout
	// is how long at most, zero leaves it to the server.
	Wait    string
	Timeout time.Duration
}

// Entity reads one entity.
func (c *Client) Entity(ctx context.Context, domain, resource, id string, q EntityQuery) (*Entity, error) {
	v := url.Values{}
	if q.Provenance {
		v.Set("include", "provenance")
	}
	if q.Wait != "" {
		v.Set("wait", q.Wait)
		if q.Timeout > 0 {
			v.Set("timeout", q.Timeout.String())
		}
	}
	var e Entity
	return &e, c.get(ctx, &e, v, "v1", domain, resource, id)
}

// ListQuery asks for a page of entities.
type ListQuery struct {
	// Filters are values, in their text form, that declared filter fields must
	// be equal to.
	Filters    map[string]string
	Provenance bool
	// Limit of the page; zero leaves it to the server. Cursor of the page.
	Limit  int
	Cursor string
}

// EntityPage is one page; Cursor is that of the next page, empty on the last.
type EntityPage struct {
	Items  []Entity `json:"items"`
	Cursor string   `json:"cursor,omitempty"`
}

// Entities reads a page of the entities of a resource, by ascending id.
func (c *Client) Entities(ctx context.Context, domain, resource string, q ListQuery) (*EntityPage, error) {
	v := url.Values{}
	for name, value := range q.Filters {
		v.Set(name, value)
	}
	if q.Provenance {
		v.Set("include", "provenance")
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Cursor != "" {
		v.Set("cursor", q.Cursor)
	}
	var p EntityPage
	return &p, c.get(ctx, &p, v, "v1", domain, resource)
}

// Explanation tells of an entity, field by field, who won and why.
type Explanation struct {
	Domain   string                  `json:"domain"`
	Resource string                  `json:"resource"`
	ID       string                  `json:"id"`
	Version  int64                   `json:"version"`
	Exists   bool                    `json:"exists"`
	Fields   []authority.Explanation `json:"fields"`
}

// Explain explains one field, or every field that has a claim if it is empty.
func (c *Client) Explain(ctx context.Context, domain, resource, id, field string) (*Explanation, error) {
	v := url.Values{}
	if field != "" {
		v.Set("field", field)
	}
	var x Explanation
	return &x, c.get(ctx, &x, v, "v1", domain, resource, id, "explain")
}

// HistoryPage is a page of changes; Cursor is that of the next page.
type HistoryPage struct {
	Items  []*event.Change `json:"items"`
	Cursor string          `json:"cursor,omitempty"`
}

// History reads a page of an entity's changes, the newest first.
func (c *Client) History(ctx context.Context, domain, resource, id string, limit int, cursor string) (*HistoryPage, error) {
	v := url.Values{}
	if limit > 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
	if cursor != "" {
		v.Set("cursor", cursor)
	}
	var p HistoryPage
	return &p, c.get(ctx, &p, v, "v1", domain, resource, id, "history")
}

// Status is what became of a delivery.
type Status struct {
	Journal     string              `json:"journal"`
	Disposition journal.Disposition `json:"disposition"`
	// Final is true when nothing further will happen.
	Final bool `json:"final"`
	// Expected is how many signals the delivery gave; 0 while unknown.
	Expected    int32             `json:"expected"`
	Signals     []journal.Outcome `json:"signals"`
	Source      string            `json:"source,omitempty"`
	Tenant      string            `json:"tenant,omitempty"`
	Reason      string            `json:"reason,omitempty"`
	Detail      string            `json:"detail,omitempty"`
	First       string            `json:"first,omitempty"`
	Correlation string            `json:"correlation,omitempty"`
	At          envelope.Instant  `json:"at"`
}

// Delivery tells what became of a delivery, waiting up to wait for the end of it.
func (c *Client) Delivery(ctx context.Context, journalID string, wait time.Duration) (*Status, error) {
	v := url.Values{}
	if wait > 0 {
		v.Set("wait", wait.String())
	}
	var s Status
	return &s, c.get(ctx, &s, v, "v1", "deliveries", journalID)
}

// Entry is a delivery as it was received; Key and Body only where they were
// asked for.
type Entry struct {
	Journal     string            `json:"journal"`
	Source      string            `json:"source"`
	ReceivedAt  envelope.Instant  `json:"receivedAt"`
	ContentType string            `json:"contentType,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Signature   journal.Signature `json:"signature"`
	VendorID    string            `json:"vendorId,omitempty"`
	DedupeKey   string            `json:"dedupeKey"`
	BodyHash    string            `json:"bodyHash"`
	BodyBytes   int               `json:"bodyBytes"`
	Quarantine  string            `json:"quarantine,omitempty"`
	Cause       envelope.Cause    `json:"cause"`
	Key         *Content          `json:"key,omitempty"`
	Body        *Content          `json:"body,omitempty"`
	Tombstone   bool              `json:"tombstone,omitempty"`
}

// Content is bytes in the most readable form that loses nothing: one of the
// members is set.
type Content struct {
	JSON   json.RawMessage `json:"json,omitempty"`
	Text   *string         `json:"text,omitempty"`
	Base64 []byte          `json:"base64,omitempty"`
}

// Bytes gives the content as it was received.
func (c *Content) Bytes() []byte {
	switch {
	case c == nil:
		return nil
	case c.Text != nil:
		return []byte(*c.Text)
	case c.JSON != nil:
		return c.JSON
	}
	return c.Base64
}

// Entry reads a delivery as it was received.
func (c *Client) Entry(ctx context.Context, journalID string) (*Entry, error) {
	var e Entry
	return &e, c.get(ctx, &e, nil, "v1", "deliveries", journalID, "content")
}

// Trace is everything that belongs to an id.
type Trace struct {
	ID         string          `json:"id"`
	Deliveries []TraceDelivery `json:"deliveries"`
	Changes    []*event.Change `json:"changes"`
	Events     []TraceEvent    `json:"events"`
	// Truncated is true when there is more than a trace shows.
	Truncated bool `json:"truncated,omitempty"`
}

// TraceDelivery is one delivery with what became of it. Entry and Status are
// nil where they are no longer kept.
type TraceDelivery struct {
	Journal string  `json:"journal"`
	Entry   *Entry  `json:"entry,omitempty"`
	Status  *Status `json:"status,omitempty"`
}

// TraceEvent is one event of a change.
type TraceEvent struct {
	event.Ref
	Domain   string `json:"domain"`
	Resource string `json:"resource"`
	Entity   string `json:"entity"`
	Version  int64  `json:"version"`
}

// Trace finds what belongs to a journal id, an event id or a correlation id.
func (c *Client) Trace(ctx context.Context, id string) (*Trace, error) {
	var t Trace
	return &t, c.get(ctx, &t, nil, "v1", "trace", id)
}

// Source is one declared source.
type Source struct {
	Domain     string   `json:"domain"`
	Name       string   `json:"name"`
	Doc        string   `json:"doc,omitempty"`
	Connector  string   `json:"connector"`
	Deliveries bool     `json:"deliveries"`
	Files      bool     `json:"files"`
	Topics     []string `json:"topics,omitempty"`
	// Ingress is the path that takes its deliveries or files; empty if none does.
	Ingress string `json:"ingress,omitempty"`
}

// Sources lists every source that the server knows.
func (c *Client) Sources(ctx context.Context) ([]Source, error) {
	var page struct {
		Items []Source `json:"items"`
	}
	err := c.get(ctx, &page, nil, "v1", "sources")
	return page.Items, err
}

// Domains lists the domains that the server runs, sorted by name.
func (c *Client) Domains(ctx context.Context) ([]string, error) { return c.domainsWhere(ctx, "") }

// DomainsWithCommands lists the domains that take commands, sorted by name.
func (c *Client) DomainsWithCommands(ctx context.Context) ([]string, error) {
	return c.domainsWhere(ctx, "admit")
}

// domainsWhere lists the domains that have a station; any, if it is empty.
func (c *Client) domainsWhere(ctx context.Context, station string) ([]string, error) {
	var t struct {
		Topology struct {
			Groups []struct {
				Domain  string `json:"domain"`
				Station string `json:"station"`
			} `json:"groups"`
		} `json:"topology"`
	}
	if err := c.get(ctx, &t, nil, "v1", "topology"); err != nil {
		return nil, err
	}
	var names []string
	for _, g := range t.Topology.Groups {
		if station == "" || g.Station == station {
			names = append(names, g.Domain)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// DomainsWith lists the domains that have a resource of a name.
func (c *Client) DomainsWith(ctx context.Context, resource string) ([]string, error) {
	all, err := c.Domains(ctx)
	if err != nil {
		return nil, err
	}
	var having []string
	for _, d := range all {
		switch _, err := c.Entities(ctx, d, resource, ListQuery{Limit: 1}); {
		case err == nil:
			having = append(having, d)
		case ProblemCode(err) != "unknown-resource":
			return nil, err
		}
	}
	return having, nil
}
