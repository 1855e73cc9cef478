package workload

import (
	"fmt"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/event"
)

// Verdict is how what a subject left compares with what must be there.
type Verdict struct {
	Accounts int `json:"accounts"`
	// WrongStates are accounts whose state differs or is missing.
	WrongStates int `json:"wrongStates"`
	// Changes must have been written once each; WrongChanges are accounts whose
	// changes differ as a multiset, Surplus the changes beyond their number
	// (negative if some are missing).
	Changes      int64 `json:"changes"`
	WrongChanges int   `json:"wrongChanges"`
	Surplus      int64 `json:"surplusChanges"`
	// Examples name a few that are wrong.
	Examples []string `json:"examples,omitempty"`
}

// Right tells whether nothing differs.
func (v Verdict) Right() bool { return v.WrongStates == 0 && v.WrongChanges == 0 }

func (v Verdict) String() string {
	if v.Right() {
		return fmt.Sprintf("%d accounts and %d changes as they must be", v.Accounts, v.Changes)
	}
	return fmt.Sprintf("%d of %d accounts have another state, %d have other changes (%+d changes): %v", v.WrongStates, v.Accounts, v.WrongChanges, v.Surplus, v.Examples)
}

// Check compares a subject's state and changes with an oracle. Give it every
// record of the table and of the changes, in the order of each partition.
type Check struct {
	oracle *Oracle
	found  []found
}

type found struct {
	state    uint64
	changes  uint64
	nChanges int32
}

// NewCheck begins a comparison. The oracle must have folded all facts.
func NewCheck(o *Oracle) *Check { return &Check{oracle: o, found: make([]found, len(o.accounts))} }

// State takes a record of the table; a later one of the same key replaces it.
func (c *Check) State(e *canonical.Entity) error {
	n, err := c.account(e.ID)
	if err != nil {
		return err
	}
	w := newImage(c.oracle.seed)
	w.text(e.ID)
	w.numbers(e.Version, factOf(int64(e.CreatedAt)-250), factOf(int64(e.UpdatedAt)-250), factOf(int64(e.SeenAt)-250))
	for i := range e.Fields {
		f := &e.Fields[i]
		if f.Winner < 0 || int(f.Winner) >= len(e.Contributions) {
			return fmt.Errorf("account %s: field %s has winner %d of %d contributions", e.ID, f.Name, f.Winner, len(e.Contributions))
		}
		w.text(f.Name, e.Contributions[f.Winner].Source)
		w.numbers(f.Since)
		w.hashes(hashOf(c.oracle.seed, string(f.Value)))
	}
	for i := range e.Contributions {
		k := &e.Contributions[i]
		w.text("contribution", k.Source, k.SourceKey)
		for _, r := range k.Registers {
			if r.Stamp < 0 || int(r.Stamp) >= len(k.Stamps) {
				return fmt.Errorf("account %s: register %s refers to stamp %d of %d", e.ID, r.Name, r.Stamp, len(k.Stamps))
			}
			s := k.Stamps[r.Stamp]
			number, err := Number(s.Signal)
			if err != nil {
				return err
			}
			if s.Sequence != number || factOf(int64(s.OccurredAt)) != number {
				number = -1
			}
			w.text(r.Name)
			w.numbers(number)
			w.hashes(hashOf(c.oracle.seed, string(r.Value)))
		}
	}
	if !e.Exists || e.Tenant == "" || e.Resource != Resource {
		w.text("not a live account")
	}
	c.found[n].state = w.sum()
	return nil
}

// Change takes a record of the changes.
func (c *Check) Change(e *event.Change) error {
	n, err := c.account(e.ID)
	if err != nil {
		return err
	}
	number, err := Number(e.Signal)
	if err != nil {
		return err
	}
	w := newImage(c.oracle.seed)
	w.text(e.ID, string(e.Kind), e.Source)
	w.numbers(e.Version, number)
	for _, f := range e.Changed {
		w.text(f.Name, f.Source, f.SourceKey)
		w.hashes(hashOf(c.oracle.seed, string(f.Before)), hashOf(c.oracle.seed, string(f.After)))
	}
	w.text("after")
	for _, f := range e.After {
		w.text(f.Name)
		w.hashes(hashOf(c.oracle.seed, string(f.Value)))
	}
	for _, r := range e.Events {
		w.text(r.ID, r.Type)
	}
	c.found[n].changes += w.sum()
	c.found[n].nChanges++
	return nil
}

// Verdict compares.
func (c *Check) Verdict() Verdict {
	v := Verdict{Accounts: len(c.found)}
	for n := range c.found {
		f, a := &c.found[n], &c.oracle.accounts[n]
		v.Changes += int64(a.nChanges)
		v.Surplus += int64(f.nChanges - a.nChanges)
		wrong := ""
		if a.version > 0 && f.state != c.oracle.state(n) || a.version == 0 && f.state != 0 {
			v.WrongStates++
			wrong = "state"
		}
		if f.nChanges != a.nChanges || f.changes != a.changes {
			v.WrongChanges++
			wrong += fmt.Sprintf(" %d changes, expected %d", f.nChanges, a.nChanges)
		}
		if wrong != "" && len(v.Examples) < 5 {
			v.Examples = append(v.Examples, Account(n)+": "+wrong)
		}
	}
	return v
}

func (c *Check) account(id string) (int, error) {
	n, err := accountOf(id)
	if err == nil && n >= len(c.found) {
		err = fmt.Errorf("account %s: expected one of %d", id, len(c.found))
	}
	return n, err
}

// factOf gives which fact occurred at a moment, 0 if none did.
func factOf(at int64) int64 {
	if d := at - int64(epoch); d > 0 && d%1000 == 0 {
		return d / 1000
	}
	return 0
}
