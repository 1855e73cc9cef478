package oracle

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// Entry is one delivery as it stands in the journal.
type Entry struct {
	Partition  int32
	Offset     int64
	Source     string
	ReceivedAt int64
	// EventID as the sender gave it in a header.
	EventID string
	Body    []byte
}

// ID names the entry.
func (e *Entry) ID() string { return fmt.Sprintf("chaos:%d:%d", e.Partition, e.Offset) }

// Signal is what one source claims about one of its records.
type Signal struct {
	ID, Journal  string
	Index, Count int
	Source, Key  string
	Resource     string
	// Entity is the id of the entity spoken of; empty if it cannot be found,
	// which makes the signal a dead letter.
	Entity  string
	Deleted bool
	// When is OccurredAt, then Sequence, then ReceivedAt, then ID.
	When   Stamp
	Fields map[string]string
}

// Stamp orders what is said of one source record.
type Stamp struct {
	OccurredAt, Sequence, ReceivedAt int64
	Signal                           string
}

// After tells whether s is later than t.
func (s Stamp) After(t Stamp) bool {
	switch {
	case s.OccurredAt != t.OccurredAt:
		return s.OccurredAt > t.OccurredAt
	case s.Sequence != t.Sequence:
		return s.Sequence > t.Sequence
	case s.ReceivedAt != t.ReceivedAt:
		return s.ReceivedAt > t.ReceivedAt
	}
	return s.Signal > t.Signal
}

// Kind of verdict.
type Kind string

// What may become of an entry at the inbox.
const (
	Taken     Kind = "taken"
	Ignored   Kind = "ignored"
	Duplicate Kind = "duplicate"
	Conflict  Kind = "conflict"
	Dead      Kind = "dead-letter"
)

// Verdict is what must become of one entry.
type Verdict struct {
	Kind    Kind
	First   string // of a duplicate or conflict: the entry that came first
	Signals []Signal
	Why     string
}

// Inbox judges the entries of a journal, each partition in its order. Use New.
type Inbox struct {
	seen map[string]seen
}

type seen struct {
	id   string
	hash [32]byte
}

// NewInbox makes an inbox that has seen nothing.
func NewInbox() *Inbox { return &Inbox{seen: map[string]seen{}} }

// Take judges the next entry of a partition. lost tells that the inbox made a
// dead letter of it although it had no reason to, as a panic does.
func (in *Inbox) Take(e *Entry, lost bool) Verdict {
	hash := sha256.Sum256(content(e))
	id := e.EventID
	body, err := parse(e.Body)
	if m, ok := body.(map[string]any); e.Source == "billing" && err == nil && ok {
		id, _ = m["event"].(string)
	}
	key := fmt.Sprintf("%d/%s/%s", e.Partition, e.Source, id)
	if id == "" {
		key = fmt.Sprintf("%d/%s#%x", e.Partition, e.Source, hash)
	}
	if before, ok := in.seen[key]; ok {
		if lost {
			return Verdict{Kind: Dead, Why: "a panic"}
		}
		if before.hash == hash {
			return Verdict{Kind: Duplicate, First: before.id}
		}
		return Verdict{Kind: Conflict, First: before.id}
	}
	if lost {
		return Verdict{Kind: Dead, Why: "a panic"}
	}
	if err != nil {
		return Verdict{Kind: Dead, Why: err.Error()}
	}
	signals, err := read(e, body)
	if err != nil {
		return Verdict{Kind: Dead, Why: err.Error()}
	}
	in.seen[key] = seen{e.ID(), hash}
	if len(signals) == 0 {
		return Verdict{Kind: Ignored}
	}
	for i := range signals {
		s := &signals[i]
		s.Journal, s.ID, s.Index, s.Count = e.ID(), e.ID(), i, len(signals)
		if len(signals) > 1 {
			s.ID = fmt.Sprintf("%s#%d", e.ID(), i)
		}
		s.Source = e.Source
		s.When.ReceivedAt, s.When.Signal = e.ReceivedAt, s.ID
		if s.When.OccurredAt == 0 {
			s.When.OccurredAt = e.ReceivedAt
		}
	}
	return Verdict{Kind: Taken, Signals: signals}
}

// content is what copies share: the JSON without what is volatile.
func content(e *Entry) []byte {
	v, err := parse(e.Body)
	if err != nil {
		return e.Body
	}
	if m, ok := v.(map[string]any); ok && e.Source == "web" {
		delete(m, "sentAt")
	}
	return []byte(text(v))
}

// maxDepth is the deepest nesting of a body.
const maxDepth = 64

func parse(body []byte) (any, error) {
	if !utf8.Valid(body) {
		return nil, fmt.Errorf("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	depth, deepest := 0, 0
	for _, c := range body { // strings of the workload hold no brackets
		switch c {
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		}
	}
	if deepest > maxDepth {
		return nil, fmt.Errorf("nested %d deep", deepest)
	}
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	return v, nil
}

// text gives the JSON text of a value.
func text(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // it came from JSON
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// reader reads one record of a delivery by the rules of a source.
type reader struct {
	m   map[string]any
	err error
	out map[string]string
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// claim reads a member; a null is a claim, an absent member is none.
func (r *reader) claim(name, member string, convert func(any) (any, error)) {
	v, ok := r.m[member]
	if !ok {
		return
	}
	if v == nil {
		r.out[name] = "null"
		return
	}
	c, err := convert(v)
	if err != nil {
		r.fail("%s: %w", name, err)
		return
	}
	r.out[name] = text(c)
}

func str(v any) (any, error) {
	s, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf("%v is no string", v)
	}
	return s, nil
}

func lower(v any) (any, error) {
	s, ok := v.(string)
	return strings.ToLower(s), must(ok, v)
}

func trim(v any) (any, error) {
	s, ok := v.(string)
	return strings.TrimSpace(s), must(ok, v)
}

func must(ok bool, v any) error {
	if !ok {
		return fmt.Errorf("%v is no string", v)
	}
	return nil
}

func integer(v any) (any, error) {
	n, ok := v.(json.Number)
	if ok {
		if i, err := n.Int64(); err == nil {
			return i, nil
		}
	}
	return nil, fmt.Errorf("%v is no int", v)
}

func stringsOf(v any) (any, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%v is no list", v)
	}
	for _, item := range list {
		if _, ok := item.(string); !ok {
			return nil, fmt.Errorf("%v is no list of strings", v)
		}
	}
	return list, nil
}

func oneOf(words ...string) func(any) (any, error) {
	return func(v any) (any, error) {
		for _, w := range words {
			if v == w {
				return w, nil
			}
		}
		return nil, fmt.Errorf("%v is none of %v", v, words)
	}
}

var stages = map[string]string{"lead": "new", "customer": "active", "paused": "suspended", "lost": "closed"}

func stage(v any) (any, error) {
	s, _ := v.(string)
	if to, ok := stages[s]; ok {
		return to, nil
	}
	return nil, fmt.Errorf("status %v is not declared", v)
}

var tier, state = oneOf("basic", "silver", "gold"), oneOf("new", "active", "suspended", "closed")

// required reads an identity field: its claim, and what it identifies by.
func (r *reader) required(name string) string {
	v, ok := r.m[name]
	switch s := v.(type) {
	case string:
		if s == "" {
			r.fail("%s is empty", name)
		}
		r.out[name] = text(s)
		return s
	case nil:
		if !ok {
			r.fail("%s is missing", name)
		}
		r.out[name] = "null"
		return ""
	}
	r.fail("%s: %v is no string", name, v)
	return ""
}

func (r *reader) key(name string) string {
	s, ok := r.m[name].(string)
	if !ok || s == "" {
		r.fail("key %s is missing", name)
	}
	return s
}

// when reads a moment: RFC 3339, or a number since 1970 whose unit its size tells.
func (r *reader) when(m map[string]any, optional bool) int64 {
	switch v := m["at"].(type) {
	case string:
		t, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			r.fail("at: %w", err)
		}
		return t.UnixMicro()
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			r.fail("at: %w", err)
		}
		switch a := math.Abs(float64(n)); {
		case a < 1e11:
			return n * 1e6
		case a < 1e14:
			return n * 1e3
		case a < 1e17:
			return n
		}
		return n / 1e3
	case nil:
		if optional {
			return 0
		}
	}
	r.fail("at: %v is no moment", m["at"])
	return 0
}

func (r *reader) int(name string) int64 {
	n, ok := r.m[name].(json.Number)
	if !ok {
		r.fail("%s: %v is no int", name, r.m[name])
		return 0
	}
	i, err := n.Int64()
	if err != nil {
		r.fail("%s: %w", name, err)
	}
	return i
}

// signal completes what a reader has read.
func (r *reader) signal(res *resource, key string, when Stamp, gone bool) Signal {
	s := Signal{Resource: res.name, Key: key, When: when, Deleted: gone, Fields: r.out}
	var id []string
	for _, name := range res.identity {
		var v string
		if err := json.Unmarshal([]byte(r.out[name]), &v); err != nil || v == "" {
			id = nil
			break
		}
		id = append(id, escape(v))
	}
	s.Entity = strings.Join(id, "~")
	if gone {
		s.Fields = nil
	}
	return s
}

// escape spells an identity value: letters, digits and some signs stay, every
// other byte is "=" and two hexadecimal digits.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("._@:+-", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

// largest is what a signal may have in bytes, about: the deliveries of the
// workload are either far below or far above it.
const largest = 1_000_000

// read applies the rules of a source.
func read(e *Entry, body any) ([]Signal, error) {
	m, ok := body.(map[string]any)
	if _, list := body.([]any); !ok && !list {
		return nil, fmt.Errorf("neither an object nor a list")
	}
	var out []Signal
	var err error
	switch e.Source {
	case "crm":
		out, err = crm(m)
	case "billing":
		out, err = billing(m)
	case "web":
		out, err = web(m)
	default:
		return nil, fmt.Errorf("unknown source %s", e.Source)
	}
	for i := range out {
		n := 0
		for _, v := range out[i].Fields {
			n += len(v)
		}
		if n > largest {
			return nil, fmt.Errorf("a signal of %d bytes", n)
		}
	}
	return out, err
}

func crm(m map[string]any) ([]Signal, error) {
	r := &reader{m: m, out: map[string]string{}}
	gone, _ := m["gone"].(bool)
	switch m["type"] {
	case "account":
		key := r.key("id")
		when := Stamp{OccurredAt: r.when(m, false), Sequence: r.int("rev")}
		r.required("number")
		if !gone {
			r.claim("name", "name", trim)
			r.claim("email", "email", lower)
			r.claim("phone", "phone", str)
			r.claim("creditLimit", "creditLimit", integer)
			r.claim("discount", "discount", integer)
			r.claim("tier", "tier", tier)
			r.claim("tags", "tags", stringsOf)
			r.claim("risk", "risk", integer)
			r.claim("score", "score", integer)
			r.claim("note", "note", str)
			r.claim("noteCopy", "note", str)
			r.claim("status", "stage", stage)
			if a, ok := m["address"].(map[string]any); ok {
				r.address(a)
			}
		}
		return []Signal{r.signal(account, key, when, gone)}, r.err
	case "device":
		key := r.key("id")
		when := Stamp{OccurredAt: r.when(m, false), Sequence: r.int("rev")}
		r.required("site")
		r.required("label")
		r.claim("owner", "owner", str)
		r.claim("mileage", "mileage", integer)
		return []Signal{r.signal(device, key, when, gone)}, r.err
	}
	return nil, nil
}

func (r *reader) address(a map[string]any) {
	inner := &reader{m: a, out: r.out}
	for _, name := range account.group {
		inner.claim(name, name, str)
	}
	if inner.err != nil {
		r.fail("%w", inner.err)
	}
}

func billing(m map[string]any) ([]Signal, error) {
	a, ok := m["account"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("no account")
	}
	r := &reader{m: a, out: map[string]string{}}
	key := r.key("id")
	when := Stamp{OccurredAt: r.when(m, false), Sequence: r.int("rev")}
	gone := m["kind"] == "account.closed-books"
	r.required("number")
	if !gone {
		r.claim("name", "holder", str)
		r.claim("phone", "phone", str)
		r.claim("creditLimit", "creditLimit", integer)
		r.claim("discount", "discount", integer)
		r.claim("tier", "tier", tier)
		r.claim("risk", "risk", integer)
		r.claim("score", "score", integer)
		r.claim("status", "status", state)
		r.address(a)
	}
	return []Signal{r.signal(account, key, when, gone)}, r.err
}

func web(m map[string]any) ([]Signal, error) {
	var out []Signal
	if a, ok := m["account"].(map[string]any); ok {
		r := &reader{m: a, out: map[string]string{}}
		key := r.key("login")
		when := Stamp{OccurredAt: r.when(m, true)}
		gone, _ := a["gone"].(bool)
		r.required("number")
		if !gone {
			r.claim("email", "email", lower)
			r.claim("tier", "tier", tier)
			r.claim("tags", "tags", stringsOf)
			r.claim("risk", "risk", integer)
			r.claim("score", "score", integer)
			r.claim("status", "status", state)
		}
		out = append(out, r.signal(account, key, when, gone))
		if r.err != nil {
			return nil, r.err
		}
	}
	items, _ := m["devices"].([]any)
	for _, x := range items {
		item, ok := x.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("a device that is no object")
		}
		r := &reader{m: item, out: map[string]string{}}
		key := r.key("id")
		when := Stamp{OccurredAt: r.when(item, true)}
		gone, _ := item["gone"].(bool)
		r.required("site")
		r.required("label")
		if !gone {
			r.claim("owner", "owner", str)
			r.claim("reading", "reading", integer)
			r.claim("mileage", "mileage", integer)
		}
		out = append(out, r.signal(device, key, when, gone))
		if r.err != nil {
			return nil, r.err
		}
	}
	return out, nil
}
