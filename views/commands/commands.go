// Package commands is the read model of commands: each by its id with its
// timeline and the calls that were made for it, and lists by status, entity,
// connection, and by whether a failure is open or a person has to look.
//
// It keeps no copy of what track wrote: it is an index over its table.
package commands

import (
	"fmt"
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views"
)

// Decode reads what the track table holds.
type Decode func([]byte) (*run.Progress, error)

// Index is over the track table of one domain.
type Index struct {
	domain string
	decode Decode
}

var _ views.Index = (*Index)(nil)

// New makes the index of a domain's commands.
func New(domain string, decode Decode) *Index { return &Index{domain, decode} }

// Name is "<domain>.commands".
func (x *Index) Name() string { return x.domain + ".commands" }

// Topic is the changelog of the domain's track table.
func (x *Index) Topic() string { return topology.TableName(x.domain, topology.Track) }

// Layout identifies what the index covers.
func (x *Index) Layout() string { return "commands1" }

// Decode reads what is told of a command.
func (x *Index) Decode(value []byte) (any, error) { return x.decode(value) }

// Terms of a command.
func (x *Index) Terms(_ string, value any) (views.Terms, error) {
	p, ok := value.(*run.Progress)
	if !ok {
		return nil, fmt.Errorf("terms of %T: expected the progress of a command", value)
	}
	if p.Report == nil {
		return nil, nil // calls of a command that nothing else is known of
	}
	terms := []views.Term{views.TermOf(""), views.TermOf("status", string(p.Report.Saga.Status)), views.TermOf("entity", p.Report.Key)}
	for i := range p.Runs {
		terms = append(terms, views.TermOf("connection", p.Runs[i].Connection))
	}
	if open(p) {
		terms = append(terms, views.TermOf("open"))
	}
	if Attention(p) {
		terms = append(terms, views.TermOf("attention"))
	}
	return views.NewTerms(terms), nil
}

// open tells whether a failure of a command is not resolved.
func open(p *run.Progress) bool {
	for i := range p.Runs {
		for j := range p.Runs[i].Attempts {
			if f := p.Runs[i].Attempts[j].Failure; f != nil && f.Resolved == 0 {
				return true
			}
		}
	}
	return false
}

// Attention tells whether a person has to do something: decide about a step, or
// see to what could neither be done nor undone.
func Attention(p *run.Progress) bool {
	if p.Report == nil {
		return false
	}
	s := &p.Report.Saga
	return s.Status == saga.Stuck || s.Status == saga.CompensationFailed || len(Decisions(s)) > 0
}

// Decisions names the steps of a command that wait for somebody's decision.
func Decisions(s *saga.Saga) []string {
	var out []string
	for i := range s.Steps {
		if s.Steps[i].Do.Phase == saga.Asked && s.Steps[i].Approval {
			out = append(out, s.Steps[i].Name)
		}
	}
	return out
}

// Reader answers queries from the index. It is safe for concurrent use.
type Reader struct {
	index *Index
	from  views.IndexReader
}

// Reader reads the table and what the engine keeps of the index.
func (x *Index) Reader(from views.IndexReader) *Reader { return &Reader{x, from} }

// Ready tells whether the table has caught up since the start.
func (r *Reader) Ready() bool { return r.from.Ready() }

// Changed gives a channel that is closed at the next update of the table.
func (r *Reader) Changed() <-chan struct{} { return r.from.Changed() }

// Lag tells how far a command may be behind what is committed; all of them, if no
// id is given.
func (r *Reader) Lag(id string) views.Lag { return r.from.Lag(id) }

// Get gives what is told of a command; nil if nothing is.
func (r *Reader) Get(id string) (*run.Progress, error) {
	b, err := r.from.Get(id)
	if err != nil {
		return nil, failure.Wrap(failure.Transient, "read command", id, err)
	}
	if b == nil {
		return nil, nil
	}
	p, err := r.index.decode(b)
	if err != nil {
		return nil, failure.Wrap(failure.Poison, "read command", id, err)
	}
	return p, nil
}

// Query asks for commands in ascending order of their ids. What is set must hold.
type Query struct {
	// Tenant whose commands are wanted.
	Tenant string
	Status saga.Status
	// Entity is the key of an entity (canonical.EntityKey).
	Entity     string
	Connection string
	// Open: a failure is not resolved. Attention: a person has to do something.
	Open, Attention bool
	// After is the id behind which to begin; empty begins with the first.
	After string
	Limit int
}

// Page is part of the answer to a query.
type Page struct {
	Commands []*run.Progress
	// Next is the After of the next page; empty if this is the last one.
	Next string
}

// Budget is how many candidates one page looks at before it gives what it has
// found.
const Budget = 5000

func (q *Query) term() views.Term {
	switch { // the most selective first
	case q.Entity != "":
		return views.TermOf("entity", q.Entity)
	case q.Attention:
		return views.TermOf("attention")
	case q.Open:
		return views.TermOf("open")
	case q.Status != "":
		return views.TermOf("status", string(q.Status))
	case q.Connection != "":
		return views.TermOf("connection", q.Connection)
	}
	return views.TermOf("")
}

func (q *Query) matches(p *run.Progress) bool {
	return p.Report != nil && strings.HasPrefix(p.Report.Key, q.Tenant+"/") &&
		(q.Status == "" || p.Report.Saga.Status == q.Status) && (q.Entity == "" || p.Report.Key == q.Entity) &&
		(q.Connection == "" || slices.ContainsFunc(p.Runs, func(r run.Run) bool { return r.Connection == q.Connection })) &&
		(!q.Open || open(p)) && (!q.Attention || Attention(p))
}

// List gives one page of a query.
func (r *Reader) List(q Query) (Page, error) {
	if q.Limit < 1 {
		return Page{}, failure.New(failure.Validation, "list commands", "", "limit: found %d, expected at least 1", q.Limit)
	}
	var page Page
	from, looked := q.After, 0
	for {
		batch := min(q.Limit+1, Budget-looked)
		keys := make([]string, 0, batch)
		err := r.from.Lookup(q.term(), "", from, func(key string) bool {
			keys = append(keys, key)
			return len(keys) < batch
		})
		if err != nil {
			return Page{}, failure.Wrap(failure.Transient, "list commands", "", err)
		}
		for _, key := range keys {
			p, err := r.Get(key)
			if err != nil {
				return Page{}, err
			}
			if p != nil && q.matches(p) {
				if len(page.Commands) == q.Limit {
					page.Next = page.Commands[q.Limit-1].Report.Saga.ID
					return page, nil
				}
				page.Commands = append(page.Commands, p)
			}
			from = key
		}
		looked += len(keys)
		switch {
		case len(keys) < batch:
			return page, nil
		case looked >= Budget:
			page.Next = from
			return page, nil
		}
	}
}
