package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gorilla/mux"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/views/outcomes"
)

// journalID reads the id in the path and finds its domain.
func (a *API) journalID(s string) (journal.ID, *Domain, error) {
	id, err := journal.ParseID(s)
	if err != nil {
		return id, nil, problem(http.StatusBadRequest, "invalid-journal-id", err.Error())
	}
	d, ok := a.domains[id.Domain]
	if !ok {
		return id, nil, unknownDelivery(id)
	}
	return id, d, nil
}

func unknownDelivery(id journal.ID) *Problem {
	return problem(http.StatusNotFound, "unknown-delivery", fmt.Sprintf("the journal has no entry %s", id))
}

// deliveryStatus tells what became of a delivery, waiting for the end of it if asked to.
func (a *API) deliveryStatus(w http.ResponseWriter, r *http.Request) error {
	id, d, err := a.journalID(mux.Vars(r)["journal"])
	if err != nil {
		return err
	}
	q, err := query(r, "wait")
	if err != nil {
		return err
	}
	var wait time.Duration
	if s, ok := q["wait"]; ok {
		if wait, err = a.waitOf("wait", s); err != nil {
			return err
		}
	}
	tenant, err := a.Tenant(r)
	if err != nil {
		return err
	}
	ctx, cancel := a.patient(r, wait)
	defer cancel()
	lag := d.Outcomes.Lag(id.String())
	s, err := a.await(ctx, d, id, tenant)
	if err != nil {
		return err
	}
	tellLag(w, lag)
	if r.Context().Err() != nil {
		return r.Context().Err()
	}
	if !s.Final {
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Cache-Control", "no-store")
	return answer(w, http.StatusOK, s)
}

// await gives the status of a delivery as soon as it is final, or as it is
// when ctx ends.
func (a *API) await(ctx context.Context, d *Domain, id journal.ID, tenant string) (outcomes.Status, error) {
	var pending *outcomes.Status
	for {
		changed := d.Outcomes.Changed()
		s, ok, err := d.Outcomes.Status(id.String())
		if err != nil {
			return s, err
		}
		if ok && s.Tenant != tenant {
			return s, unknownDelivery(id)
		}
		if !ok {
			// Nothing is known yet: does the position exist at all?
			if pending == nil {
				if pending, err = a.pending(ctx, id, tenant); err != nil {
					return s, err
				}
			}
			s = *pending
		}
		if s.Final {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, nil
		}
	}
}

// pending is the status of an entry that no station has told of.
func (a *API) pending(ctx context.Context, id journal.ID, tenant string) (*outcomes.Status, error) {
	e, err := a.entry(ctx, id, tenant)
	if err != nil {
		return nil, err
	}
	return &outcomes.Status{
		Journal: id.String(), Disposition: journal.Accepted, Signals: []journal.Outcome{},
		Source: e.Source, Tenant: e.Tenant, Correlation: e.Cause.Correlation, At: e.ReceivedAt,
	}, nil
}

// entry reads a raw entry of the tenant. A wait that has run out must not keep
// it from being read.
func (a *API) entry(ctx context.Context, id journal.ID, tenant string) (*journal.Entry, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	e, err := a.Journal.Entry(ctx, id)
	if err != nil {
		if failure.KindOf(err) == failure.NotFound {
			return nil, unknownDelivery(id)
		}
		return nil, err
	}
	if e.Tenant != tenant {
		return nil, unknownDelivery(id)
	}
	return e, nil
}

// entryView is a journal entry for people: metadata, and the body if asked for.
type entryView struct {
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
	Key         *content          `json:"key,omitempty"`
	Body        *content          `json:"body,omitempty"`
	Tombstone   bool              `json:"tombstone,omitempty"`
}

// content is bytes in the most readable form that loses nothing: exactly one
// of the members is set.
type content struct {
	JSON   json.RawMessage `json:"json,omitempty"`
	Text   *string         `json:"text,omitempty"`
	Base64 *string         `json:"base64,omitempty"`
}

func contentOf(b []byte) *content {
	switch {
	case json.Valid(b):
		return &content{JSON: b}
	case utf8.Valid(b):
		s := string(b)
		return &content{Text: &s}
	}
	s := base64.StdEncoding.EncodeToString(b)
	return &content{Base64: &s}
}

func viewOf(id journal.ID, e *journal.Entry) entryView {
	return entryView{
		Journal: id.String(), Source: e.Source, ReceivedAt: e.ReceivedAt, ContentType: e.ContentType, Headers: e.Headers,
		Signature: e.Signature, VendorID: e.VendorID, DedupeKey: strings.ToValidUTF8(e.DedupeKey, "\uFFFD"), BodyHash: e.BodyHash,
		BodyBytes: len(e.Body), Quarantine: e.Quarantine, Cause: e.Cause, Tombstone: e.NoBody,
	}
}

// deliveryContent gives a delivery as it was received.
func (a *API) deliveryContent(w http.ResponseWriter, r *http.Request) error {
	id, _, err := a.journalID(mux.Vars(r)["journal"])
	if err != nil {
		return err
	}
	if _, err := query(r); err != nil {
		return err
	}
	tenant, err := a.Tenant(r)
	if err != nil {
		return err
	}
	e, err := a.entry(r.Context(), id, tenant)
	if err != nil {
		return err
	}
	v := viewOf(id, e)
	if e.Key != nil {
		v.Key = contentOf(e.Key)
	}
	if !e.NoBody {
		v.Body = contentOf(e.Body)
	}
	return answer(w, http.StatusOK, v)
}
